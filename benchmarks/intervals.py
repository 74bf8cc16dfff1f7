"""How often intervals hold the truth, and how often two equal variants are told apart, by slides, seeds and classes.

    python benchmarks/intervals.py slides --repetitions 800     slides of one class or of both, 1 to 10 seeds
    python benchmarks/intervals.py rare --repetitions 800       2 to 80 positives of 400 patches, with and without folds

Nothing is trained: scores are drawn, normal within each class, with an effect of the slide, of the slide for a
variant, of the seed and of the patch, so that the AUC of new slides is known. The product's own bootstrap and verdict
answer. One variant's AUC and its difference to an equal one are looked at: a right interval holds the truth in 95 of
100 repetitions, or says that it is unknown; a right rule calls an equal variant better or worse in 5 of 100 at most.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sentinode.evaluation.bootstrap import bootstrap
from sentinode.evaluation.verdict import Question, decide

SLIDE, SLIDE_OF_VARIANT, PATCH, NOISE, SEED = 1.0, 0.7, 1.0, 0.5, 0.2  # standard deviations
REPLICATES = 300
NO_EFFECT = 1e-9  # any difference matters: the hardest case for a verdict


@dataclass(frozen=True)
class Case:
    """A design: slides of each kind, patches in each, seeds, and how far apart the classes are."""

    name: str
    seeds: int
    shift: float
    positive: int = 0
    negative: int = 0
    mixed: int = 0
    patches: int = 10
    unequal: bool = False
    rare: int = 0
    folds: int = 1

    @property
    def auc(self) -> float:
        """Of patches from two new slides; one seed speaks of its own network alone, so its effect is left out."""
        if self.rare:
            return float(stats.norm.cdf(self.shift / np.sqrt(2 * (PATCH**2 + NOISE**2))))
        variance = 2 * (SLIDE**2 + SLIDE_OF_VARIANT**2 + PATCH**2 + NOISE**2)
        variance += (SEED**2 if self.seeds > 1 else 0) + (SLIDE_OF_VARIANT**2 if self.mixed else 0)
        return float(stats.norm.cdf(self.shift / np.sqrt(variance)))

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Labels, scores of two equal variants, clusters, parts."""
        return self._rare(rng) if self.rare else self._slides(rng)

    def _slides(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, None]:
        count = self.positive + self.negative + self.mixed
        sizes = np.full(count, self.patches)
        if self.unequal:
            sizes = np.clip(rng.lognormal(np.log(self.patches), 0.8, count).astype(int), 2, 6 * self.patches)
        slides = np.repeat(np.arange(count), sizes)
        share = np.concatenate([np.ones(self.positive), np.zeros(self.negative), rng.uniform(0.1, 0.9, self.mixed)])
        labels = (rng.random(len(slides)) < share[slides]).astype(np.int8)
        if self.mixed:
            first = np.cumsum(sizes) - sizes
            labels[first], labels[first + 1] = 1, 0  # both classes in each
        both = rng.normal(0, SLIDE, count)[slides] + rng.normal(0, PATCH, len(slides))
        own = rng.normal(0, SLIDE_OF_VARIANT, (2, 1, count))[..., slides]
        seed = rng.normal(0, SEED, (2, self.seeds, 1)) if self.seeds > 1 else 0.0
        scores = both + own + (self.shift + seed) * labels + rng.normal(0, NOISE, (2, self.seeds, len(slides)))
        if self.mixed:  # a slide's tumour is easier or harder by itself
            scores = scores + rng.normal(0, SLIDE_OF_VARIANT, (2, 1, count))[..., slides] * labels
        return labels, scores, slides, None

    def _rare(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        n = 400
        labels = (np.arange(n) < self.rare).astype(np.int8)
        scores = self.shift * labels + rng.normal(0, PATCH, (2, 1, n)) + rng.normal(0, NOISE, (2, self.seeds, n))
        parts = None
        if self.folds > 1:
            dealt = [
                np.concatenate([rng.permutation(np.arange(k) % self.folds) for k in (self.rare, n - self.rare)])
                for _ in range(self.seeds)
            ]
            parts = np.broadcast_to(np.array(dealt), scores.shape)
        return labels, scores, np.full(n, ""), parts


def slides() -> Iterator[Case]:
    for seeds in (1, 3, 10):
        for shift in (2.0, 4.0):
            for k in (2, 3, 4, 5, 7, 10, 20):
                yield Case(f"{k} + {k} of one class", seeds, shift, positive=k, negative=k)
            yield Case("3 + 12 of one class", seeds, shift, positive=3, negative=12)
            for k in (2, 3, 4, 5, 7, 10, 15, 20, 40):
                yield Case(f"{k} mixed", seeds, shift, mixed=k)
            yield Case("12 mixed, unequal", seeds, shift, mixed=12, unequal=True)


def rare() -> Iterator[Case]:
    for folds in (1, 4):
        for shift in (1.1, 2.5):
            for positives in (2, 3, 4, 8, 12, 20, 40, 80):
                if positives >= folds:
                    name = f"{positives} positives" + (f", {folds} folds" if folds > 1 else "")
                    yield Case(name, 3, shift, rare=positives, folds=folds)


def study(case: Case, repetitions: int, rng: np.random.Generator) -> str:
    """One row: what held, what was unknown, how wide."""
    held, widths, equal, wrong, unknown = [], [], [], 0, 0
    for _ in range(repetitions):
        labels, scores, clusters, parts = case.draw(rng)
        probabilities = stats.norm.cdf((scores - case.shift / 2) / 3)
        found = bootstrap(
            labels, probabilities, clusters, rng=rng, metrics=("auc",), replicates=REPLICATES, workers=1, parts=parts
        )
        single, difference = found.interval(0, "auc"), found.difference(0, 1, "auc")
        if single.reason:
            unknown += 1
            continue
        held.append(single.low <= case.auc <= single.high)
        widths.append(single.high - single.low)
        equal.append(difference.low <= 0 <= difference.high)
        by_seed = found.by_seed[0, :, 0] - found.by_seed[1, :, 0]
        question = Question("a", "b", "AUC", difference, by_seed, seeds_run=case.seeds)
        wrong += decide([question], smallest_effect=NO_EFFECT)[0].outcome in ("better", "worse")
    known = len(held)
    numbers = (
        f"{100 * np.mean(held):.1f} | {np.median(widths):.3f} | {100 * np.mean(equal):.1f} | "
        f"{100 * wrong / known if case.seeds > 1 else float('nan'):.1f}"
        if known
        else "– | – | – | –"
    )
    return f"| {case.name} | {case.seeds} | {case.auc:.3f} | {100 * unknown / repetitions:.0f} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("slides", "rare"))
    parser.add_argument("--repetitions", type=int, default=800)
    parser.add_argument("--seeds", type=int, help="only cases of so many seeds")
    options = parser.parse_args()
    print(f"{options.repetitions} repetitions of each, {REPLICATES} replicates; shares in %\n")
    print("| slides | seeds | AUC | unknown | AUC held | width | zero held | better or worse |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    began = time.perf_counter()
    for number, case in enumerate((slides if options.what == "slides" else rare)()):
        if options.seeds in (None, case.seeds):
            print(study(case, options.repetitions, np.random.default_rng(number)), flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
