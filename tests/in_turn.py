"""An engine for tests that does each task in this process, of what it was sent as JSON and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sentinode.engine.engine import Attempts, Board, Watch
from sentinode.engine.task import Desk, Outcome, Task, do


class InTurn:
    def __init__(self) -> None:
        self.sent: list[Task] = []

    def run(self, tasks: Iterable[Task], watch: Watch) -> Iterator[Outcome]:
        attempts, board = Attempts(iter(tasks), pause_s=0), Board(watch, tasks)
        while task := attempts.next():
            self.sent.append(Task.from_json(task.to_json()))
            board.begun(task)
            outcome = attempts.outcome(task, do(self.sent[-1], self._desk(self.sent[-1], watch, board)))
            board.ended(task, outcome)
            if outcome:
                yield outcome

    def _desk(self, task: Task, watch: Watch, board: Board) -> Desk:
        return Desk(
            threads=1,
            device="cpu",
            tell=lambda message: board.told(task, message),
            ask=lambda message: watch.row(task, message["row"]),
            place=lambda group, name: Path(task.files[group][name]),
        )
