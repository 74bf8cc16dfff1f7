"""A finished study -> what its page shows, section by section."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.experiments.record import ClassCounts
from sentinode.experiments.run import Run
from sentinode.experiments.study import Study
from sentinode.explain.review import Review
from sentinode.report import charts, comparison_part, data_figures, notebook, parts, verdict_words, words
from sentinode.report.cautions import Remark, cautions, kept_apart, split_caution, split_name
from sentinode.report.charts import Chart
from sentinode.report.check_page import findings
from sentinode.report.data_statements import centre_square, label_rule
from sentinode.report.decision_part import decision_part
from sentinode.report.model_card import model_card
from sentinode.report.network_statements import augmentation_statement, inputs_statement
from sentinode.report.parts import Gallery
from sentinode.report.pictures import pictures
from sentinode.report.review_part import review_part
from sentinode.report.standards import checklists
from sentinode.report.steps import PRESET, steps
from sentinode.report.tables import (
    Table,
    confusions,
    environment,
    mean_and_spread,
    networks,
    patches_per_s,
    runs_table,
)
from sentinode.settings import to_toml

_STAGES: Final = {
    "all": "labelled patches that may take part",
    "balanced": "after balancing",
    "sampled": "after sampling",
    "training": "training side",
    "validation": "validation side",
}


def study_context(study: Study) -> dict[str, Any]:
    runs = distinct_runs(study)
    record, first = study.record, study.chosen.repeats[0]
    sections = {"conclusion": "Conclusion"}
    if record.preset == PRESET:
        sections["steps"] = "Step by step"
    sections |= {"data": "Data", "explore": "Exploration", "networks": "Networks"}
    if study.comparison:
        sections["compare"] = "Comparison"
    if study.tuning:
        sections["tune"] = "Tuning"
    if study.leak:
        sections["leak"] = "Leak audit"
    sections |= {
        "decision": "Calibration and operating points",
        "errors": "Confusion matrix",
        "review": "Errors and doubts",
        "standards": "Model card and reporting standards",
        "settings": "Settings and runs",
        "environment": "Environment",
    }
    return {
        "title": "A study of tumour in lymph-node patches",
        "note": record.note,
        "sections": sections,
        "split_basis": record.split_basis,
        "split_in_words": record.split_in_words,
        "split_caution": split_caution(study.chosen.runs[0].record),
        "facts": facts(study, len(runs)),
        "cards": cards(study, runs),
        "conclusion": conclusion(study),
        "cautions": cautions(runs),
        "notices": record.notices,
        "label_rule": label_rule(record.origin),
        "centre_square": centre_square(record.origin),
        "tables": [shown for table in record.tables for shown in parts.head(table)],
        "class_table": class_table(study),
        "left_out": parts.left_out(record.left_out),
        "findings": findings(study.check),
        "class_charts": class_charts(study),
        "examples": [
            Gallery(
                f"{kind.capitalize()} patches",
                kind,
                pictures(study.folder, record.examples.get(kind, [])),
                "Labelled none." if kind == "negative" else "Labelled tumour.",
            )
            for kind in ("negative", "positive")
        ],
        "inputs": parts.inputs(study.folder, record.inputs),
        "inputs_lead": f"{inputs_statement(study.chosen.runs)} {augmentation_statement(study.chosen.runs)}",
        "steps": steps(study) if record.preset == PRESET else [],
        "its_notebook": notebook.is_its_question(study.variants),
        "appearance": charts.appearance(study.explore),
        "appearance_patches": study.explore["patches"],
        "by_slide": charts.by_slide(study.explore),
        "networks": networks(study.variants),
        "several_runs": len(study.chosen.runs) > 1,
        "compare": comparison_part.compared(study.comparison, study.evidence["compare"]) if study.comparison else None,
        "tune": _tuned(study) if study.tuning else None,
        "leak": comparison_part.leaked(study.leak, study.evidence["leak"]) if study.leak else None,
        "chosen": study.chosen,
        "matrix": parts.matrix(
            f"Seed {first.seed} of “{study.chosen.name}”, validation side, kept weights", first.predictions
        ),
        "confusions": confusions(study.chosen),
        "folds": {"seeds": len(study.chosen.repeats), "runs": len(study.chosen.runs)}
        if study.config.split.folds
        else None,
        "decision": decision_part("study", study.decision),
        "review": review_part(study.folder, Review.from_json(study.errors)),
        "model_card": model_card(study),
        "checklists": checklists(study),
        "settings": to_toml(study.config),
        "runs_table": runs_table(runs, study.config.run_config()),
        "environment": environment(runs[0].environment),
    }


def distinct_runs(study: Study) -> list[Run]:
    """Every run once; comparison and tuning may share some."""
    return list({run.name: run for variant in study.variants for run in variant.runs}.values())


def facts(study: Study, run_count: int) -> list[str]:
    record = study.record
    parts_told = ", ".join(f"{count:,} {part}" for part, count in record.patches.items())
    return [
        f"{parts_told} patches ({record.data_kind} folder)",
        f"preset {record.preset}" if record.preset else "own settings",
        f"{run_count} runs, {_a_variant(study)}",
    ]


def _a_variant(study: Study) -> str:
    seeds, folds = len(study.config.seeds), study.config.split.folds
    return f"{seeds} {'seed' if seeds == 1 else 'seeds'}{f' × {folds} folds' if folds else ''} a variant"


def cards(study: Study, runs: list[Run]) -> list[tuple[str, str, str]]:
    """Key numbers: what, how much, and a note."""
    record, chosen, metric = study.record, study.chosen, study.config.fit.metric
    sides, seeds = record.classes, len(chosen.repeats)
    shown = [
        (
            "Patches used",
            f"{_total(sides['sampled']):,}",
            f"{_total(sides['training']):,} to train, {_total(sides['validation']):,} to validate"
            f"{', each once' if study.config.split.folds else ''}",
        ),
        (
            "Split",
            split_name(record.split_basis),
            kept_apart(record.split_basis),
        ),
        ("Runs", f"{len(runs)}", _a_variant(study)),
    ]
    scores = dict.fromkeys(("auc", metric))
    shown += [
        (
            f"Validation {METRIC_NAMES[name]}",
            mean_and_spread(chosen.scores(name), 3),
            f"{chosen.name}: {'one seed' if seeds == 1 else f'mean ± SD, {seeds} seeds'}",
        )
        for name in scores
    ]
    speed = float(np.median([patches_per_s(network) for run in runs for network in run.networks]))
    return [*shown, ("Training speed", f"{speed:,.0f} / s", "patches, median of the runs")]


def conclusion(study: Study) -> list[Remark]:
    said = []
    if study.comparison:
        claims = [
            notebook.difference(study.comparison),
            notebook.preference(study.comparison, study.evidence["compare"]),
        ]
        sentences = [*verdict_words.verdicts(study.evidence["compare"]), *(claim for claim in claims if claim)]
        said.append(Remark("Comparison", " ".join(sentences)))
    if study.tuning:
        preference = notebook.preference(study.tuning, study.evidence["tune"])
        sentences = [*verdict_words.verdicts(study.evidence["tune"]), *([preference] if preference else [])]
        said.append(Remark("Tuning", " ".join([words.spread(study.tuning, "auc"), *sentences])))
    if study.leak:
        said.append(Remark("Leak", " ".join(verdict_words.inflation(study.evidence["leak"]))))
    metric = study.config.fit.metric
    by = words.chosen_by(study.comparisons, metric)
    said.append(Remark("Choice", words.chosen(study.chosen, metric, study.record.submission_rows, by=by)))
    if study.record.note:
        marked = f"These data are marked “{study.record.note}”: no figure here says anything about patients."
        said.append(Remark("Data", marked))
    return [*said, Remark("Use", words.NO_CLINIC)]


def _tuned(study: Study) -> dict[str, Any]:
    assert study.tuning is not None
    # Two plots for each compared variant come first: 5 and 6 in the notebook's study.
    first_plot = 1 + 2 * (len(study.comparison.variants) if study.comparison else 2)
    return comparison_part.tuned(
        study.tuning, study.evidence["tune"], first_plot=first_plot, pruned=study.record.tune_pruned
    )


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
    first = data_figures.class_counts("chart-1", everything.negative, everything.positive)
    shown = [Chart("Chart 1. All labelled patches", first)]
    if study.config.balance:
        dropped = study.config.balance.drop_negative_fraction
        second = data_figures.class_counts("chart-2", balanced.negative, balanced.positive)
        shown.append(Chart("Chart 2. Balanced", second, f"{dropped:.0%} of the negatives dropped."))
    return shown


def _total(counts: ClassCounts) -> int:
    return counts.negative + counts.positive
