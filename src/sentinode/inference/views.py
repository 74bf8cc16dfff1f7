"""The views of a patch under which its probability is averaged: itself, or all 8 symmetries."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Shaped
from torch import Tensor

from sentinode.data.symmetry import SYMMETRIES, apply_symmetry


def views(images: Shaped[Tensor, "n 3 s s"], count: int) -> Iterator[Shaped[Tensor, "n 3 s s"]]:
    """The first `count` (1 or 8) symmetric views of a batch, the unturned one first."""
    if count not in (1, len(SYMMETRIES)):
        raise ValueError(f"views must be 1 or 8, not {count}")
    for symmetry in range(count):
        yield apply_symmetry(images, symmetry)
