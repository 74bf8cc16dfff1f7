"""From a bootstrap of paired differences to a verdict in words; the rule is fixed before anyone looks.

With three seeds or more, a variant is called better when, in its favour, the share of replicates is at least
0.75, the 95 % interval of the difference leaves out zero, Holm's correction for the number of questions asked
leaves its p-value at 0.05 or less, and the difference is at least the smallest that matters. A difference that
fails at the last alone is "too small to matter". Everything else is "no evidence".

What cannot be asked gets no p-value, and Holm's correction does not count it: variants that are the same network, and
a difference whose interval is unknown, for there are too few slides or it is equal in every replicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Float

from sentinode.evaluation.bootstrap import PairedInterval
from sentinode.records import Number

SMALLEST_SHARE = 0.75
FEWEST_SEEDS = 3  # of two, every fourth resample holds one seed twice: no spread worth the name
LEVEL = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Question:
    """One comparison: is `a` better than `b` in `metric`?

    interval: of the difference a - b; gain: 1 where higher means better for a, -1 where lower does. by_seed: the same
    difference, seed by seed, of seeds that differ; seeds_run: how many were run. same: what both have in common under
    every seed, if anything. Where a verdict is not asked for, only the difference is told.
    """

    a: str
    b: str
    metric: str
    interval: PairedInterval
    by_seed: Float[np.ndarray, " s"]
    seeds_run: int
    same: Sameness | None = None
    gain: Literal[1, -1] = 1
    asked: bool = True


Sameness = Literal["network", "predictions"]
"""Equal weights and predictions, or equal predictions of other weights."""
Outcome = Literal[
    "better",
    "worse",
    "too small to matter",
    "no evidence",
    "too few seeds",
    "too few slides",
    "no spread",
    "same network",
    "same predictions",
    "not asked",
]


@dataclass(frozen=True)
class Verdict:
    """The answer to one question, with all that it rests on."""

    a: str
    b: str
    metric: str
    outcome: Outcome
    difference: Number
    low: Number
    high: Number
    p_better: Number
    p_value: Number
    p_holm: Number
    seeds: int
    """Seeds that differ in what they trained, or in their split."""
    seeds_run: int
    seeds_better: int
    smallest_effect: float
    seeds_needed: int | None
    """Seeds that would tell the smallest effect apart in 4 of 5 repetitions; None for a single seed."""
    reason: str | None = None
    """Why the interval is unknown, if it is."""
    gain: Literal[1, -1] = 1
    """1 where a higher value of the metric is better, -1 where a lower one is."""

    @property
    def in_seeds(self) -> str:
        """Such as "higher in 4 of 5 seeds"; of a metric of which less is better, "lower in"."""
        return f"{'higher' if self.gain > 0 else 'lower'} in {self.seeds_better} of {self.seeds} seeds"

    def interval_in_words(self) -> str:
        """Such as "95 % interval +0.004 to +0.021", or "95 % interval unknown"."""
        return f"95 % interval {'unknown' if np.isnan(self.low) else f'{self.low:+.3f} to {self.high:+.3f}'}"

    def in_words(self) -> str:
        interval = self.interval_in_words()
        seeds = f"{self.in_seeds}; P(better) = {self.p_better:.2f}"
        match self.outcome:
            case "same network":
                return (
                    f"{self.a} and {self.b} are the same network: their weights are equal under every seed. The "
                    "setting that differs changed nothing."
                )
            case "same predictions":
                return (
                    f"{self.a} and {self.b} predict the same for every patch under every seed: these patches cannot "
                    "tell them apart."
                )
            case "too few slides":
                return (
                    f"{self.a} minus {self.b}: {self.difference:+.3f} {self.metric} ({interval}). Too few to tell: "
                    f"{self.reason}. No winner is named."
                )
            case "no spread":
                return (
                    f"{self.a} minus {self.b}: {self.difference:+.3f} {self.metric} ({interval}). The difference is "
                    f"{self.reason}. No winner is named."
                )
            case "too few seeds":
                return (
                    f"{self.a} minus {self.b}: {self.difference:+.3f} {self.metric} ({interval}). "
                    f"{too_few_seeds(self)} a difference from the luck of the seed: no winner is named; a verdict "
                    f"takes {FEWEST_SEEDS} seeds or more."
                )
            case "not asked":
                return (
                    f"{self.a} minus {self.b}: {self.difference:+.3f} {self.metric} ({interval}; {self.in_seeds}). No "
                    "verdict was asked for."
                )
            case "better" | "worse":
                return (
                    f"{self.a} is {self.outcome} than {self.b} by {abs(self.difference):.3f} {self.metric} "
                    f"({interval}; {seeds})."
                )
            case "too small to matter":
                return (
                    f"{self.a} and {self.b} differ by {self.difference:+.3f} {self.metric} ({interval}; {seeds}): less "
                    f"than {self.smallest_effect:g}, the smallest difference that matters."
                )
            case "no evidence":
                need = f"; about {self.seeds_needed} seeds would be needed to detect {self.smallest_effect:g}"
                return (
                    f"No evidence of a difference in {self.metric} between {self.a} and {self.b}: "
                    f"{self.difference:+.3f} ({interval}; {seeds}){need if self.seeds_needed else ''}."
                )


def too_few_seeds(verdict: Verdict) -> str:
    """The beginning of a sentence that goes on with what they cannot tell."""
    if verdict.seeds < verdict.seeds_run:
        networks = "one network" if verdict.seeds == 1 else f"{verdict.seeds} networks"
        return (
            f"{verdict.seeds_run} seeds gave {networks} and count as {verdict.seeds} (folds would make them differ), "
            "too few to tell"
        )
    return "One run each cannot tell" if verdict.seeds == 1 else f"{verdict.seeds} seeds are too few to tell"


def decide(questions: Sequence[Question], *, smallest_effect: float) -> list[Verdict]:
    """Answer several questions together, the chance of any false "better" held at 5 % (Holm 1979)."""
    p_values = [
        question.interval.p_value if question.asked and not question.same else float("nan") for question in questions
    ]
    corrected = holm(p_values)
    return [
        _answer(question, p, p_holm, smallest_effect)
        for question, p, p_holm in zip(questions, p_values, corrected, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, in their own order, each at most 1; NaN is no question, and stays."""
    corrected = np.array(p_values, np.float64)
    asked = np.flatnonzero(~np.isnan(corrected))
    largest = 0.0
    for rank, index in enumerate(asked[np.argsort(corrected[asked])]):
        largest = max(largest, min(1.0, (len(asked) - rank) * corrected[index]))
        corrected[index] = largest
    return [float(value) for value in corrected]


