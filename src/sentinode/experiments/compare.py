"""Paired runs of several variants: same data, split, seeds and batch order, summed up without naming winners."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from sentinode.config import RunConfig, Scalar, StudyConfig, override, to_toml
from sentinode.errors import RunError
from sentinode.experiments.material import Material
from sentinode.experiments.run import Run, is_finished
from sentinode.experiments.train import train_run
from sentinode.progress import Progress, silent

SUMMARY_METRICS: Final = ("auc", "accuracy", "log_loss")


class RunStore:
    """Trains runs below one folder, and never the same run twice: equal settings share one folder."""

    def __init__(
        self,
        material: Material,
        folder: Path,
        *,
        device: torch.device,
        progress: Progress = silent,
    ) -> None:
        self.material, self.folder, self.device = material, folder, device
        self.progress = progress
        self._runs: dict[str, Run] = {}

    def train(self, name: str, config: RunConfig, *, on_epoch: Callable[[dict[str, Any]], None] | None = None) -> Run:
        """The run of these settings: trained in `<folder>/<name>`, unless it is here under another name.

        A run that is here already still reports its epochs to `on_epoch`.
        """
        key, told = to_toml(config), on_epoch
        if key not in self._runs:
            if not is_finished(self.folder / name):
                told = None
            self._runs[key] = train_run(
                self.material,
                config,
                self.folder / name,
                device=self.device,
                resume=True,
                progress=self.progress,
                on_epoch=on_epoch,
            )
        run = self._runs[key]
        if told:
            for row in run.history.to_dict("records"):
                told({str(column): value for column, value in row.items()})
        return run


@dataclass(frozen=True, eq=False)
class Variant:
    """One variant's settings and its runs, in the order of the seeds."""

    name: str
    settings: Mapping[str, Scalar]
    runs: tuple[Run, ...]

    def scores(self, metric: str) -> np.ndarray:
        """The validation score of each run's kept weights, (seeds,)."""
        return np.array([run.scores[metric] for run in self.runs])

    def mean(self, metric: str) -> float:
        return float(self.scores(metric).mean())

    def standard_deviation(self, metric: str) -> float | None:
        """Over seeds; None for a single run, which says nothing about spread."""
        values = self.scores(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True, eq=False)
class Difference:
    """`a` minus `b` in one metric, run by run under the same seeds."""

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
    """Variants whose runs share data, split, seeds and batch order."""

    variants: tuple[Variant, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.variants[0].runs)

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


def compare(config: StudyConfig, store: RunStore) -> Comparison:
    """Train every variant of the config on every seed."""
    base = config.run_config()
    variants = []
    for name, settings in config.compare.variants.items():
        runs = [
            store.train(f"{name}-seed{seed}", override(base, {**settings, "fit.seed": seed})) for seed in config.seeds
        ]
        variants.append(Variant(name, settings, tuple(runs)))
    return paired(variants)


def paired(variants: Iterable[Variant]) -> Comparison:
    """Check that variants can be compared run by run; raises RunError where they cannot."""
    comparison = Comparison(tuple(variants))
    seeds = comparison.seeds
    first = comparison.variants[0].runs[0]
    for variant in comparison.variants:
        if tuple(run.seed for run in variant.runs) != seeds:
            raise RunError(f"{variant.name} was run on other seeds than {first.name}", remedy="Use the same seeds.")
        for run in variant.runs:
            if not np.array_equal(run.predictions.ids, first.predictions.ids):
                raise RunError(
                    f"was validated on other patches than {first.name}",
                    where=run.folder,
                    remedy="Compare runs of one split, balance and sample.",
                )
    return comparison
