"""A finished study -> what its page shows, section by section."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from sentinode.config import to_toml
from sentinode.experiments.compare import Comparison, Variant
from sentinode.experiments.record import ClassCounts, Study
from sentinode.experiments.run import Run
from sentinode.report import charts, data_figures, parts, words
from sentinode.report.charts import Chart
from sentinode.report.check_page import findings
from sentinode.report.claims import claim
from sentinode.report.parts import Gallery
from sentinode.report.pictures import pictures
from sentinode.report.tables import (
    METRIC_NAMES,
    Table,
    confusions,
    environment,
    intervals,
    kept_scores,
    last_epochs,
    mean_and_spread,
    networks,
    over_seeds,
    patches_per_s,
    runs_table,
)
from sentinode.report.words import Remark

_STAGES: Final = {
    "all": "labelled patches that may take part",
    "balanced": "after balancing",
    "sampled": "after sampling",
    "training": "training side",
    "validation": "validation side",
}
_ALL_VALIDATION: Final = {"auc": "Validation AUC"}


def study_context(study: Study) -> dict[str, Any]:
    runs = distinct_runs(study)
    record = study.record
    sections = {"conclusion": "Conclusion", "data": "Data", "explore": "Exploration", "networks": "Networks"}
    if study.comparison:
        sections["compare"] = "Comparison"
    if study.tuning:
        sections["tune"] = "Tuning"
    sections |= {
        "errors": "ROC and errors",
        "mistakes": "Worst mistakes",
        "settings": "Settings and runs",
        "environment": "Environment",
    }
    return {
        "title": "A study of tumour in lymph-node patches",
        "note": record.note,
        "sections": sections,
        "split_basis": record.split_basis,
        "split_in_words": record.split_in_words,
        "split_caution": words.split_caution(record.split_basis),
        "facts": facts(study, len(runs)),
        "cards": cards(study, runs),
        "conclusion": conclusion(study),
        "cautions": words.cautions(
            study.config,
            runs,
            training=_total(record.classes["training"]),
            validation=_total(record.classes["validation"]),
        ),
        "notices": record.notices,
        "class_table": class_table(study),
        "left_out": parts.left_out(record.left_out),
        "findings": findings(study.check),
        "class_charts": class_charts(study),
        "examples": [
            Gallery(
                f"{kind.capitalize()} patches",
                kind,
                pictures(study.folder, record.examples.get(kind, [])),
                "No tumour in the centre square." if kind == "negative" else "Tumour in the centre square.",
            )
            for kind in ("negative", "positive")
        ],
        "appearance": charts.appearance(study.explore),
        "appearance_patches": study.explore["patches"],
        "by_slide": charts.by_slide(study.explore),
        "networks": networks(_variants(study)),
        "several_seeds": len(study.config.seeds) > 1,
        "compare": compared(study, study.comparison) if study.comparison else None,
        "tune": tuned(study, study.tuning) if study.tuning else None,
        "roc": [
            charts.roc(key, comparison.variants, title)
            for key, comparison, title in (
                ("compare", study.comparison, "Comparison"),
                ("tune", study.tuning, "Tuning"),
            )
            if comparison
        ],
        "chosen": study.chosen,
        "matrix": parts.matrix(study.chosen.runs[0]),
        "confusions": confusions(study.chosen.runs),
        "mistakes": parts.mistakes(study.folder, study.chosen.runs[0]),
        "settings": to_toml(study.config),
        "runs_table": runs_table(runs, study.config.run_config()),
        "environment": environment(runs[0].environment),
    }


def distinct_runs(study: Study) -> list[Run]:
    """Every run once; comparison and tuning may share some."""
    return list({run.name: run for variant in _variants(study) for run in variant.runs}.values())


def facts(study: Study, run_count: int) -> list[str]:
    record = study.record
    parts_told = ", ".join(f"{count:,} {part}" for part, count in record.patches.items())
    seeds = len(study.config.seeds)
    return [
        f"{parts_told} patches ({record.data_kind} folder)",
        f"preset {record.preset}" if record.preset else "own settings",
        f"{run_count} runs, {seeds} {'seed' if seeds == 1 else 'seeds'} a variant",
    ]


def cards(study: Study, runs: list[Run]) -> list[tuple[str, str, str]]:
    """Key numbers: what, how much, and a note."""
    record, chosen, metric = study.record, study.chosen, study.config.fit.metric
    sides = record.classes
    seeds = len(study.config.seeds)
    shown = [
        (
            "Patches used",
            f"{_total(sides['sampled']):,}",
            f"{_total(sides['training']):,} to train, {_total(sides['validation']):,} to validate",
        ),
        (
            "Split",
            words.split_name(record.split_basis),
            "slides kept apart" if record.split_basis == "slide" else "read with care",
        ),
        ("Runs", f"{len(runs)}", f"{seeds} {'seed' if seeds == 1 else 'seeds'} a variant"),
    ]
    scores = dict.fromkeys(("auc", metric))
    shown += [
        (
            f"Validation {METRIC_NAMES[name]}",
            mean_and_spread(chosen.scores(name), 3),
            f"{chosen.name}: {'one run' if len(chosen.runs) == 1 else f'mean ± SD, {len(chosen.runs)} seeds'}",
        )
        for name in scores
    ]
    speed = float(np.median([patches_per_s(run) for run in runs]))
    return [*shown, ("Training speed", f"{speed:,.0f} / s", "patches, median of the runs")]


def conclusion(study: Study) -> list[Remark]:
    said = []
    if study.comparison:
        claims = [words.against_claims(study.comparison), _preference(study, "compare", study.comparison)]
        sentences = [*words.verdicts(study.evidence["compare"]), *(claim for claim in claims if claim)]
        said.append(Remark("Comparison", " ".join(sentences)))
    if study.tuning:
        preference = _preference(study, "tune", study.tuning)
        sentences = [*words.verdicts(study.evidence["tune"]), *([preference] if preference else [])]
        said.append(Remark("Tuning", " ".join([words.spread(study.tuning, "auc"), *sentences])))
    said.append(Remark("Choice", words.chosen(study.chosen, study.config.fit.metric, study.record.submission_rows)))
    if study.record.note:
        marked = f"These data are marked “{study.record.note}”: no figure here says anything about patients."
        said.append(Remark("Data", marked))
    return [*said, Remark("Use", words.NO_CLINIC)]


def _preference(study: Study, question: str, comparison: Comparison) -> str | None:
    settings = {variant.name: variant.settings for variant in comparison.variants}
    return words.notebook_preference(study.evidence[question], settings)


def verdict_block(study: Study, question: str, comparison: Comparison) -> dict[str, Any]:
    """Verdicts in words, their forest plot, the rule, and every metric's interval."""
    evidence, variants = study.evidence[question], comparison.variants
    return {
        "sentences": words.verdicts(evidence),
        "rule": words.rule(evidence) if evidence.verdicts else "",
        "forest": [charts.forest(question, evidence, variants)] if evidence.verdicts else [],
        "intervals": intervals(evidence, charts.colours(variants)),
    }


