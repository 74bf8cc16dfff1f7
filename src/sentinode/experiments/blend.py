"""What an ensemble blends, and by which weights, as a record; `ensemble` makes it.

blend.json stands in the folder of an ensemble. The weights in it are fitted on all validation patches, for use on new
ones; the ensemble's own predictions of these patches take weights that were fitted on other slides or groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from pydantic import TypeAdapter

from sentinode.config import Weighting
from sentinode.errors import RunError
from sentinode.evaluation.blend import SMALLEST, blend
from sentinode.files import read_record
from sentinode.inference.probabilities import Predictions

BLEND: Final = "blend.json"
_ANY_RECORD: Final = TypeAdapter(dict[str, Any])
_RULES: Final[dict[Weighting, str]] = {
    "fitted": "sigmoid(sum of weight * logit), with the weights of lowest log loss on the validation set, none of them "
    "below 0, that sum to 1",
    "equal": "sigmoid(mean of the logits)",
}


@dataclass(frozen=True)
class Blend:
    """The weights of a blend and what its members score alone, by their names."""

    rule: Weighting
    """How the weights came about: "equal" also where they were to be fitted and could not be."""
    weights: dict[str, float]
    """Fitted on all validation patches."""
    fold_weights: dict[str, list[float]]
    """Fitted without each part of the validation side in turn, for that part's own predictions; [] if not fitted."""
    scores: dict[str, dict[str, float]]
    """On the validation side."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rule_in_words": _RULES[self.rule], "probabilities_kept_from_0_and_1_by": SMALLEST}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Blend:
        """What `to_json` gave; raises KeyError, TypeError or ValueError for anything else."""
        weights = {str(name): float(weight) for name, weight in record["weights"].items()}
        if not (min(weights.values()) >= 0 and abs(sum(weights.values()) - 1) < 1e-6):
            raise ValueError("the weights do not sum to 1")
        if record["rule"] not in get_args(Weighting):
            raise ValueError(f"unknown rule {record['rule']!r}")
        return cls(record["rule"], weights, dict(record["fold_weights"]), dict(record["scores"]))


def open_blend(folder: Path) -> Blend:
    """The blend of a finished ensemble; raises RunError where its folder holds none, or a damaged one."""
    path = folder / BLEND
    try:
        return Blend.from_json(read_record(path, _ANY_RECORD))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RunError(
            f"is not a record of weights ({error})", where=path, remedy="Restore it, or build the ensemble again."
        ) from error


def blended(members: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """The blend of the members' predictions; raises RunError where their patches differ."""
    first, *others = members
    if any(not np.array_equal(first.ids, other.ids) for other in others):
        raise RunError("predictions of different patches cannot be combined", remedy="Predict the same folder.")
    said = np.column_stack([member.probabilities for member in members])
    return Predictions(first.ids, first.labels, blend(said, np.array(weights)))
