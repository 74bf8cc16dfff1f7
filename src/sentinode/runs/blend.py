"""What an ensemble blends, and by which weights, as a record; `ensemble` makes it.

blend.json stands in the folder of an ensemble. The weights in it are fitted on all validation patches, for use on new
ones; the ensemble's own predictions of these patches take weights that were fitted on other slides or groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sentinode.config import Weighting
from sentinode.errors import RunError
from sentinode.evaluation.blend import blend
from sentinode.inference.predictions import Predictions
from sentinode.records import Number, read_record

BLEND: Final = "blend.json"


@dataclass(frozen=True)
class Blend:
    """The weights of a blend and what its members score alone, by their names."""

    rule: Weighting
    """How the weights came about: "equal" also where they were to be fitted and could not be.

    "fitted": those of least log loss on the validation side, none of them below 0, that sum to 1. The probability is
    sigmoid(sum of weight * logit), after each member's is kept 1e-7 away from 0 and 1.
    """
    weights: dict[str, float]
    """Fitted on all validation patches."""
    fold_weights: dict[str, list[float]]
    """Fitted without each part of the validation side in turn, for that part's own predictions; [] if not fitted."""
    scores: dict[str, dict[str, Number]]
    """On the validation side."""

    def __post_init__(self) -> None:
        if not (min(self.weights.values()) >= 0 and abs(sum(self.weights.values()) - 1) < 1e-6):
            raise ValueError("the weights do not sum to 1")


def open_blend(folder: Path) -> Blend:
    """The blend of a finished ensemble; raises RunError where its folder holds none, or a damaged one."""
    return read_record(folder / BLEND, Blend)


def blended(members: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """The blend of the members' predictions; raises RunError where their patches differ."""
    first, *others = members
    if any(not np.array_equal(first.ids, other.ids) for other in others):
        raise RunError("predictions of different patches cannot be combined", remedy="Predict the same folder.")
    said = np.column_stack([member.probabilities for member in members])
    return Predictions(first.ids, first.labels, blend(said, np.array(weights)))
