"""Binary cross-entropy of logits and its gradient: a batch is too small to be worth an operation for each part."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np

from sentinode.kernels.jit import compiled

Array = np.ndarray[Any, Any]


@compiled
def cross_entropy(logits: Array, labels: Array, losses: Array, gradient: Array) -> None:
    """Fill the loss of each patch, and the gradient of their mean; all arrays (N,)."""
    count = len(logits)
    for n in range(count):
        logit, label = logits[n], labels[n]
        decay = np.exp(-abs(logit))
        # max(z, 0) - z y + ln(1 + e^-|z|), which overflows for no z.
        losses[n] = (0 if logit < 0 else logit) - logit * label + np.log1p(decay)
        probability = (decay if logit < 0 else 1) / (1 + decay)
        gradient[n] = (probability - label) / count
