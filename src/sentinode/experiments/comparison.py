"""Variants side by side: runs paired by seed and fold, summed up without naming winners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int, Shaped

from sentinode.config import Metric, Value
from sentinode.errors import RunError
from sentinode.experiments.run import Run
from sentinode.inference.probabilities import Predictions, average


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

    def standard_deviation(self, metric: str) -> float | None:
        """Over seeds; None for a single seed, which says nothing about spread."""
        values = self.scores(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, eq=False)
class Difference:
    """`a` minus `b` in one metric, seed by seed."""

    a: str
    b: str
    metric: str
    by_seed: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.by_seed))

    @property
    def a_higher_in(self) -> int:
        return sum(value > 0 for value in self.by_seed)

    def in_words(self) -> str:
        """What was seen; never a winner."""
        count = len(self.by_seed)
        if count == 1:
            return (
                f"{self.a} and {self.b} differ by {self.mean:+.4f} in {self.metric} on one run each. One run cannot "
                "tell a difference from the luck of its seed: no winner is named."
            )
        spread = float(np.std(self.by_seed, ddof=1))
        return (
            f"{self.a} minus {self.b}: {self.mean:+.4f} in {self.metric} on average over {count} seeds (standard "
            f"deviation of the paired differences {spread:.4f}; {self.a} higher in {self.a_higher_in} of {count})."
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Variants whose runs share data, seeds and validation patches; `paired` has checked it."""

    variants: tuple[Variant, ...]

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

    def differences(self, metric: str) -> list[Difference]:
        """Every later variant minus the first."""
        first, *others = self.variants
        return [
            Difference(v.name, first.name, metric, tuple((v.scores(metric) - first.scores(metric)).tolist()))
            for v in others
        ]

    def highest(self, metric: str) -> Variant:
        """The variant with the highest mean: what a submission is made with, not a verdict."""
        return max(self.variants, key=lambda variant: variant.mean(metric))


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
                f"{variant.name} was run on other seeds ({theirs}) than {first.name} ({', '.join(map(str, seeds))})",
                remedy="Compare runs of the same seeds.",
            )
        for repeat, other in zip(variant.repeats, first.repeats, strict=True):
            _refuse_other_patches(repeat, other, first, same_split=same_split)
            _refuse_other_patches(repeat, first.repeats[0], first, same_split=False)
    return comparison


def _refuse_other_patches(repeat: Repeat, other: Repeat, first: Variant, *, same_split: bool) -> None:
    same_ids = np.array_equal(repeat.predictions.ids, other.predictions.ids)
    if same_ids and not np.array_equal(repeat.predictions.labels, other.predictions.labels):
        raise RunError(
            f"was validated on other labels than {first.name}",
            where=repeat.runs[0].folder,
            remedy="Compare runs that were trained with the same table of labels.",
        )
    if not same_ids or (same_split and not np.array_equal(repeat.parts, other.parts)):
        raise RunError(
            f"was validated on other patches than {first.name}",
            where=repeat.runs[0].folder,
            remedy="Compare runs of one split, balance and sample.",
        )
