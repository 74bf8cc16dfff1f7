"""Patches whose label may be wrong, by confident learning (Northcutt et al. 2021, JAIR 70:1373).

A class's threshold is the mean probability that the patches labelled so have for it. A patch that
reaches the other class's threshold is counted as that class (of two reached, the more probable): the
counts by label and by class are the confident joint, and who lies off its diagonal is a suspect. The
probabilities must be out of fold: a network that was trained on a wrong label has learnt to agree with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sentinode.errors import DataError
from sentinode.inference.predictions import Predictions

_ROUNDING = 1e-6  # equal probabilities must reach their own mean


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """The rows of the suspects, the most suspect first, with what they were found by.

    `class_thresholds`: mean self-confidence of the classes 0 and 1. `confident_joint[given, counted]`:
    patches by label and by the class whose threshold they reach; patches that reach none are not counted.
    """

    class_thresholds: tuple[float, float]
    confident_joint: Int[np.ndarray, "2 2"]
    suspects: Int[np.ndarray, " k"]


def find_label_errors(out_of_fold: Predictions) -> LabelErrors:
    """Rank the patches whose out-of-fold probability speaks against their label, by how much it does.

    Unlabelled patches are passed over; raises DataError where a class is absent.
    """
    rows = np.flatnonzero(out_of_fold.labels >= 0)
    labels, positive = out_of_fold.labels[rows], out_of_fold.probabilities[rows]
    if len(np.unique(labels)) < 2:
        raise DataError(
            "label errors cannot be told from patches of one class", remedy="Give predictions of both classes."
        )
    by_class = np.stack([1 - positive, positive], axis=1)
    thresholds = np.array([by_class[labels == label, label].mean() for label in (0, 1)])
    reaches = by_class >= thresholds - _ROUNDING
    counted_as = np.where(reaches.all(axis=1), by_class.argmax(axis=1), reaches.argmax(axis=1))
    counted = reaches.any(axis=1)
    joint = np.zeros((2, 2), np.int64)
    np.add.at(joint, (labels[counted], counted_as[counted]), 1)
    margin = 2 * by_class[np.arange(len(labels)), labels] - 1
    suspects = np.flatnonzero(counted & (counted_as != labels))
    suspects = suspects[np.argsort(margin[suspects], kind="stable")]
    return LabelErrors((float(thresholds[0]), float(thresholds[1])), joint, rows[suspects])
