"""Evidence in sentences: question, answer, how sure; the rule, what varied, the notebook's claims, the leak."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, get_args

import numpy as np

from sentinode.config.run import ModelConfig, NotebookModel
from sentinode.evaluation.clusters import CLUSTER_NAMES, CLUSTERS_IN_WORDS, FEWEST, STAIN_CAUTION
from sentinode.evaluation.metrics import METRIC_NAMES, gain
from sentinode.evaluation.verdict import FEWEST_SEEDS, Outcome, Verdict
from sentinode.report.prose.numbers import number
from sentinode.runs.variant import R, Variant
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import Evidence, IndependentTests

_NO_ANSWER = frozenset({"too few seeds", "too few slides", "no spread", "same network", "same predictions"})
_SIGNIFICANT = 0.05
_INDEPENDENT: Final = (
    "Tests that treat patches as independent (DeLong, McNemar) decide nothing here: patches of one slide resemble each "
    "other, so their p-values are too small."
)
_ORDER: Final[tuple[Outcome, ...]] = get_args(Outcome)
"""In which an answer tells its outcomes: what was shown first."""


def question(evidence: Evidence) -> str:
    """What was asked of the variants; the first is the one that the others are held against."""
    first = evidence.verdicts[0]
    if len(evidence.verdicts) == 1:
        return f"Is “{first.a}” better than “{first.b}”?"
    return f"Is another variant better than “{first.b}”?"


def answer(evidence: Evidence) -> str:
    """The verdicts, those of one outcome together."""
    by_outcome: dict[Outcome, list[Verdict]] = {}
    for verdict in evidence.verdicts:
        by_outcome.setdefault(verdict.outcome, []).append(verdict)
    alone = len(by_outcome) == 1
    return " ".join(_answered(outcome, by_outcome[outcome], alone) for outcome in _ORDER if outcome in by_outcome)


def _answered(outcome: Outcome, found: Sequence[Verdict], alone: bool) -> str:
    """One outcome, and the verdicts that came to it; `alone`: all did."""
    first = found[0]
    names = _joined(f"“{verdict.a}”" for verdict in found)
    by = _joined(f"“{verdict.a}” by {abs(verdict.difference):.3f}" for verdict in found)
    one = len(found) == 1
    match outcome:
        case "better" | "worse":
            how = "higher" if (outcome == "better") == (first.gain > 0) else "lower"
            yes = "Yes" if outcome == "better" else "Worse"
            if one:
                return f"{yes}: “{first.a}” scores {abs(first.difference):.3f} {first.metric} {how} than “{first.b}”."
            return f"{yes}: {by} {first.metric} score {how} than “{first.b}”."
        case "too small to matter":
            differ = "differs" if one else "differ"
            return f"{names} {differ} from “{first.b}”, but by less than {first.smallest_effect:g} {first.metric}."
        case "no evidence":
            needed = [verdict.seeds_needed for verdict in found if verdict.seeds_needed]
            need = f" About {max(needed)} seeds would be needed to detect {first.smallest_effect:g}." if needed else ""
            which = "" if alone else f" for {names}"
            return f"No difference in {first.metric} from “{first.b}” was shown{which}.{need}"
        case "too few seeds":
            return f"Not known: {_too_few_seeds(first)}. A verdict needs at least {FEWEST_SEEDS}."
        case "too few slides":
            return f"Not known{'' if alone else f' for {names}'}: there are too few slides or groups."
        case "no spread":
            return f"Not known{'' if alone else f' for {names}'}: the difference is {first.reason}."
        case "not asked":
            return f"No verdict was asked for on {names}."
        case "same network":
            are = "is" if one else "are"
            return (
                f"{names} {are} the same network as “{first.b}”: all weights are equal, so the setting has no effect."
            )
        case "same predictions":
            give = "gives" if one else "give"
            return f"{names} {give} the same predictions as “{first.b}”: these patches cannot distinguish them."


def _too_few_seeds(verdict: Verdict) -> str:
    if verdict.seeds < verdict.seeds_run:
        networks = "one network" if verdict.seeds == 1 else f"{verdict.seeds} networks"
        return f"{verdict.seeds_run} seeds gave {networks}, and chance cannot be told from a difference"
    seeds = "one seed" if verdict.seeds == 1 else f"{verdict.seeds} seeds"
    return f"{seeds} cannot tell a difference from chance"


def own(evidence: Evidence) -> list[str]:
    """What is told of metrics of the user's own."""
    return [replace(verdict, a=f"“{verdict.a}”", b=f"“{verdict.b}”").in_words() for verdict in evidence.own_verdicts]


