"""Variants side by side: runs paired by seed and fold, summed up without naming winners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int, Shaped

from sentinode.config import Metric, Value
from sentinode.errors import RunError
from sentinode.evaluation.metrics import gain
from sentinode.experiments.run import Run
from sentinode.experiments.run_record import Seeded
from sentinode.inference.probabilities import Predictions, average

Source = Literal["split"] | Seeded
"""What can differ from seed to seed."""

if TYPE_CHECKING:
    from sentinode.evaluation.verdict import Sameness  # verdicts rest on SciPy, for which a prediction does not wait


@dataclass(frozen=True, eq=False)
class Repeat:
    """A variant under one seed: a single run, or one run for each fold of a cross-validation."""

    seed: int
    runs: tuple[Run, ...]

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

    def is_again(self, other: Repeat) -> bool:
        """Whether this seed tells nothing that the other did not: its networks and split are the same."""
        return self.networks == other.networks and self.split == other.split


@dataclass(frozen=True, eq=False)
class Variant:
    """One variant's settings and all its runs, seed by seed and, within a seed, fold by fold."""

    name: str
    settings: Mapping[str, Value]
    runs: tuple[Run, ...]

    @property
    def blends(self) -> bool:
        """Whether its runs are ensembles, which have no epochs of their own."""
        return bool(self.runs[0].members)

    @cached_property
    def repeats(self) -> tuple[Repeat, ...]:
        seeds = dict.fromkeys(run.seed for run in self.runs)
        return tuple(Repeat(seed, tuple(run for run in self.runs if run.seed == seed)) for seed in seeds)

    @cached_property
    def predictions(self) -> Predictions:
        """Of all validation patches, in the order of their ids: the mean over the seeds."""
        return average(repeat.predictions for repeat in self.repeats)

    def scores(self, metric: str) -> np.ndarray:
        """The validation score under each seed, of the kept weights, (seeds,)."""
        return np.array([repeat.score(metric) for repeat in self.repeats])

    def mean(self, metric: str) -> float:
        return float(self.scores(metric).mean())

    @cached_property
    def distinct(self) -> tuple[Repeat, ...]:
        """The repeats but for those whose networks and split an earlier one has."""
        kept: list[Repeat] = []
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

    def same_as(self, other: Variant) -> Sameness | None:
        """What it has in common with a variant of the same seeds under every one of them, if anything."""
        pairs = list(zip(self.repeats, other.repeats, strict=True))
        if not all(np.array_equal(a.predictions.probabilities, b.predictions.probabilities) for a, b in pairs):
            return None
        return "network" if all(a.networks == b.networks for a, b in pairs) else "predictions"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Variants whose runs share data, seeds and validation patches; `paired` has checked it."""

    variants: tuple[Variant, ...]
    repeated_seeds: tuple[int, ...] = ()
    """Seeds that were run and gave what an earlier one gave, under every variant: their runs are not among these."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(repeat.seed for repeat in self.variants[0].repeats)

    @property
    def metric(self) -> Metric:
        """The score that decides: the one by which the runs were kept."""
        return self.variants[0].runs[0].config.fit.metric

    @property
    def folds(self) -> int:
        """Runs for each variant and seed: 1 without cross-validation."""
        return len(self.variants[0].repeats[0].runs)

    @property
    def ids(self) -> Shaped[np.ndarray, " n"]:
        """Of the validation patches, in the order of every repeat's predictions."""
        return self.variants[0].repeats[0].predictions.ids

    @cached_property
    def varied(self) -> tuple[Source, ...]:
        """What differs from seed to seed: the split as the runs have it, and, where weights differ, what drew them."""
        several = [variant.repeats for variant in self.variants]
        split = any(repeat.split != repeats[0].split for repeats in several for repeat in repeats)
        weights = any(repeat.networks != repeats[0].networks for repeats in several for repeat in repeats)
        drawn = {
            source
            for variant in self.variants
            for run in variant.runs
            for network in run.networks
            for source in network.network_record.seeded
        }
        sources: tuple[Source, ...] = ("initial weights", "order of batches", "augmentation")
        return (*(("split",) if split else ()), *(s for s in sources if weights and s in drawn))

    def best(self, metric: str) -> Variant:
        """The variant with the best mean: what a submission is made with, not a verdict."""
        return max(self.variants, key=lambda variant: gain(metric) * variant.mean(metric))


def paired(variants: Iterable[Variant], *, same_split: bool = True) -> Comparison:
    """Check that variants can be compared run by run; raises RunError with the reason where they cannot.

    With `same_split` each run was validated on the patches of its counterpart under the other variants; without,
    the variants may be split differently, so long as all their validation patches together are the same.
    """
    comparison = Comparison(tuple(variants))
    seeds, first = comparison.seeds, comparison.variants[0]
    for variant in comparison.variants:
        if tuple(repeat.seed for repeat in variant.repeats) != seeds:
            theirs = ", ".join(str(repeat.seed) for repeat in variant.repeats)
            raise RunError(
                f"{variant.name} used other seeds ({theirs}) than {first.name} ({', '.join(map(str, seeds))})",
                remedy="Compare runs of the same seeds.",
            )
        for repeat, other in zip(variant.repeats, first.repeats, strict=True):
            _refuse_other_patches(repeat, other, first, same_split=same_split)
            _refuse_other_patches(repeat, first.repeats[0], first, same_split=False)
    return _without_repeated_seeds(comparison)


def _without_repeated_seeds(comparison: Comparison) -> Comparison:
    kept: list[int] = []
    columns = list(zip(*(variant.repeats for variant in comparison.variants), strict=True))
    for number, column in enumerate(columns):
        earlier = (columns[k] for k in kept)
        if not any(all(a.is_again(b) for a, b in zip(column, other, strict=True)) for other in earlier):
            kept.append(number)
    seeds = comparison.seeds
    repeated = tuple(seed for number, seed in enumerate(seeds) if number not in kept)
    return Comparison(
        tuple(
            replace(variant, runs=tuple(run for run in variant.runs if run.seed not in repeated))
            for variant in comparison.variants
        ),
        repeated,
    )


def _refuse_other_patches(repeat: Repeat, other: Repeat, first: Variant, *, same_split: bool) -> None:
    same_ids = np.array_equal(repeat.predictions.ids, other.predictions.ids)
    if same_ids and not np.array_equal(repeat.predictions.labels, other.predictions.labels):
        raise RunError(
            f"has other validation labels than {first.name}",
            where=repeat.runs[0].folder,
            remedy="Compare runs that were trained with the same table of labels.",
        )
    if not same_ids or (same_split and not np.array_equal(repeat.parts, other.parts)):
        raise RunError(
            f"has another validation set than {first.name}",
            where=repeat.runs[0].folder,
            remedy="Compare runs of one split, balance and sample.",
        )
