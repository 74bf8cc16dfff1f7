"""What a comparison amounts to: intervals that respect slides, and a verdict on every variant against the first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from sentinode.config import StudyConfig
from sentinode.data.batches import derive_seed
from sentinode.evaluation.bootstrap import METRICS, Interval, bootstrap
from sentinode.evaluation.verdict import Question, Verdict, decide
from sentinode.experiments.compare import Comparison

METRIC_NAMES: Final = {"auc": "AUC", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Evidence:
    """Intervals by variant and metric, and verdicts; `clusters` slides or groups were drawn in each replicate."""

    clusters: int
    patches: int
    replicates: int
    intervals: dict[str, dict[str, Interval]]
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; an end that cannot be known (one slide alone) is null."""
        record: dict[str, Any] = _without_nan(asdict(self))
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Evidence:
        intervals = {
            variant: {metric: Interval(**_with_nan(interval)) for metric, interval in by_metric.items()}
            for variant, by_metric in record["intervals"].items()
        }
        verdicts = tuple(Verdict(**_with_nan(verdict, optional={"seeds_needed"})) for verdict in record["verdicts"])
        return cls(record["clusters"], record["patches"], record["replicates"], intervals, verdicts)


def weigh(comparison: Comparison, clusters_by_id: Mapping[str, str], config: StudyConfig) -> Evidence:
    """Bootstrap the validation predictions of all runs together; patches without a cluster stand for themselves."""
    first = comparison.variants[0].runs[0].predictions
    probabilities = np.array(
        [[run.predictions.probabilities for run in variant.runs] for variant in comparison.variants]
    )
    clusters = np.array([clusters_by_id.get(i, "") for i in first.ids.tolist()], dtype=str)
    rng = np.random.default_rng(derive_seed(config.seeds[0], *first.ids.shape))
    found = bootstrap(first.labels, probabilities, clusters, rng=rng, replicates=config.compare.replicates)
    metric = config.fit.metric
    column = found.metrics.index(metric)
    before, *others = comparison.variants
    questions = [
        Question(
            a=variant.name,
            b=before.name,
            metric=METRIC_NAMES[metric],
            interval=found.difference(row, 0, metric),
            replicates=_finite(found.values[:, row, column] - found.values[:, 0, column]),
            by_seed=variant.scores(metric) - before.scores(metric),
        )
        for row, variant in enumerate(others, start=1)
    ]
    return Evidence(
        clusters=found.clusters,
        patches=len(first),
        replicates=config.compare.replicates - found.left_out,
        intervals={
            variant.name: {name: found.interval(row, name) for name in METRICS}
            for row, variant in enumerate(comparison.variants)
        },
        verdicts=tuple(decide(questions, smallest_effect=config.compare.smallest_effect)),
    )


def _finite(values: np.ndarray) -> np.ndarray:
    finite: np.ndarray = values[np.isfinite(values)].astype(np.float64)
    return finite


def _without_nan(value: Any) -> Any:
    match value:
        case float() if not np.isfinite(value):
            return None
        case dict():
            return {key: _without_nan(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_without_nan(entry) for entry in value]
        case _:
            return value


def _with_nan(record: Mapping[str, Any], *, optional: Collection[str] = ()) -> dict[str, Any]:
    return {key: float("nan") if entry is None and key not in optional else entry for key, entry in record.items()}
