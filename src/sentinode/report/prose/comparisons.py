"""Sentences about variants: how far they lie apart, and by what one was chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from sentinode.evaluation.metrics import METRIC_NAMES, gain
from sentinode.report.sections.tables import number
from sentinode.runs.variant import Variant
from sentinode.studies.comparison import Comparison


def spread(variants: Sequence[Variant], metric: str) -> str:
    """How far the variants' means lie apart, beside how far the seeds of one variant do."""
    name = METRIC_NAMES[metric]
    if len(variants) == 1 and len(variants[0].repeats) == 1:
        return f"One variant, one run: its {name} is {number(variants[0].mean(metric), 3)}."
    means = [variant.mean(metric) for variant in variants]
    between = max(means) - min(means)
    if len(variants[0].repeats) == 1:
        return f"Variants differ by up to {between:.3f} in {name}, one run each; the spread between seeds is not known."
    within = max(float(np.ptp(variant.scores(metric))) for variant in variants)
    if len(variants) == 1:
        return f"Seeds of this variant differ by up to {within:.3f} in {name}."
    told = f"Variants differ by up to {between:.3f} in mean {name}; seeds of the same variant by up to {within:.3f}."
    return f"{told} Seeds matter as much as variants here." if within >= between else told


def same_training(comparison: Comparison) -> str | None:
    """Why table 2 shows one training accuracy several times; None where it does not."""
    if any(variant.blends for variant in comparison.variants):
        return None
    keys = {key for variant in comparison.variants for key in variant.settings}
    last = {
        tuple(float(run.history["training_accuracy"].iloc[-1]) for run in variant.runs)
        for variant in comparison.variants
    }
    if keys != {"model.bn_momentum"} or len(comparison.variants) < 2 or len(last) > 1:
        return None
    return (
        "Training accuracy is the same for every momentum, as it must be: in training, batch normalisation uses the "
        "mean and standard deviation of the batch. The momentum only affects the running averages, which are used in "
        "validation."
    )


def chosen_by(questions: Collection[str], metric: str) -> str:
    """What a study's variant was chosen by: an audit of splits alone chooses by trust, not by score."""
    if set(questions) == {"leak"}:
        return "was trained on the split that can be trusted"
    best = "highest" if gain(metric) > 0 else "lowest"
    return f"has the {best} mean validation {METRIC_NAMES[metric]}"
