"""Blends: the probabilities of several networks, made into one by weights on their logits.

`blend_fit` fits the weights; here they are applied.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

SMALLEST: Final = 1e-7
"""Nearer to 0 and 1 than this a network's float32 cannot tell probabilities apart, and its logit is rounding."""


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
