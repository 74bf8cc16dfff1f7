"""Runs of the same settings under several seeds and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, Protocol

import numpy as np
from jaxtyping import Int
from typing_extensions import TypeVar  # typing's knows no default before Python 3.13

from sentinode.config.fit import Metric
from sentinode.config.run import Value
from sentinode.evaluation.clusters import ClusterKind
from sentinode.inference.predictions import Predictions, average
from sentinode.runs.decision import Decision, decide
from sentinode.runs.run import Run
from sentinode.runs.run_record import Seeded

if TYPE_CHECKING:
    from sentinode.evaluation.verdict import Sameness  # verdicts rest on SciPy, for which a prediction does not wait

_BEST_FIRST: Final[tuple[ClusterKind, ...]] = ("patient", "slide", "slide+stain", "slide+group", "stain", "group")


class ScoredRun(Protocol):
    """What a comparison needs of a run, and has of a table of predictions, too (`studies/tables.py`)."""

    @property
    def folder(self) -> Path: ...
    @property
    def seed(self) -> int: ...
    @property
    def metric(self) -> Metric: ...
    @property
    def predictions(self) -> Predictions: ...
    @property
    def scores(self) -> Mapping[str, float]: ...
    @property
    def training_ids(self) -> frozenset[str]: ...
    @property
    def weights_digest(self) -> str: ...
    @property
    def seeded(self) -> frozenset[Seeded]: ...


R = TypeVar("R", bound=ScoredRun, default=Run)


@dataclass(frozen=True, eq=False)
class Repeat(Generic[R]):
    """A variant under one seed: a single run, or one run for each fold of a cross-validation."""

    seed: int
    runs: tuple[R, ...]

    def score(self, metric: str) -> float:
        """The validation score; over folds their mean, for networks of different folds share no scale."""
        return float(np.mean([run.scores[metric] for run in self.runs]))

    @cached_property
    def predictions(self) -> Predictions:
        """Of all validation patches, in the order of their ids: out of fold where there are folds."""
        parts = [run.predictions for run in self.runs]
        ids = np.concatenate([part.ids for part in parts])
        order = np.argsort(ids)
        return Predictions(
            ids[order],
            np.concatenate([part.labels for part in parts])[order],
            np.concatenate([part.probabilities for part in parts])[order],
        )

    @cached_property
    def parts(self) -> Int[np.ndarray, " n"]:
        """The number of the run, from 0, that was validated on each patch of `predictions`."""
        parts = [run.predictions.ids for run in self.runs]
        number = np.repeat(np.arange(len(parts)), [len(ids) for ids in parts])
        return number[np.argsort(np.concatenate(parts))]

    @cached_property
    def networks(self) -> tuple[str, ...]:
        """Digests of what it trained, run by run."""
        return tuple(run.weights_digest for run in self.runs)

    @cached_property
    def split(self) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
        """Training and validation ids, run by run."""
        return tuple((run.training_ids, frozenset(run.predictions.ids.tolist())) for run in self.runs)

    def is_again(self, other: Repeat[R]) -> bool:
        """Whether this seed tells nothing that the other did not: its networks and split are the same."""
        return self.networks == other.networks and self.split == other.split


@dataclass(frozen=True, eq=False)
class Variant(Generic[R]):
    """One variant's settings and all its runs, seed by seed and, within a seed, fold by fold."""

    name: str
    settings: Mapping[str, Value]
    runs: tuple[R, ...]

    @property
    def blends(self: Variant[Run]) -> bool:
        """Whether its runs are ensembles, which have no epochs of their own."""
        return bool(self.runs[0].members)

    @cached_property
    def repeats(self) -> tuple[Repeat[R], ...]:
        seeds = dict.fromkeys(run.seed for run in self.runs)
        return tuple(Repeat(seed, tuple(run for run in self.runs if run.seed == seed)) for seed in seeds)

    @cached_property
    def predictions(self) -> Predictions:
        """Of all validation patches, in the order of their ids: the mean over the seeds."""
        return average(repeat.predictions for repeat in self.repeats)

    def scores(self, metric: str) -> np.ndarray:
        """The validation score under each seed, of the best checkpoint, (seeds,)."""
        return np.array([repeat.score(metric) for repeat in self.repeats])

    def mean(self, metric: str) -> float:
        return float(self.scores(metric).mean())

    @cached_property
    def distinct(self) -> tuple[Repeat[R], ...]:
        """The repeats but for those whose networks and split an earlier one has."""
        kept: list[Repeat[R]] = []
        for repeat in self.repeats:
            if not any(repeat.is_again(other) for other in kept):
                kept.append(repeat)
        return tuple(kept)

    def distinct_scores(self, metric: str) -> np.ndarray:
        """The validation scores of the seeds that differ: what a spread is that of."""
        return np.array([repeat.score(metric) for repeat in self.distinct])

    def standard_deviation(self, metric: str) -> float | None:
        """Over seeds that differ; None for a single one, which says nothing about spread."""
        values = self.distinct_scores(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else None

    def same_as(self, other: Variant[R]) -> Sameness | None:
        """What it has in common with a variant of the same seeds under every one of them, if anything."""
        pairs = list(zip(self.repeats, other.repeats, strict=True))
        if not all(np.array_equal(a.predictions.probabilities, b.predictions.probabilities) for a, b in pairs):
            return None
        return "network" if all(a.networks == b.networks for a, b in pairs) else "predictions"


def best_known_clusters(runs: Sequence[Run]) -> tuple[dict[str, str], ClusterKind]:
    """The cluster of each patch as the best informed of the runs knows it, and what these clusters are."""
    kind = next(kind for kind in _BEST_FIRST if any(run.cluster_kind == kind for run in runs))
    clusters: dict[str, str] = {}
    for run in runs:
        if run.cluster_kind == kind:
            clusters |= run.clusters_by_id
    return clusters, kind


def decide_together(variant: Variant) -> Decision:
    """Calibrations and operating points for the mean of all of a variant's runs."""
    cluster_of = {patch: cluster for run in variant.runs for patch, cluster in run.clusters_by_id.items()}
    predictions, config = variant.predictions, variant.runs[0].config
    clusters = np.array([cluster_of[patch] for patch in predictions.ids.tolist()])
    return decide(predictions, clusters, config.decision, seed=config.fit.seed)
