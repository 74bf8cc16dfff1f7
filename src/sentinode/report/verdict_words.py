"""Evidence in sentences: verdicts, the rule behind them, what varied, the notebook's claims, the leak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sentinode.config import ModelConfig, NotebookModel
from sentinode.evaluation.clusters import CLUSTER_NAMES, CLUSTERS_IN_WORDS, FEWEST, STAIN_CAUTION
from sentinode.evaluation.verdict import FEWEST_SEEDS, Verdict, too_few_seeds
from sentinode.experiments.evidence import Evidence, IndependentTests

_NO_ANSWER = frozenset({"too few seeds", "too few slides", "same network", "same predictions"})
_SIGNIFICANT = 0.05


def verdicts(evidence: Evidence) -> list[str]:
    """The verdicts, with names that stand out in a sentence; several that lack seeds are told in one."""
    if len(evidence.verdicts) > 1 and all(verdict.outcome == "too few seeds" for verdict in evidence.verdicts):
        first = evidence.verdicts[0]
        told = ", ".join(f"“{v.a}” {v.difference:+.3f} ({v.interval_in_words()})" for v in evidence.verdicts)
        return [
            f"Differences to “{first.b}” in {first.metric}: {told}. {too_few_seeds(first)} them from the luck of the "
            f"seed: no winner is named; a verdict takes {FEWEST_SEEDS} seeds or more."
        ]
    return [_quoted(verdict).in_words() for verdict in evidence.verdicts]


def own(evidence: Evidence) -> list[str]:
    """What is told of metrics of the user's own."""
    return [_quoted(verdict).in_words() for verdict in evidence.own_verdicts]


def _quoted(verdict: Verdict) -> Verdict:
    return replace(verdict, a=f"“{verdict.a}”", b=f"“{verdict.b}”")


def varied(evidence: Evidence) -> str:
    """What differs from seed to seed, and what does not."""
    return f"{_counted(evidence)}{_varied(evidence)}"


def _counted(evidence: Evidence) -> str:
    """That some seeds are not counted; nothing where all are."""
    if evidence.seeds == evidence.seeds_run:
        return ""
    networks = "one network" if evidence.seeds == 1 else f"{evidence.seeds} networks"
    return (
        f"{evidence.seeds_run} seeds gave {networks} of each variant, to the last bit, and are counted as "
        f"{evidence.seeds}; --folds makes seeds differ. "
    )


def _varied(evidence: Evidence) -> str:
    if evidence.seeds == 1:
        return "One seed of each: nothing is known of how scores vary with it."
    if not evidence.varied:
        return "What differs from seed to seed is not on record."
    *others, last = evidence.varied
    together = f"{', '.join(others)} and {last}" if others else last
    vary = "vary together" if others else "varies"
    own = " Under one seed all variants have the same of each." if others else ""
    told = f"From seed to seed {together} {vary}.{own}"
    if "split" in evidence.varied:
        folds = f" into {evidence.folds} folds" if evidence.folds > 1 else ""
        return f"{told} Each seed draws its own split{folds}; no patch is scored by a network that was trained on it."
    return f"{told} All seeds share one split. How another would change the scores is not seen; --folds shows it."


def rule(evidence: Evidence) -> str:
    """How a verdict is reached, fixed before anyone looks."""
    smallest = evidence.verdicts[0].smallest_effect
    asked = sum(np.isfinite(verdict.p_value) for verdict in (*evidence.verdicts, *evidence.own_verdicts))
    holm = f", after Holm's correction for {asked} questions" if asked > 1 else ""
    beyond = "another hospital" if evidence.folds > 1 else "another split or another hospital"
    return (
        f"The rule was fixed beforehand: “better” takes at least {FEWEST_SEEDS} seeds that differ, {FEWEST} "
        f"{CLUSTER_NAMES[evidence.cluster_kind]} of each class, counted as if of one size, P(better) of 0.75 or more, "
        f"a 95 % interval that leaves out zero{holm}, and a difference of at least {smallest:g}; one "
        "that lacks only the last is “too small to matter”, everything else “no evidence”. "
        f"The intervals draw {CLUSTERS_IN_WORDS[evidence.cluster_kind]} and seeds anew; they do not cover "
        f"{beyond}.{_slides_unknown(evidence)}"
    )


