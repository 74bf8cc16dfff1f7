"""Engines for tests that do each task in this process, of what they were sent as JSON and nothing else."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

from sentinode.engine.engine import Attempts, Board, Watch
from sentinode.engine.task import Desk, EngineTask, TaskOutcome, do


class InTurn:
    """Begins as many tasks as may be done `at_a_time`, and does the one that was begun last first."""

    def __init__(self, at_a_time: int = 1) -> None:
        self.sent: list[EngineTask] = []
        self._at_a_time = at_a_time

    def run(self, tasks: Iterable[EngineTask | None], watch: Watch) -> Generator[TaskOutcome, None, None]:
        attempts, board, doing = Attempts(iter(tasks), pause_s=0), Board(watch, tasks), list[EngineTask]()
        while True:
            while len(doing) < self._at_a_time and (task := attempts.next()):
                doing.append(EngineTask.from_json(task.to_json()))
                self.sent.append(doing[-1])
                board.begun(task)
            if not doing and attempts.over:
                return
            task = doing.pop()
            outcome = attempts.outcome(task, do(task, self._desk(task, watch, board)))
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