def class_table(study: Study) -> Table:
    rows = []
    for stage, meaning in _STAGES.items():
        counts = study.record.classes[stage]
        total = _total(counts)
        share = f"{counts.positive / total:.1%}" if total else "–"
        rows.append([meaning, f"{counts.negative:,}", f"{counts.positive:,}", f"{total:,}", share])
    return Table(
        "From the folder to the two sides.", ["patches", "negative", "positive", "all", "positive share"], rows
    )


def class_charts(study: Study) -> list[Chart]:
    everything, balanced = study.record.classes["all"], study.record.classes["balanced"]
    dropped = study.config.balance.drop_negative_fraction
    caption = f"{dropped:.0%} of the negatives dropped." if dropped else "These settings drop no negatives."
    return [
        Chart(
            "Chart 1. All labelled patches",
            data_figures.class_counts("chart-1", everything.negative, everything.positive),
        ),
        Chart(
            "Chart 2. Balanced",
            data_figures.class_counts("chart-2", balanced.negative, balanced.positive),
            caption,
        ),
    ]


def compared(study: Study, comparison: Comparison) -> dict[str, Any]:
    variants, swatches = comparison.variants, charts.colours(comparison.variants)
    seeds = over_seeds(len(comparison.seeds))
    return {
        "plots": charts.training_and_validation(variants, 1),
        "more": [
            *charts.validation_together("compare", variants, _ALL_VALIDATION),
            charts.by_seed("compare", variants, "auc"),
        ],
        "last_epochs": last_epochs(variants, swatches, f"Table 1. Accuracy after the last epoch: {seeds}."),
        "scores": kept_scores(variants, swatches, f"Validation scores of the kept weights: {seeds}."),
        "notebook": words.NOTEBOOK if any(claim(variant.settings) for variant in variants) else "",
        "verdict": verdict_block(study, "compare", comparison),
        "words": words.seen(comparison, ["auc", "accuracy"]),
    }


def tuned(study: Study, tuning: Comparison) -> dict[str, Any]:
    variants, swatches = tuning.variants, charts.colours(tuning.variants)
    seeds = over_seeds(len(tuning.seeds))
    # Two plots for each compared variant come first: 5 and 6 in the notebook's study.
    plot = 1 + 2 * (len(study.comparison.variants) if study.comparison else 2)
    titles = {"accuracy": f"Plot {plot}. Validation accuracy", "loss": f"Plot {plot + 1}. Validation loss"}
    return {
        "plots": [
            *charts.validation_together("tune", variants, titles | _ALL_VALIDATION),
            charts.by_seed("tune", variants, "auc"),
        ],
        "last_epochs": last_epochs(variants, swatches, f"Table 2. Accuracy after the last epoch: {seeds}."),
        "scores": kept_scores(variants, swatches, f"Validation scores of the kept weights: {seeds}."),
        "notebook": words.NOTEBOOK if any(claim(variant.settings) for variant in variants) else "",
        "same_training": words.same_training(tuning),
        "verdict": verdict_block(study, "tune", tuning),
        "words": [words.spread(tuning, "auc"), *words.seen(tuning, ["auc"])],
        "pruned": study.record.tune_pruned,
    }


def _variants(study: Study) -> list[Variant]:
    return [variant for asked in (study.comparison, study.tuning) if asked for variant in asked.variants]


def _total(counts: ClassCounts) -> int:
    return counts.negative + counts.positive