def _slides_unknown(evidence: Evidence) -> str:
    """What it means that something stands in for slides."""
    match evidence.cluster_kind:
        case "slide" | "patient":
            return ""
        case "group":
            return " Slides are not known: where a group is less than a slide, these intervals are too narrow."
        case "slide+group":
            return " Not all slides are known: where a group is less than a slide, these intervals are too narrow."
        case "stain" | "slide+stain":
            return f" {STAIN_CAUTION}"


def assumed_independent(tests: IndependentTests) -> str:
    """What the tests that take patches as independent say, run pair by run pair."""
    counts = [f"{name}: {_significant(p_values)}" for name, p_values in _by_name(tests).items()]
    return f"“{tests.a}” against “{tests.b}”, {_pairs(len(tests.delong))}. {' '.join(counts)}"


def _by_name(tests: IndependentTests) -> dict[str, tuple[float, ...]]:
    return {"DeLong (AUC)": tests.delong, "McNemar (calls at 0.5)": tests.mcnemar}


def _pairs(count: int) -> str:
    return "one pair of runs" if count == 1 else f"{count} pairs of runs"


def _significant(signed: tuple[float, ...]) -> str:
    """How many of the signed p-values speak for either side at 5 %."""
    significant = [p for p in signed if abs(p) <= _SIGNIFICANT]
    better = sum(not np.signbit(p) for p in significant)
    return f"better in {better}, worse in {len(significant) - better} (p ≤ {_SIGNIFICANT:g})."


def notebook_preference(evidence: Evidence, models: Mapping[str, ModelConfig]) -> str | None:
    """What the notebook preferred beside our verdict: holds, does not hold, or cannot tell. None for other questions.

    It preferred batch norm after the activation to before, and the momentum 0.25 to 0.99.
    """
    told = [_beside(verdict, models[verdict.a], models[verdict.b]) for verdict in evidence.verdicts]
    return " ".join(sentence for sentence in told if sentence) or None


def _beside(verdict: Verdict, preferred: ModelConfig, other: ModelConfig) -> str | None:
    if not isinstance(preferred, NotebookModel) or not isinstance(other, NotebookModel):
        return None
    order = (preferred.norm, other.norm) == ("after", "before") and preferred.bn_momentum == other.bn_momentum
    momentum = (preferred.bn_momentum, other.bn_momentum) == (0.25, 0.99) and preferred.norm == other.norm
    if not (order or momentum) or verdict.outcome in _NO_ANSWER:
        return None
    answer = {"better": "holds here", "worse": "does not hold here: it is the other way round"}
    told = answer.get(verdict.outcome, "cannot be told from these runs")
    return f"The notebook preferred “{verdict.a}” to “{verdict.b}” on one run each. That claim {told}."


def inflation(evidence: Evidence) -> list[str]:
    """What each other split adds to, or takes from, the score of the trusted one."""
    return [_inflation(verdict) for verdict in evidence.verdicts]


def _inflation(verdict: Verdict) -> str:
    split = {"random": "The random split", "stain": "The split by clusters of stain"}[verdict.a]
    more = "higher" if verdict.gain > 0 else "lower"
    told = f"{verdict.interval_in_words()}; {more} under {verdict.seeds_better} of {verdict.seeds} seeds"
    match verdict.outcome:
        case "better":
            return (
                f"{split} makes the same model look better by {abs(verdict.difference):.3f} {verdict.metric} than the "
                f"trusted split does ({told}). That much of its score is knowledge of the slides, not of tumour."
                if verdict.a == "random"
                else f"{split} still flatters, by {abs(verdict.difference):.3f} {verdict.metric} ({told})."
            )
        case "worse":
            worse = "lower" if verdict.gain > 0 else "worse"
            return f"{split} gives a {worse} score, by {abs(verdict.difference):.3f} {verdict.metric} ({told})."
        case "too few seeds":
            return (
                f"{split} gives {verdict.difference:+.3f} {verdict.metric} ({told}). A verdict takes {FEWEST_SEEDS} "
                "seeds or more."
            )
        case "too few slides":
            return (
                f"{split} gives {verdict.difference:+.3f} {verdict.metric} ({told}). Too few to tell: {verdict.reason}."
            )
        case "same network" | "same predictions":
            return f"{split} gives the same predictions as the trusted one: both splits are the same here."
        case "too small to matter":
            return (
                f"{split} gives {verdict.difference:+.3f} {verdict.metric} ({told}): a difference, but less than "
                f"{verdict.smallest_effect:g}, the smallest that matters."
            )
        case "no evidence" | "not asked":
            return (
                f"{split} gives {verdict.difference:+.3f} {verdict.metric} ({told}): no evidence that it differs from "
                "the trusted split here."
            )
