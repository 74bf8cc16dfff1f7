"""Fitting a blend's weights: on all patches, or for each patch on the patches of other clusters.

Labels must be known (0 or 1) throughout. Apart from the blend, because fitting takes SciPy, for which a prediction need
not wait.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import LinearConstraint, minimize
from scipy.special import expit

from sentinode.errors import DataError
from sentinode.evaluation.blend import blend, blend_logits, equal_weights

_NOTHING: Final = 1e-6


def fit_weights(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n members"]
) -> Float[np.ndarray, " members"]:
    """The weights of least log loss, none below 0, that sum to 1; raises DataError where a class is absent.

    The loss is convex; a weight below 1e-6, which moves no logit by more than 2e-5, is 0. Where several weights are as
    good, as for equal members, those nearest to equal are likely: the search begins there.
    """
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
