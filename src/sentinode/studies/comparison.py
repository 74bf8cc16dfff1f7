"""Variants side by side: runs paired by seed and fold, summed up without naming winners."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Literal

import numpy as np
from jaxtyping import Shaped

from sentinode.config.fit import Metric
from sentinode.errors import RunError
from sentinode.evaluation.metrics import gain
from sentinode.runs.run_record import Seeded
from sentinode.runs.variant import R, Repeat, Variant

Source = Literal["split"] | Seeded
"""What can differ from seed to seed."""


@dataclass(frozen=True, eq=False)
class Comparison(Generic[R]):
    """Variants whose runs share data, seeds and validation patches; `paired` has checked it."""

    variants: tuple[Variant[R], ...]
    repeated_seeds: tuple[int, ...] = ()
    """Seeds that were run and gave what an earlier one gave, under every variant: their runs are not among these."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(repeat.seed for repeat in self.variants[0].repeats)

    @property
    def metric(self) -> Metric:
        """The score that decides: the one by which the runs were kept."""
        return self.variants[0].runs[0].metric

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
        drawn = {source for variant in self.variants for run in variant.runs for source in run.seeded}
        sources: tuple[Source, ...] = ("initial weights", "order of batches", "augmentation")
        return (*(("split",) if split else ()), *(s for s in sources if weights and s in drawn))

    def best(self, metric: str) -> Variant[R]:
        """The variant with the best mean: what a submission is made with, not a verdict."""
        return max(self.variants, key=lambda variant: gain(metric) * variant.mean(metric))


def paired(variants: Iterable[Variant[R]], *, same_split: bool = True) -> Comparison[R]:
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


def _without_repeated_seeds(comparison: Comparison[R]) -> Comparison[R]:
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


def _refuse_other_patches(repeat: Repeat[R], other: Repeat[R], first: Variant[R], *, same_split: bool) -> None:
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
