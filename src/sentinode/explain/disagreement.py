"""The patches on which two models, or the seeds of one model, say different things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sentinode.errors import RunError
from sentinode.inference.predictions import Predictions


@dataclass(frozen=True)
class Disagreement:
    """A patch and what each member said of it, in the order of the members.

    `spread` is the difference of two models' probabilities, or the standard deviation over seeds
    (that of these seeds, divided by their number).
    """

    id: str
    label: int
    probabilities: tuple[float, ...]
    spread: float


def between_models(a: Predictions, b: Predictions, count: int) -> list[Disagreement]:
    """Up to `count` patches on opposite sides of 0.5, the largest difference first.

    Raises RunError where the two are predictions of different patches, as `between_seeds` does.
    """
    probabilities = _side_by_side([a, b])
    said = probabilities > 0.5
    return _largest(a, probabilities, np.abs(probabilities[0] - probabilities[1]), count, said[0] != said[1])


def between_seeds(members: Sequence[Predictions], count: int) -> list[Disagreement]:
    """Up to `count` patches on which at least two seeds differ, the largest standard deviation first."""
    if len(members) < 2:
        raise RunError("one seed cannot disagree with itself", remedy="Train at least two seeds.")
    probabilities = _side_by_side(members)
    return _largest(
        members[0],
        probabilities,
        probabilities.std(axis=0),
        count,
        probabilities.min(axis=0) < probabilities.max(axis=0),
    )


def _side_by_side(members: Sequence[Predictions]) -> Float[np.ndarray, "m n"]:
    if any(not np.array_equal(members[0].ids, other.ids) for other in members[1:]):
        raise RunError("predictions of different patches cannot be compared", remedy="Predict the same folder.")
    return np.stack([member.probabilities for member in members])


def _largest(
    patches: Predictions,
    probabilities: Float[np.ndarray, "m n"],
    spread: Float[np.ndarray, " n"],
    count: int,
    candidates: np.ndarray,
) -> list[Disagreement]:
    rows: Int[np.ndarray, " k"] = np.flatnonzero(candidates)
    rows = rows[np.argsort(-spread[rows], kind="stable")[:count]]
    return [
        Disagreement(
            str(patches.ids[row]), int(patches.labels[row]), tuple(probabilities[:, row].tolist()), float(spread[row])
        )
        for row in rows
    ]
