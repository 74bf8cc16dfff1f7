"""What a long step tells its caller: the step's name, how much is done, how much there is, and how it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

ALL_RUNS: Final = "runs"
"""The step that all the runs of a study are parts of; it counts runs, and the others go on within it."""

StepProgress = Callable[[int, int], None]
"""What one step tells, called as on_progress(done, total)."""


@runtime_checkable
class Progress(Protocol):
    """Called as progress(step, done, total, note); a step is over when done equals total.

    `note` is a few words on how it goes, such as an epoch's scores; "" leaves standing what was said before.
    """

    def __call__(self, step: str, done: int, total: int, note: str = "", /) -> None: ...


def silent(_step: str, _done: int, _total: int, _note: str = "", /) -> None:
    """A Progress that tells nobody."""


def of_step(progress: Progress, step: str) -> StepProgress:
    """A Progress bound to one step's name."""
    return lambda done, total: progress(step, done, total)
