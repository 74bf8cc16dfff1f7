"""An engine does many tasks: which is next, what failed and is tried again, and one view of how far all of them are.

Where tasks are done is the affair of `local.py`, in processes of this machine, and of `on_ray.py`. A session without an
engine does its work in its own process, one piece after the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from sentinode.artefacts import RUN_SEAL
from sentinode.engine.task import EngineTask, Failure, TaskOutcome
from sentinode.errors import TasksError, one_line
from sentinode.progress import Progress, silent

ATTEMPTS: Final = 3
PAUSE_S: Final = 5.0
"""Before a task is tried again; twice as long before the last time: what a lost process held is free by then."""
PATIENCE_S: Final = 60.0
"""As long a shared folder may take to show here what was written elsewhere."""
_SHOWN: Final = 6  # tasks whose own steps are shown beside the step of all


@dataclass(frozen=True, eq=False)
class Watch:
    """Who hears of many tasks: progress and notices, and, of each task, rows, which are answered: is it to go on?"""

    step: str
    """What all the tasks together are called."""
    progress: Progress = silent
    notify: Callable[[str], None] = lambda _: None
    row: Callable[[EngineTask, dict[str, Any]], bool] = lambda _task, _row: True
    done: int = 0
    """How many of the step were done before these tasks."""
    total: int | None = None
    """How many the step has (default: as many as there are tasks)."""


class Engine(Protocol):
    """Does tasks somewhere, several at a time."""

    def run(self, tasks: Iterable[EngineTask | None], watch: Watch) -> Generator[TaskOutcome, None, None]:
        """The outcome of every task, as they end; each is tried three times at most.

        The next task is asked of `tasks` when there is room for one, so what it is may depend on outcomes so far; None
        is said where it is not known yet. Where the caller stops asking, the tasks that are being done are stopped.
        """


@dataclass(eq=False)
class Attempts:
    """Which task is to be done next: new ones as they are asked for, and failed ones again after a pause."""

    tasks: Iterator[EngineTask | None]
    pause_s: float = PAUSE_S
    _again: deque[tuple[float, EngineTask]] = field(default_factory=deque)
    _failed: dict[str, int] = field(default_factory=dict)
    """How often, by the task's name."""
    _asked_all: bool = False

    def next(self) -> EngineTask | None:
        """A task that can be begun now."""
        if self._again and self._again[0][0] <= time.monotonic():
            return self._again.popleft()[1]
        if self._asked_all:
            return None
        try:
            return next(self.tasks)
        except StopIteration:
            self._asked_all = True
            return None

    @property
    def over(self) -> bool:
        """Whether nothing is left, but for what is being done."""
        return self._asked_all and not self._again

    def outcome(self, task: EngineTask, told: dict[str, Any]) -> TaskOutcome | None:
        """What a task's last message, as `task.do` returns it, amounts to; None where it will be tried again."""
        before = self._failed.get(task.name, 0)
        if told.get("stopped"):
            return TaskOutcome(task, attempts=before + 1, stopped=True)
        if "failed" not in told:
            return TaskOutcome(task, attempts=before + 1)
        self._failed[task.name] = before + 1
        failure = Failure(one_line(str(told["failed"])), bool(told.get("for_good")))
        if failure.for_good or before + 1 >= ATTEMPTS:
            return TaskOutcome(task, failure, before + 1)
        self._again.append((time.monotonic() + self.pause_s * 2**before, task))
        return None


class Board:
    """One view of all tasks: how many are done, doing and failed, and the own steps of a few that are being done."""

    def __init__(self, watch: Watch, tasks: Iterable[EngineTask | None]) -> None:
        self._watch, self._done, self._failed = watch, watch.done, 0
        self._count = watch.total or (len(tasks) if isinstance(tasks, Sequence) else None)
        self._doing: dict[str, dict[str, int]] = {}  # the totals of each task's open steps

    def begun(self, task: EngineTask) -> None:
        self._doing[task.name] = {}
        self._tell()

    def told(self, task: EngineTask, message: dict[str, Any]) -> None:
        """A task's message that needs no answer."""
        if "notice" in message:
            self._watch.notify(f"{task.name}: {message['notice']}")
        if "step" not in message or task.name not in [*self._doing][:_SHOWN]:
            return
        step, done, total, note = message["step"]
        steps = self._doing[task.name]
        if done >= total:
            steps.pop(step, None)
        else:
            steps[step] = total
        self._watch.progress(step, done, total, note)

    def ended(self, task: EngineTask, outcome: TaskOutcome | None) -> None:
        """Of an attempt; None where there will be another."""
        how = "failed" if outcome is None or outcome.failure else "stopped" if outcome.stopped else ""
        for step, total in self._doing.pop(task.name, {}).items():
            self._watch.progress(step, total, total, how)
        self._done += outcome is not None
        self._failed += outcome is not None and outcome.failure is not None
        if outcome is None:
            self._watch.notify(f"{task.name} failed, and is tried again")
        self._tell()

    def _tell(self) -> None:
        if self._count:
            words = [
                f"{len(self._doing)} at a time" if self._doing else "",
                f"{self._failed} failed" * bool(self._failed),
            ]
            self._watch.progress(self._watch.step, self._done, self._count, ", ".join(filter(None, words)))


def in_sight(outcome: TaskOutcome) -> TaskOutcome:
    """The outcome of a task, after its sealed folder came into sight; a failure where that does not happen."""
    folder, until = Path(outcome.task.given["out"]), time.monotonic() + PATIENCE_S
    while not (outcome.failure or outcome.stopped or (folder / RUN_SEAL).is_file()):
        if time.monotonic() > until:
            told = f"{folder}: is not to be seen here, though it is finished: --out must lie in a folder that is shared"
            return replace(outcome, failure=Failure(told))
        time.sleep(0.5)
        if folder.parent.is_dir():
            list(folder.parent.iterdir())  # so that a network's file system looks again
    return outcome


def require_done(outcomes: Iterable[TaskOutcome], *, where: Path) -> None:
    """Wait for all tasks; raises TasksError, with each reason, where any of them failed."""
    ended = list(outcomes)
    failed = [(found.task.name, found.attempts, found.failure.reason) for found in ended if found.failure]
    if failed:
        told = "; ".join(f"{name} ({'once' if n == 1 else f'{n} times'}) {why.rstrip('.')}" for name, n, why in failed)
        raise TasksError(
            f"{len(failed)} of {len(ended)} failed: {told}",
            where=where,
            remedy="The others are finished; correct that, and give the command again, with --resume if it has that.",
        )
