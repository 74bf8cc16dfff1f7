"""Seeded batches: the g-th batch of a run is the same however often training was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sentinode.inputs.preprocess import Prepared
from sentinode.randomness import Purpose

_LARGEST_SEED: Final = 2**63 - 1
_STRIDE: Final = 0x9E3779B97F4A7C15  # odd, so that no two batches of a run share a seed


@dataclass(frozen=True, eq=False)
class Batch:
    """B patches: images (B, 3, s, s) uint8 in channels-last memory, labels (B,) float, rows in the stream.

    targets: (B,) float in [0, 1], what is learned of each: its label, or what a teacher says.
    """

    images: UInt8[Tensor, "b 3 s s"]
    labels: Float[Tensor, " b"]
    targets: Float[Tensor, " b"]
    rows: Int[np.ndarray, " b"]


class BatchStream:
    """An endless stream of batches, pass after pass, each pass in an order of its own.

    Like a Keras generator it runs on over epochs: with fewer steps than a pass, the next epoch goes
    on where the last one stopped. Batch g depends on the seed and on g alone, so nothing needs to be
    stored to resume. The last batch of a pass may be smaller.
    """

    def __init__(
        self,
        prepared: Prepared,
        labels: Int[np.ndarray, " n"],
        targets: Float[np.ndarray, " n"] | None = None,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        """`targets`: what is learned of each patch, in [0, 1] (default: its label)."""
        if len(prepared) != len(labels) or not len(labels):
            raise ValueError(f"{len(prepared)} patches and {len(labels)} labels do not make batches")
        self.prepared, self.labels = prepared, torch.from_numpy(labels.astype(np.float32))
        self.targets = self.labels if targets is None else torch.from_numpy(targets.astype(np.float32))
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self._order_of_pass = lru_cache(maxsize=2)(self._draw_order)
        self._augmentation_seed = Purpose.AUGMENTATION.seed(seed)

    def __len__(self) -> int:
        """Patches in a pass."""
        return len(self.labels)

    @property
    def batches_per_pass(self) -> int:
        return -(-len(self) // self.batch_size)

    def batch(self, number: int) -> Batch:
        """The batch of that number, counted from 0 since the start of the run."""
        turn, at = divmod(number, self.batches_per_pass)
        rows = self._order_of_pass(turn)[at * self.batch_size : (at + 1) * self.batch_size]
        images = torch.from_numpy(self.prepared[rows]).permute(0, 3, 1, 2)
        of_batch = torch.from_numpy(rows)
        return Batch(images, self.labels[of_batch], self.targets[of_batch], rows)

    def augmentation_generator(self, number: int) -> torch.Generator:
        """A generator that belongs to one batch alone."""
        return torch.Generator().manual_seed((self._augmentation_seed + number * _STRIDE) & _LARGEST_SEED)

    def _draw_order(self, turn: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self))
        return np.random.default_rng(Purpose.ORDER.parts(self.seed, then=(turn,))).permutation(len(self))
