"""Reading the files of class folders with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def decode(path: Path) -> np.ndarray:
    """One patch, (96, 96, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def downsample(path: Path) -> np.ndarray:
    """One patch shrunk as the notebook has it, (32, 32, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.NEAREST))


def labelled_files(folder: Path) -> list[tuple[Path, int]]:
    """The files of the class folders `0` and `1` with their labels."""
    return [(path, label) for label in (0, 1) for path in sorted((folder / str(label)).iterdir())]


def read_small(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All patches of class folders, shrunk, (N, 32, 32, 3) uint8, and their labels, (N,)."""
    files = labelled_files(folder)
    return np.stack([downsample(path) for path, _ in files]), np.array([label for _, label in files])
