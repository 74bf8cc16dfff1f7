"""What a comparison amounts to: intervals that respect slides, and a verdict on every variant against the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from sentinode.config.study import CompareConfig
from sentinode.evaluation.bands import Bands, curve_bands
from sentinode.evaluation.bootstrap import Interval, Replicates, bootstrap
from sentinode.evaluation.clusters import CLUSTER_NAMES, ClassClusters, ClusterKind
from sentinode.evaluation.independent import delong, mcnemar
from sentinode.evaluation.metrics import METRIC_NAMES, OwnMetric
from sentinode.evaluation.verdict import Question, Verdict, decide
from sentinode.randomness import Purpose
from sentinode.records import Number
from sentinode.runs.variant import R, Variant
from sentinode.studies.comparison import Comparison, Source

_THRESHOLD: Final = 0.5


@dataclass(frozen=True)
class IndependentTests:
    """DeLong's and McNemar's p-values of `a` against `b`, a pair of runs each; they take patches as independent.

    A sign says who did better: positive where `a` has the higher AUC, or is right more often.
    """

    a: str
    b: str
    delong: tuple[Number, ...]
    mcnemar: tuple[Number, ...]

    @classmethod
    def of(cls, a: Variant[R], b: Variant[R]) -> IndependentTests:
        pairs = [(run.predictions, other.predictions) for run, other in zip(a.runs, b.runs, strict=True)]
        return cls(
            a.name,
            b.name,
            tuple(delong(p.labels, p.probabilities, q.probabilities) for p, q in pairs),
            tuple(mcnemar(p.labels, p.probabilities > _THRESHOLD, q.probabilities > _THRESHOLD) for p, q in pairs),
        )


@dataclass(frozen=True)
class Evidence:
    """Intervals and curves by variant, verdicts, and the tests that others would print.

    `clusters` slides, or what stands in for them (`cluster_kind`), were drawn in each of the `replicates`; `by_class`
    tells how many of them hold a class, and as how many equal ones they count. `seeds` of the `seeds_run` differ in
    their networks or their split, in what `varied` names; `folds` is 1 where every seed has a single split.
    """

    clusters: int
    cluster_kind: ClusterKind
    by_class: tuple[ClassClusters, ...]
    patches: int
    replicates: int
    seeds: int
    seeds_run: int
    varied: tuple[Source, ...]
    folds: int
    intervals: dict[str, dict[str, Interval]]
    verdicts: tuple[Verdict, ...]
    independent: tuple[IndependentTests, ...]
    curves: dict[str, Bands]
    own_verdicts: tuple[Verdict, ...] = ()
    """Differences in metrics of the user's own, with a verdict where one was asked for."""


def weigh(
    comparison: Comparison[R],
    clusters: Mapping[str, str],
    kind: ClusterKind,
    config: CompareConfig,
    *,
    same_split: bool = True,
    own: Mapping[str, OwnMetric] | None = None,
) -> Evidence:
    """Bootstrap the validation predictions of all runs together; patches without a cluster stand for themselves.

    Variants of a leak audit (`same_split` false) have no run pairs on the same patches, so no independent tests.
    `own` are metrics of the user's own.
    """
    labels = comparison.variants[0].repeats[0].predictions.labels
    probabilities = np.array(
        [[repeat.predictions.probabilities for repeat in variant.repeats] for variant in comparison.variants]
    )
    folds = np.array([[repeat.parts for repeat in variant.repeats] for variant in comparison.variants])
    names = np.array([clusters.get(i, "") for i in comparison.ids.tolist()], dtype=str)

    def rng(purpose: Purpose, variant: int = 0) -> np.random.Generator:
        return purpose.rng(comparison.seeds[0], len(labels), then=(variant,))

    found = bootstrap(
        labels,
        probabilities,
        names,
        rng=rng(Purpose.DIFFERENCES),
        replicates=config.replicates,
        parts=folds if comparison.folds > 1 else None,
        unit=CLUSTER_NAMES[kind],
        own=own or {},
    )
    answers = decide(_questions(found, comparison), smallest_effect=config.smallest_effect)
    first, *others = comparison.variants
    return Evidence(
        clusters=found.clusters,
        cluster_kind=kind,
        by_class=found.weakest.classes,
        patches=len(labels),
        replicates=config.replicates - found.left_out,
        seeds=len(comparison.seeds),
        seeds_run=len(comparison.seeds) + len(comparison.repeated_seeds),
        varied=comparison.varied,
        folds=comparison.folds,
        intervals={
            variant.name: {name: found.interval(row, name) for name in found.metrics}
            for row, variant in enumerate(comparison.variants)
        },
        verdicts=tuple(answers[: len(others)]),
        independent=tuple(IndependentTests.of(variant, first) for variant in others) if same_split else (),
        curves={
            variant.name: curve_bands(
                labels,
                probabilities[row],
                names,
                rng=rng(Purpose.VARIANT_CURVES, row),
                parts=folds[row] if comparison.folds > 1 else None,
            )
            for row, variant in enumerate(comparison.variants)
        },
        own_verdicts=tuple(answers[len(others) :]),
    )


def _questions(found: Replicates, comparison: Comparison[R]) -> list[Question]:
    """In the metric that decides, every variant against the first; then in each of the user's own."""
    first, *others = comparison.variants
    return [
        Question(
            a=variant.name,
            b=first.name,
            metric=METRIC_NAMES.get(metric, metric),
            gain=found.gain(metric),
            asked=metric not in found.own or found.own[metric].verdict,
            interval=found.difference(row, 0, metric),
            by_seed=found.of_seeds(row, metric) - found.of_seeds(0, metric),
            seeds_run=len(comparison.seeds) + len(comparison.repeated_seeds),
            same=variant.same_as(first),
        )
        for metric in (comparison.metric, *found.own)
        for row, variant in enumerate(others, start=1)
    ]
