"""Blends: the probabilities of several networks, made into one by weights on their logits.

Weights are equal, or fitted on patches of known labels (0 or 1): on all, or for each patch on those of other clusters.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Int

from sentinode.errors import DataError

SMALLEST: Final = 1e-7
"""Nearer to 0 and 1 than this a network's float32 cannot tell probabilities apart, and its logit is rounding."""
_NOTHING: Final = 1e-6


def blend(
    probabilities: Float[np.ndarray, "n members"], weights: Float[np.ndarray, " members"]
) -> Float[np.ndarray, " n"]:
    """sigmoid(sum of weight * logit) over the members; probabilities count as 1e-7 away from 0 and 1."""
    told = blend_logits(probabilities)
    # A matrix of one row is multiplied in another order than one of several: a patch alone is blended as two.
    sums = (np.repeat(told, 2, axis=0) @ weights)[:1] if len(told) == 1 else told @ weights
    # By hand, for SciPy's logit and expit take long to import; logits end at 16, so nothing overflows.
    return np.asarray(1 / (1 + np.exp(-sums)))


def blend_logits(probabilities: Float[np.ndarray, "n members"]) -> Float[np.ndarray, "n members"]:
    """log(p / (1 - p)), at most 16.1 from 0: else one member that says 1 would outvote all others."""
    p = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(p) - np.log1p(-p))


def equal_weights(members: int) -> Float[np.ndarray, " members"]:
    return np.full(members, 1 / members)


def fit_weights(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n members"]
) -> Float[np.ndarray, " members"]:
    """The weights of least log loss, none below 0, that sum to 1; raises DataError where a class is absent.

    The loss is convex; a weight below 1e-6, which moves no logit by more than 2e-5, is 0. Where several weights are as
    good, as for equal members, those nearest to equal are likely: the search begins there.
    """
    from scipy.optimize import LinearConstraint, minimize  # here: a prediction does not need SciPy
    from scipy.special import expit

    if len(np.unique(labels)) < 2:
        raise DataError("fitted weights need patches of both classes", remedy="Use equal weights.")
    # The logit of the true label: its log loss is log(1 + exp(-x)), which never overflows.
    true_logits = blend_logits(probabilities) * np.where(labels == 1, 1.0, -1.0)[:, None]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        x = true_logits @ weights
        return float(np.logaddexp(0.0, -x).mean()), -(expit(-x) @ true_logits) / len(x)

    members = probabilities.shape[1]
    found = minimize(
        loss,
        equal_weights(members),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * members,
        constraints=LinearConstraint(np.ones((1, members)), 1.0, 1.0),
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = np.where(found.x < _NOTHING, 0.0, found.x)
    return np.asarray(weights / weights.sum(), np.float64)


def cross_blend(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n members"], folds: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "folds members"]]:
    """Blend each patch by weights fitted on the other folds only, such as those of `cross_folds`.

    Returns the blended probabilities and each fold's weights. Raises DataError where the rest of a fold has one class
    only.
    """
    blended, weights = np.empty(len(labels)), []
    for held_out in np.unique(folds):
        inside = folds == held_out
        weights.append(fit_weights(labels[~inside], probabilities[~inside]))
        blended[inside] = blend(probabilities[inside], weights[-1])
    return blended, np.array(weights)
