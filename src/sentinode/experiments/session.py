"""Where and with what the work is done: cache, device, workers, and who hears of progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import torch

from sentinode.fitting.processes import ALONE, Processes
from sentinode.inference.device import choose_device
from sentinode.progress import Progress, silent


def default_cache() -> Path:
    """The user's cache folder for packed patches."""
    return Path(platformdirs.user_cache_dir("sentinode", appauthor=False))


@dataclass(frozen=True)
class Session:
    """Where and with what the work is done; no result depends on it, rounding apart."""

    cache_root: Path = field(default_factory=default_cache)
    device: torch.device = field(default_factory=choose_device)
    workers: int = 2
    progress: Progress = silent
    notify: Callable[[str], None] = lambda _: None
    processes: Processes = ALONE
