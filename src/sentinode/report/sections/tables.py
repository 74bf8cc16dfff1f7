"""Runs -> the tables of a page: numbers become text here, and only here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from sentinode.config.run import RunConfig
from sentinode.evaluation.bootstrap import Interval
from sentinode.evaluation.clusters import CLUSTER_NAMES
from sentinode.evaluation.metrics import METRIC_NAMES, Confusion, confusion
from sentinode.inference.predictions import Predictions
from sentinode.models.summary import LayerSummary, Summary
from sentinode.report.prose.numbers import MISSING, mean_and_spread, number
from sentinode.runs.history import best_epoch
from sentinode.runs.run import Run
from sentinode.runs.variant import R, Variant
from sentinode.settings import to_flat

if TYPE_CHECKING:
    from sentinode.runs.evaluate import Intervals
    from sentinode.studies.comparison import Comparison
    from sentinode.studies.evidence import Evidence

_UNBROKEN: Final = "\u00a0"
_SIDE_BY_SIDE: Final = 5


@dataclass(frozen=True)
class Table:
    """Text in rows; the first column names the row, the columns in `text` hold words, the others numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: frozenset[str] = frozenset()
    wraps: bool = False
    """Whether a cell of numbers may take two lines."""
    swatches: Sequence[str] = ()
    """A colour beside each row's name."""
    note: str = ""
    """What a reader of its numbers must know, in small print below the caption."""


def over_seeds(comparison: Comparison[R]) -> str:
    """What a mean is over, such as "mean ± standard deviation over 5 seeds of 3 folds"."""
    seeds, folds = len(comparison.seeds), comparison.folds
    of_folds = "" if folds == 1 else f" of {folds} folds"
    if seeds == 1:
        return "one run" if folds == 1 else f"one seed, mean over {folds} folds"
    return f"mean ± standard deviation over {seeds} seeds{of_folds}"


def intervals(evidence: Evidence, colours: Sequence[str], whose: str) -> Table:
    """Every metric with its interval, a column a variant; many variants are a row each. `whose` is the caption."""
    metrics = list(next(iter(evidence.intervals.values())))
    rows = {name: [_interval(found[metric]) for metric in metrics] for name, found in evidence.intervals.items()}
    note = (
        f"95 % intervals from {evidence.replicates:,} bootstrap replicates of {evidence.clusters:,} "
        f"{CLUSTER_NAMES[evidence.cluster_kind]} and the seeds."
        f"{unknown(chain.from_iterable(of.values() for of in evidence.intervals.values()))}"
    )
    return replace(_by_variant(f"{whose}, mean over seeds.", metrics, rows, colours), note=note)


def verdicts(evidence: Evidence) -> Table:
    """Every verdict with the numbers that it rests on."""
    first = evidence.verdicts[0]
    rows = [
        [
            v.a,
            f"{v.difference:+.3f}",
            MISSING if math.isnan(v.low) else f"{v.low:+.3f} to {v.high:+.3f}".replace(" ", _UNBROKEN),
            f"{v.seeds_better} of {v.seeds}".replace(" ", _UNBROKEN),
            number(v.p_better, 2),
            number(v.p_holm, 3),
            v.outcome,
        ]
        for v in evidence.verdicts
    ]
    head = [
        "variant",
        f"{first.metric} difference",
        "95 % interval",
        "seeds higher",
        "P(better)",
        "p (Holm)",
        "verdict",
    ]
    return Table(f"Differences from “{first.b}”, and the verdicts.", head, rows, frozenset({"verdict"}))


def one_prediction(whose: str, found: Intervals) -> Table:
    """Every score of one prediction with its interval; `whose` is the caption."""
    note = (
        f"95 % intervals from {found.replicates:,} bootstrap replicates of {found.clusters:,} "
        f"{CLUSTER_NAMES[found.cluster_kind]}.{unknown(found.scores.values())}"
    )
    rows = [[METRIC_NAMES.get(metric, metric), number(of.estimate), between(of)] for metric, of in found.scores.items()]
    return Table(f"{whose}.", ["score", "value", "95 % interval"], rows, note=note)


def between(found: Interval) -> str:
    """Such as "0.880 to 0.940", on one line; "unknown"."""
    return found.ends_in_words().replace(" ", _UNBROKEN)


def unknown(found: Iterable[Interval]) -> str:
    """Why some of these intervals are unknown, each reason once, as the end of a note; "" where all are known."""
    reasons = dict.fromkeys(interval.reason for interval in found if interval.reason)
    return f" “Unknown”: {'; '.join(reasons)}." if reasons else ""


def _by_variant(
    caption: str, metrics: Sequence[str], rows: Mapping[str, Sequence[str]], colours: Sequence[str]
) -> Table:
    """Scores of variants: side by side while a page is wide enough for them, else one below another."""
    names = [METRIC_NAMES.get(metric, metric) for metric in metrics]
    if len(rows) > _SIDE_BY_SIDE:
        return Table(caption, ["variant", *names], [[name, *row] for name, row in rows.items()], swatches=colours)
    scores = [[name, *of] for name, *of in zip(names, *rows.values(), strict=True)]
    return Table(caption, ["score", *rows], scores, wraps=True)


def _interval(found: Interval) -> str:
    return f"{number(found.estimate, 3)} ({found.ends_in_words()})".replace(" ", _UNBROKEN)


def kept_scores(variants: Sequence[Variant[R]], colours: Sequence[str], caption: str) -> Table:
    rows = {
        variant.name: [mean_and_spread(variant.distinct_scores(metric), 3) for metric in METRIC_NAMES]
        for variant in variants
    }
    return _by_variant(caption, list(METRIC_NAMES), rows, colours)