def seeds_to_tell(effect: float, spread: float, *, level: float = LEVEL, power: float = POWER) -> int:
    """Seeds at which a paired difference of `effect` with that standard deviation over seeds is seen.

    ((z(1 - alpha/2) + z(power)) * spread / effect)^2, rounded up, at least 2: the normal approximation.
    """
    z = NormalDist().inv_cdf(1 - (1 - level) / 2) + NormalDist().inv_cdf(power)
    return max(2, ceil((z * spread / effect) ** 2))


def _answer(question: Question, p: float, p_holm: float, smallest_effect: float) -> Verdict:
    observed, low, high = question.interval.estimate, question.interval.low, question.interval.high
    p_better = question.interval.share_a_better
    seeds = len(question.by_seed)
    worst, best = (low, high) if question.gain > 0 else (-high, -low)
    above, below = worst > 0 and p_better >= SMALLEST_SHARE, best < 0 and 1 - p_better >= SMALLEST_SHARE
    outcome: Outcome = "no evidence"
    if question.same:
        outcome = "same network" if question.same == "network" else "same predictions"
    elif question.interval.reason:
        outcome = "no spread" if question.interval.still else "too few slides"
    elif not question.asked:
        outcome = "not asked"
    elif seeds < FEWEST_SEEDS:
        outcome = "too few seeds"
    elif p_holm <= 1 - LEVEL and (above or below):
        outcome = "too small to matter" if abs(observed) < smallest_effect else "better" if above else "worse"
    spread = float(np.std(question.by_seed, ddof=1)) if seeds > 1 else None
    return Verdict(
        a=question.a,
        b=question.b,
        metric=question.metric,
        outcome=outcome,
        difference=observed,
        low=low,
        high=high,
        p_better=p_better,
        p_value=p,
        p_holm=p_holm,
        seeds=seeds,
        seeds_run=question.seeds_run,
        seeds_better=int(np.sum(question.gain * question.by_seed > 0)),
        smallest_effect=smallest_effect,
        seeds_needed=None if spread is None else seeds_to_tell(smallest_effect, spread),
        reason=question.interval.reason,
        gain=question.gain,
    )
