"""The written conclusion: numbers and records in, sentences out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from sentinode.evaluation.metrics import METRIC_NAMES, gain
from sentinode.experiments.comparison import Comparison, Difference, Variant
from sentinode.report.tables import mean_and_spread

NO_CLINIC = (
    "Research software: nothing here is a diagnosis, and no score here says how a network does on another "
    "hospital's slides."
)


def in_words(difference: Difference) -> str:
    """The comparison's own words, with names that stand out in a sentence."""
    name = METRIC_NAMES.get(difference.metric, difference.metric)
    quoted = replace(difference, a=f"“{difference.a}”", b=f"“{difference.b}”", metric=name)
    return quoted.in_words()


def seen(comparison: Comparison, metrics: Sequence[str]) -> list[str]:
    """Every later variant against the first, in each metric."""
    return [in_words(difference) for metric in metrics for difference in comparison.differences(metric)]


def spread(comparison: Comparison, metric: str) -> str:
    """How far the variants' means lie apart, beside how far the seeds of one variant do."""
    name = METRIC_NAMES[metric]
    means = [variant.mean(metric) for variant in comparison.variants]
    between = max(means) - min(means)
    if len(comparison.seeds) == 1:
        return (
            f"Variants differ by up to {between:.4f} in {name}, one run each. How much two seeds of one variant differ "
            "was not measured."
        )
    within = max(float(np.ptp(variant.scores(metric))) for variant in comparison.variants)
    told = f"Variants differ by up to {between:.4f} in mean {name}; seeds of the same variant by up to {within:.4f}."
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
        "The training accuracies are the same for every momentum because they must be: in training, batch "
        "normalisation uses the mean and deviation of the batch itself. The momentum only sets how fast the running "
        "averages follow, and those are used in validation."
    )


def chosen_by(questions: Collection[str], metric: str) -> str:
    """What a study's variant was chosen by: an audit of splits alone chooses by trust, not by score."""
    if set(questions) == {"leak"}:
        return "was split in the way that can be trusted"
    best = "highest" if gain(metric) > 0 else "lowest"
    return f"has the {best} mean validation {METRIC_NAMES[metric]}"


def chosen(variant: Variant, metric: str, submission_rows: int, *, by: str) -> str:
    """`by` says what it was chosen by: its score or its split."""
    score = mean_and_spread(variant.distinct_scores(metric))
    if submission_rows:
        runs = "its run" if len(variant.runs) == 1 else f"its {len(variant.runs)} runs, averaged"
        purpose = f"The submission of {submission_rows:,} rows was made with “{variant.name}”: {runs}"
    else:
        purpose = f"ROC curve, confusion matrix and mistakes below are of “{variant.name}”"
    metric_name = METRIC_NAMES[metric]
    return (
        f"{purpose}. It {by}; its validation {metric_name} is {score}. This picks a model; it does not mean that the "
        "model is better."
    )