def how_sure(evidence: Evidence) -> list[str]:
    """On what the answer rests: a single difference with its interval; seeds and slides."""
    reasons = _joined(dict.fromkeys(verdict.reason for verdict in evidence.verdicts if verdict.reason))
    based = (
        f"Based on {evidence.seeds} {'seed' if evidence.seeds == 1 else 'seeds'}, {evidence.patches:,} patches from "
        f"{evidence.clusters:,} {CLUSTER_NAMES[evidence.cluster_kind]}{f' ({reasons})' if reasons else ''}."
    )
    verdict = evidence.verdicts[0]
    if len(evidence.verdicts) > 1 or verdict.outcome in ("same network", "same predictions"):
        return [based]
    seeds = f"; {verdict.in_seeds}" if verdict.seeds > 1 else ""
    return [f"Difference {verdict.difference:+.3f} ({verdict.interval_in_words()}{seeds}).", based]


def _joined(names: Iterable[str]) -> str:
    *others, last = [*names] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def varied(evidence: Evidence) -> str:
    """What differs from seed to seed, and what does not."""
    return f"{_counted(evidence)}{_varied(evidence)}"


def _counted(evidence: Evidence) -> str:
    """That some seeds are not counted; nothing where all are."""
    if evidence.seeds == evidence.seeds_run:
        return ""
    networks = "one network" if evidence.seeds == 1 else f"{evidence.seeds} networks"
    return (
        f"{evidence.seeds_run} seeds gave {networks} of each variant, identical to the last bit, and count as "
        f"{evidence.seeds}; use --folds to make seeds differ. "
    )


def _varied(evidence: Evidence) -> str:
    if evidence.seeds == 1:
        return "With one seed, how much scores vary between seeds is not known."
    if not evidence.varied:
        return "What differs between seeds is not recorded."
    *others, last = evidence.varied
    together = f"{', '.join(others)} and {last}" if others else last
    vary = "vary together" if others else "varies"
    own = " Within one seed all variants share them." if others else ""
    told = f"Between seeds, {together} {vary}.{own}"
    if "split" in evidence.varied:
        folds = f" into {evidence.folds} folds" if evidence.folds > 1 else ""
        return f"{told} Each seed draws its own split{folds}; no patch is scored by a network that was trained on it."
    return f"{told} All seeds share one split; use --folds to see how much another split changes the scores."


def rule(asked: Iterable[Evidence]) -> list[str]:
    """How a verdict is reached, fixed before anyone looks; what several questions have in common is said once.

    Nothing is said of evidence without a verdict.
    """
    said: dict[str, None] = {}
    for evidence in (found for found in asked if found.verdicts):
        beyond = "another hospital" if evidence.folds > 1 else "another split or another hospital"
        said |= dict.fromkeys(
            [
                f"The rule was fixed beforehand. “Better” needs at least {FEWEST_SEEDS} different seeds, at least "
                f"{FEWEST} {CLUSTER_NAMES[evidence.cluster_kind]} with each class (counted as if of equal size), "
                "P(better) of at least 0.75, a 95 % interval that excludes zero (after Holm's correction when several "
                f"questions are asked), and a difference of at least {evidence.verdicts[0].smallest_effect:g}.",
                "If only the last is missing, the difference is “too small to matter”; in every other case there is "
                "“no evidence”.",
                f"Intervals come from a bootstrap over {CLUSTERS_IN_WORDS[evidence.cluster_kind]} and seeds; they do "
                f"not cover {beyond}.",
                *_slides_unknown(evidence),
            ]
        )
        if evidence.independent:
            said[_INDEPENDENT] = None
    return list(said)


def _slides_unknown(evidence: Evidence) -> list[str]:
    """What it means that slides are replaced by groups or clusters."""
    match evidence.cluster_kind:
        case "slide" | "patient":
            return []
        case "group":
            return ["Slides are not known. If a group is smaller than a slide, these intervals are too narrow."]
        case "slide+group":
            return ["Not all slides are known. If a group is smaller than a slide, these intervals are too narrow."]
        case "stain" | "slide+stain":
            return [STAIN_CAUTION]


def assumed_independent(tests: IndependentTests) -> list[str]:
    """What the tests that take patches as independent say, run pair by run pair."""
    named = {"DeLong's test (AUC)": tests.delong, "McNemar's test (threshold 0.5)": tests.mcnemar}
    return [f"{name}: {_significant(tests, p_values)}" for name, p_values in named.items()]


