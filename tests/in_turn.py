"""An engine for tests that does each task in this process, of what it was sent as JSON and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sentinode.engine.engine import Attempts, Board, Watch
from sentinode.engine.task import Desk, EngineTask, TaskOutcome, do


class InTurn:
    def __init__(self) -> None:
        self.sent: list[EngineTask] = []

    def run(self, tasks: Iterable[EngineTask], watch: Watch) -> Iterator[TaskOutcome]:
        attempts, board = Attempts(iter(tasks), pause_s=0), Board(watch, tasks)
        while task := attempts.next():
            self.sent.append(EngineTask.from_json(task.to_json()))
            board.begun(task)
            outcome = attempts.outcome(task, do(self.sent[-1], self._desk(self.sent[-1], watch, board)))
            board.ended(task, outcome)
            if outcome:
                yield outcome

    def _desk(self, task: EngineTask, watch: Watch, board: Board) -> Desk:
        return Desk(
            threads=1,
            device="cpu",
            tell=lambda message: board.told(task, message),
            ask=lambda message: watch.row(task, message["row"]),
            place=lambda group, name: Path(task.files[group][name]),
        )