def confusion_of(predictions: Predictions) -> Confusion:
    return confusion(predictions.labels, predictions.probabilities, 0.5)


def confusions(variant: Variant) -> Table:
    rows = []
    for repeat in variant.repeats:
        counts = confusion_of(repeat.predictions)
        rows.append(
            [
                f"seed\u00a0{repeat.seed}",
                f"{counts.true_positive:,}",
                f"{counts.false_negative:,}",
                f"{counts.true_negative:,}",
                f"{counts.false_positive:,}",
                number(counts.sensitivity, 3),
                number(counts.specificity, 3),
            ]
        )
    head = ["seed", "true +", "false −", "true −", "false +", "sensitivity", "specificity"]
    return Table("The same counts, seed by seed.", head, rows)


def networks(variants: Sequence[Variant]) -> list[Table]:
    """One table for each different network, named after the variants, or members of ensembles, that use it."""
    return networks_of(
        (f"{variant.name}: {network.name}" if variant.blends else variant.name, network)
        for variant in variants
        for network in variant.runs[0].networks
    )


def networks_of(named: Iterable[tuple[str, Run]]) -> list[Table]:
    """One table for each different network, named after all that have it."""
    names: dict[tuple[LayerSummary, ...], list[str]] = {}
    summaries: dict[tuple[LayerSummary, ...], Summary] = {}
    for name, run in named:
        summary = run.network_record.summary
        summaries[summary.layers] = summary
        names.setdefault(summary.layers, []).append(name)
    told = {key: ", ".join(f"“{name}”" for name in of) for key, of in names.items()}
    return [layers(f"Network of {told[key]}", summary) for key, summary in summaries.items()]


def layers(name: str, summary: Summary) -> Table:
    """As Keras's `model.summary()` has it."""
    rows = [
        [
            f"{layer.name} ({layer.kind})",
            " × ".join(map(str, layer.output_shape)) if layer.output_shape else MISSING,
            f"{layer.parameters:,}",
        ]
        for layer in summary.layers
    ]
    fixed = f"{summary.non_trainable:,} not trainable (batch-norm running averages, frozen weights)"
    trainable = f"{summary.trainable:,} trainable, {fixed}" if summary.non_trainable else "all trainable"
    caption = f"{name}: {summary.total:,} parameters, {trainable}."
    return Table(caption, ["layer", "output shape", "parameters"], rows)


def runs_table(runs: Sequence[Run], base: RunConfig) -> Table:
    """Every run: what it was set to beyond the study's settings, how it went and how long it took.

    An ensemble's members follow it, each with its settings beyond the ensemble's.
    """
    rows = []
    for run in runs:
        if not run.members:
            rows.append(_run_row(run.name, run, base))
            continue
        told = f"ensemble of {len(run.members)}: {', '.join(member.name for member in run.members)}"
        settings = ", ".join(filter(None, [told, differing(run.config, base)]))
        scores = [number(run.scores["auc"]), number(run.scores["accuracy"])]
        rows.append([run.name, settings, MISSING, MISSING, *scores, MISSING, MISSING])
        for member in run.members:
            shared = run.config.model_copy(update={"ensemble": member.config.ensemble})
            rows.append(_run_row(f"{run.name}/{member.name}", member, shared))
    head = ["run", "settings", "epochs", "kept epoch", "AUC", "accuracy", "duration, s", "patches / s"]
    return Table("", head, rows, frozenset({"settings"}))


def _run_row(name: str, run: Run, base: RunConfig) -> list[str]:
    return [
        name,
        differing(run.config, base) or "as above",
        str(len(run.history)),
        str(_kept_epoch(run)),
        number(run.scores["auc"]),
        number(run.scores["accuracy"]),
        f"{run.history['duration_s'].sum():,.0f}",
        f"{patches_per_s(run):,.0f}",
    ]


def patches_per_s(run: Run) -> float:
    """Patches trained on in a second, over all epochs of a run of one network, without the time for validation."""
    patches = run.history["training_patches"]
    return float(patches.sum() / (patches / run.history["patches_per_s"]).sum())


def _kept_epoch(run: Run) -> int:
    if run.config.fit.keep == "last":
        return len(run.history)
    rows = [{str(column): value for column, value in row.items()} for row in run.history.to_dict("records")]
    return best_epoch(rows, run.config.fit)


def differing(config: RunConfig, base: RunConfig) -> str:
    """Such as "model.norm = after, fit.seed = 26": together with the base, every setting of the run."""
    ours, theirs = to_flat(config), to_flat(base)
    told = [key for key in ours if key != "ensemble.members"]  # which have rows of their own
    return ", ".join(f"{key} = {ours[key]}" for key in told if ours[key] != theirs.get(key))


def environment(facts: Mapping[str, Any]) -> Table:
    """What the first run was computed with, nested facts as "library torch"."""
    rows: list[list[str]] = []
    for key, value in facts.items():
        if key in ("notices", "seed"):
            continue
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            rows += [[f"{name}: {inner.replace('_', ' ')}", _plain(of)] for inner, of in value.items()]
        else:
            rows.append([name, _plain(value)])
    return Table("", ["what", "value"], rows, frozenset({"value"}))


def _plain(value: Any) -> str:
    match value:
        case None | "":
            return MISSING
        case True:
            return "yes"
        case False:
            return "no"
        case Mapping():
            return ", ".join(f"{key} {_plain(of)}" for key, of in value.items()) or MISSING
        case _:
            return str(value)
