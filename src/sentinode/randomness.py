"""What numbers are drawn for: every purpose that derives its seed from another one, in one list.

The other draws take a setting as their seed: `balance.seed`, `sample.seed`, `split.seed`, and `tune.seed` for the order
of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import numpy as np

_LARGEST_SEED: Final = 2**63 - 1


class Purpose(Enum):
    """A purpose and the numbers that stand for it in a seed; they never change, or no result could be repeated."""

    INITIAL_WEIGHTS = "the weights that a run begins with", 0
    WHILE_TRAINING = ("what a network itself draws in training",)
    ORDER = "the order of a pass over the training set", 0
    VALIDATION_ORDER = "the order of passes over a part of the validation set", 1
    AUGMENTATION = "the augmentation of a batch", 1
    COPIES = "the augmented copies that features are computed of", 4
    CROSS_FITTING = "the folds that calibration maps and thresholds are scored on", 2, 0
    RELIABILITY = "the band of a reliability diagram", 2, 1
    OWN_METRICS = "the intervals of a run's metrics of the user's own", 2, 9
    BLEND_FOLDS = "the folds that an ensemble's weights are fitted without", 3
    SCORES = "the intervals of one model's scores", 4, 0
    POINTS = "the intervals of its operating points", 4, 1
    CURVES = "the bands of its curves", 4, 2
    AGREEMENT = "the band of its reliability diagram on other patches", 4, 3
    DIFFERENCES = "the intervals and verdicts of a comparison", 0
    VARIANT_CURVES = "the bands of a variant's curves", 1
    MADE_UP_PATCHES = "the patches that an export is tried on, where no data are given", 5
    CONCEPTS = "the folds, replicates and intervals of what concepts explain", 7, 0
    EXAM = "which patches examine a method of attribution, random orders and shuffled weights", 6
    LOOK = "the intervals of what a network looks at, and its pairs of patches", 7, 1
    TRIAL = ("a setting of a trial",)

    def __init__(self, what: str, *numbers: int) -> None:
        self.what, self.numbers = what, numbers

    def parts(self, *of: int, then: Sequence[int] = ()) -> list[int]:
        """The numbers that a seed is made of: whose it is, the purpose, and which of several."""
        return [*of, *self.numbers, *then]

    def seed(self, *of: int, then: Sequence[int] = ()) -> int:
        """A seed, below 2^63, from `parts`."""
        mixed = np.random.SeedSequence(self.parts(*of, then=then)).generate_state(1, np.uint64)
        return int(mixed[0]) & _LARGEST_SEED

    def rng(self, *of: int, then: Sequence[int] = ()) -> np.random.Generator:
        return np.random.default_rng(self.seed(*of, then=then))
