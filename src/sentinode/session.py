"""Where and with what the work is done: cache, device, workers, threads, and who hears of progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sentinode.engine.engine import Engine
from sentinode.errors import ConfigError
from sentinode.machine import default_cache
from sentinode.processes import ALONE, Processes
from sentinode.progress import Progress, silent

if TYPE_CHECKING:
    import torch


def _best_device() -> torch.device:
    from sentinode.device import choose_device  # here: what only reads data does not wait for PyTorch

    return choose_device()


@dataclass(frozen=True)
class Session:
    """Where and with what the work is done; results do not depend on it, except for rounding.

    `workers` read and check images. `threads` compute: those of PyTorch, of the compiled loops and of NumPy's and
    scikit-learn's linear algebra. They belong to the whole process, so a session that names a number sets it when it
    is made; with None they stay as they are. `machine.free_processors()` is what the command line takes.

    `runtime` says what computes the networks of a finished model that predicts or is evaluated: what `cache_root` keeps
    as the fastest for it on this processor, or PyTorch. Training, and what it rests on, is PyTorch's alone.

    `engine` does what is many: the runs of a study, the members of an ensemble, slides, blocks of patches. Without one
    this process does them, one after the other.
    """

    cache_root: Path = field(default_factory=default_cache)
    device: torch.device = field(default_factory=_best_device)
    workers: int = 2
    progress: Progress = silent
    notify: Callable[[str], None] = lambda _: None
    processes: Processes = ALONE
    threads: int | None = None
    runtime: str = "fastest"
    engine: Engine | None = None

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            from sentinode.device import compute_exactly

            compute_exactly(self.device)
        if self.runtime not in ("fastest", "pytorch"):
            raise ConfigError(f"unknown runtime {self.runtime!r}", where="runtime", remedy="Give fastest or pytorch.")
        if self.threads is not None:
            from sentinode.device import use_threads

            use_threads(self.threads)