def _significant(tests: IndependentTests, signed: tuple[float, ...]) -> str:
    """How many of the signed p-values speak for either at 5 %."""
    significant = [p for p in signed if abs(p) <= _SIGNIFICANT]
    better = sum(not np.signbit(p) for p in significant)
    worse = len(significant) - better
    pairs = "1 run pair" if len(signed) == 1 else f"{len(signed)} run pairs"
    told = [f"{how} in {count}" for how, count in (("better", better), ("worse", worse)) if count]
    if not told:
        return (
            f"no significant difference between “{tests.a}” and “{tests.b}” in any of {pairs} (p ≤ {_SIGNIFICANT:g})."
        )
    return f"“{tests.a}” is significantly {_joined(told)} of {pairs} than “{tests.b}” (p ≤ {_SIGNIFICANT:g})."


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
    beside = {"better": "holds here", "worse": "is reversed here"}
    told = beside.get(verdict.outcome, "is not confirmed by these runs")
    return f"The notebook preferred “{verdict.a}” to “{verdict.b}”, on one run each: that {told}."


def inflation(evidence: Evidence) -> list[str]:
    """What the random split adds to, or takes from, the score of the trusted one."""
    return [_inflation(verdict) for verdict in evidence.verdicts]


def _inflation(verdict: Verdict) -> str:
    told = f"{verdict.interval_in_words()}; {verdict.in_seeds}"
    by = f"The random split changes the score by {verdict.difference:+.3f} {verdict.metric} ({told})"
    match verdict.outcome:
        case "better":
            inflated = f"inflates the score by {abs(verdict.difference):.3f} {verdict.metric} ({told})"
            return f"The random split {inflated}: the network recognises the slides."
        case "worse":
            worse = "lower" if verdict.gain > 0 else "worse"
            return (
                f"The random split gives a {worse} score, by {abs(verdict.difference):.3f} {verdict.metric} ({told})."
            )
        case "too few seeds":
            return f"{by}. Whether that is chance is not known: a verdict needs at least {FEWEST_SEEDS} seeds."
        case "too few slides":
            return f"{by}. Whether that is chance is not known: too few slides or groups ({verdict.reason})."
        case "no spread":
            return f"{by}. Whether that is chance is not known: the difference is {verdict.reason}."
        case "same network" | "same predictions":
            return "The random split gives the same predictions as the trusted one: both splits are the same here."
        case "too small to matter":
            return f"{by}: a difference, but less than {verdict.smallest_effect:g}, the smallest that matters."
        case "no evidence" | "not asked":
            return f"{by}: no evidence of a difference from the trusted split."


def spread(variants: Sequence[Variant[R]], metric: str) -> str:
    """How far the variants' means lie apart, beside how far the seeds of one variant do."""
    name = METRIC_NAMES[metric]
    if len(variants) == 1 and len(variants[0].repeats) == 1:
        return f"One variant, one run: its {name} is {number(variants[0].mean(metric), 3)}."
    means = [variant.mean(metric) for variant in variants]
    between = max(means) - min(means)
    if len(variants[0].repeats) == 1:
        return f"Variants differ by up to {between:.3f} in {name}, one run each; the spread between seeds is not known."
    within = max(float(np.ptp(variant.scores(metric))) for variant in variants)
    if len(variants) == 1:
        return f"Seeds of this variant differ by up to {within:.3f} in {name}."
    told = f"Variants differ by up to {between:.3f} in mean {name}; seeds of the same variant by up to {within:.3f}."
    return f"{told} Seeds matter as much as variants here." if within >= between else told


def same_training(comparison: Comparison) -> str | None:
    """Why table 2 shows one training accuracy several times; None where it does not."""
    if any(variant.blends for variant in comparison.variants):
        return None
    keys = {key for variant in comparison.variants for key in variant.settings}
    last = {
        tuple(float(run.history["training_accuracy"].iloc[-1]) for run in variant.runs)
        for variant in comparison.variants
    }
    if keys != {"model.bn_momentum"} or len(comparison.variants) < 2 or len(last) > 1:
        return None
    return (
        "Training accuracy is the same for every momentum, as it must be: in training, batch normalisation uses the "
        "mean and standard deviation of the batch. The momentum only affects the running averages, which are used in "
        "validation."
    )


def chosen_by(questions: Collection[str], metric: str) -> str:
    """What a study's variant was chosen by: an audit of splits alone chooses by trust, not by score."""
    if set(questions) == {"leak"}:
        return "was trained on the split that can be trusted"
    best = "highest" if gain(metric) > 0 else "lowest"
    return f"has the {best} mean validation {METRIC_NAMES[metric]}"
