"""A logistic head on the features of a frozen backbone: one fit for each strength of its penalty."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from sentinode.config.fit import HeadFitConfig
from sentinode.fitting.epochs import EpochRecord, Outputs
from sentinode.models.backbones.backbone import Backbone

_ITERATIONS = 1000


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """The patches of one set: features (n, d) and labels (n,), 0 or 1."""

    values: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]


def fit_head(
    network: Backbone, training: LabelledFeatures, validation: LabelledFeatures, config: HeadFitConfig, *, done: int = 0
) -> Iterator[EpochRecord]:
    """Fit the head once for each of `config.penalties`, from number `done` on; a record of each, as of an epoch.

    The head minimises mean cross-entropy + penalty / 2 |w|^2 over features that are centred and scaled by the training
    set's mean and deviation; both become part of the network. The bias goes free.
    """
    from sklearn.linear_model import LogisticRegression

    centre, scale = training.values.mean(axis=0), training.values.std(axis=0)
    scale = np.where(scale > 1e-6 * np.abs(centre) + 1e-12, scale, 1.0)  # a feature that never varies says nothing
    inputs = [(features.values - centre) / scale for features in (training, validation)]
    for number in range(done, len(config.penalties)):
        started = time.perf_counter()
        strength = 1 / (config.penalties[number] * len(training.labels))
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(inputs[0], training.labels)
        with torch.no_grad():
            network.centre.copy_(torch.from_numpy(centre))
            network.scale.copy_(torch.from_numpy(scale))
            network.head.weight.copy_(torch.from_numpy(model.coef_))
            network.head.bias.copy_(torch.from_numpy(model.intercept_))
        duration_s = time.perf_counter() - started
        said = [model.decision_function(values).astype(np.float32) for values in inputs]
        yield EpochRecord(
            epoch=number + 1,
            training=_outputs(training.labels, said[0]),
            validation=_outputs(validation.labels, said[1]),
            duration_s=duration_s,
            patches_per_s=len(training.labels) / duration_s,
        )


def _outputs(labels: Int[np.ndarray, " n"], logits: Float[np.ndarray, " n"]) -> Outputs:
    losses = np.logaddexp(0.0, logits.astype(np.float64)) - labels * logits
    return Outputs(float(losses.mean()), labels, logits)
