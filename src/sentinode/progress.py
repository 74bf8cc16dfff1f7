"""What a long step tells its caller: the step's name, how much is done, how much there is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as progress(step, done, total); a step is over when done equals total."""


def silent(_step: str, _done: int, _total: int) -> None:
    """A Progress that tells nobody."""


def of_step(progress: Progress, step: str) -> Callable[[int, int], None]:
    """A Progress bound to one step's name."""
    return lambda done, total: progress(step, done, total)
