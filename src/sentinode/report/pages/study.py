"""A finished study -> what its page shows, section by section."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.explain.explanation import Explanation
from sentinode.records import read_record
from sentinode.report.figures import charts
from sentinode.report.figures.charts import Chart
from sentinode.report.pages.check import findings
from sentinode.report.prose import notebook
from sentinode.report.prose import verdicts as words
from sentinode.report.prose.cautions import NO_CLINIC, Remark, cautions, split_caution
from sentinode.report.prose.data_statements import centre_square, label_rule
from sentinode.report.prose.model_statements import augmentation_statement, inputs_statement
from sentinode.report.prose.numbers import many, mean_and_spread
from sentinode.report.sections import comparison as comparison_part
from sentinode.report.sections import patches as parts
from sentinode.report.sections.decision import decision_part
from sentinode.report.sections.explanation import look_part
from sentinode.report.sections.patches import Answer, Gallery, pictures
from sentinode.report.sections.review import review_part
from sentinode.report.sections.steps import PRESET, steps
from sentinode.report.sections.tables import Table, confusions, environment, networks, runs_table
from sentinode.report.standards.checklists import checklists
from sentinode.report.standards.model_card import model_card
from sentinode.runs.run import Run
from sentinode.runs.study_record import STUDY_EXPLANATION
from sentinode.settings import to_toml
from sentinode.studies.study import FinishedStudy

_STAGES: Final = {
    "all": "labelled patches in use",
    "balanced": "after balancing",
    "sampled": "after sampling",
    "training": "training set",
    "validation": "validation set",
}


def study_context(study: FinishedStudy) -> dict[str, Any]:
    # Each once: comparison and tuning may share some.
    runs = list({run.name: run for variant in study.variants for run in variant.runs}.values())
    record, first = study.record, study.chosen.repeats[0]
    explanation = _explanation(study.folder)
    compare, tune, leak = study.comparison, study.tuning, study.leak
    class_table, of_classes = class_counts(study)
    return {
        "title": "A study of tumour in lymph-node patches",
        "note": record.note,
        "sections": _sections(study),
        "split_basis": record.split_basis,
        "facts": facts(study, len(runs)),
        "answers": answers(study),
        "rule": [
            *dict.fromkeys(words.varied(found) for found in study.evidence.values()),
            *words.rule(study.evidence.values()),
        ],
        "split_caution": split_caution(study.chosen.runs[0].record),
        "cautions": marks(study, runs),
        "notices": record.notices,
        "data_lead": f"{label_rule(record.origin)} The split is {record.split_in_words}.",
        "centre_square": centre_square(record.origin),
        "tables": [shown for table in record.tables for shown in parts.head(table)],
        "class_table": class_table,
        "class_charts": of_classes,
        "left_out": parts.left_out(record.left_out),
        "findings": findings(study.check),
        "examples": [
            Gallery(
                f"{kind.capitalize()} patches",
                kind,
                pictures(study.folder, record.examples.get(kind, [])),
                "Drawn at random among those labelled as tumour-free."
                if kind == "negative"
                else "Drawn at random among those labelled as tumour.",
            )
            for kind in ("negative", "positive")
        ],
        "inputs": parts.inputs(study.folder, record.inputs),
        "inputs_lead": f"{inputs_statement(study.chosen.runs)} {augmentation_statement(study.chosen.runs)}",
        "steps": steps(study) if record.preset == PRESET else [],
        "its_notebook": notebook.is_its_question(study.variants),
        "appearance": charts.appearance(study.explore),
        "appearance_patches": study.explore.patches,
        "by_slide": charts.by_slide(study.explore),
        "networks": networks(study.variants),
        "compare": comparison_part.compared(compare, study.evidence["compare"]) if compare else None,
        "tune": _tuned(study) if tune else None,
        "leak": comparison_part.leaked(leak, study.evidence["leak"]) if leak else None,
        "chosen": study.chosen,
        "matrix": parts.matrix(f"“{study.chosen.name}”, seed {first.seed}, validation set", first.predictions),
        "confusions": confusions(study.chosen) if len(study.chosen.repeats) > 1 else None,
        "folds": {"seeds": len(study.chosen.repeats), "runs": len(study.chosen.runs)}
        if study.config.split.folds
        else None,
        "decision": decision_part("study", study.decision),
        "look": look_part(explanation) if explanation else None,
        "review": review_part(study.folder, study.errors, explanation),
        "model_card": model_card(study),
        "checklists": checklists(study),
        "settings": to_toml(study.config),
        "runs_table": runs_table(runs, study.config.run_config()),
        "environment": environment(runs[0].environment),
    }


def _explanation(folder: Path) -> Explanation | None:
    """What the chosen variant looks at, where the study has it."""
    path = folder / STUDY_EXPLANATION
    return read_record(path, Explanation) if path.is_file() else None


def _sections(study: FinishedStudy) -> dict[str, str]:
    """Titles by anchor: the answers, what they rest on, then the data, then what a reviewer asks for."""
    asked = {"compare": "Comparison", "tune": "Tuning", "leak": "Leak audit"}
    return {
        "conclusion": "Answers",
        **({"steps": "Step by step"} if study.record.preset == PRESET else {}),
        **{key: title for key, title in asked.items() if key in study.comparisons},
        "decision": "Calibration and operating points",
        **({"look": "What it looks at"} if (study.folder / STUDY_EXPLANATION).is_file() else {}),
        "errors": "Errors and doubts",
        "data": "Data",
        "explore": "Exploration",
        "networks": "Networks",
        "standards": "Model card and reporting standards",
        "settings": "Settings, runs and environment",
    }


def facts(study: FinishedStudy, run_count: int) -> list[str]:
    record = study.record
    parts_told = ", ".join(f"{count:,} {part}" for part, count in record.patches.items())
    seeds, folds = len(study.config.seeds), study.config.split.folds
    return [
        f"{parts_told} patches ({record.data_kind} folder)",
        f"preset {record.preset}" if record.preset else "own settings",
        f"{run_count} runs, {many(seeds, 'seed')}{f' × {folds} folds' if folds else ''} per variant",
    ]


def answers(study: FinishedStudy) -> list[Answer]:
    """What was asked, each question with its answer and how sure it is, and which model is used."""
    found = []
    for question, asked in study.comparisons.items():
        if question == "leak":
            found.append(comparison_part.leak_answered(asked, study.evidence[question]))
        else:
            preference = notebook.preference(asked, study.evidence[question])
            found += comparison_part.answered(question, asked, study.evidence[question], preference=preference)
    return comparison_part.said_once([*found, _choice(study)])


def _choice(study: FinishedStudy) -> Answer:
    """Which variant was chosen: a choice that had to be made, not a verdict."""
    variant, metric = study.chosen, study.config.fit.metric
    by = words.chosen_by(study.comparisons, metric)
    runs = "its run" if len(variant.runs) == 1 else f"the mean of its {len(variant.runs)} runs"
    used = (
        f" The submission ({study.record.submission_rows:,} rows) uses {runs}." if study.record.submission_rows else ""
    )
    score = mean_and_spread(variant.distinct_scores(metric), 3)
    other = f"; AUC {mean_and_spread(variant.distinct_scores('auc'), 3)}" if metric != "auc" else ""
    if len(study.variants) == 1:
        return Answer(
            f"How well does “{variant.name}” do?", f"Validation {METRIC_NAMES[metric]} {score}{other}.{used}", []
        )
    return Answer(
        "Which model is used?",
        f"“{variant.name}”, which {by} ({score}{other}).{used}",
        ["This picks a model; it does not mean that the model is better."],
    )


def marks(study: FinishedStudy, runs: list[Run]) -> list[Remark]:
    """What a reader of the answers must know: of the data, then of the runs."""
    marked = f"These data are marked “{study.record.note}”: no number here says anything about patients."
    return [*([Remark("Synthetic data", marked)] if study.record.note else []), *cautions(runs), NO_CLINIC]


def _tuned(study: FinishedStudy) -> dict[str, Any]:
    assert study.tuning is not None
    # Two plots for each compared variant come first: 5 and 6 in the notebook's study.
    first_plot = 1 + 2 * (len(study.comparison.variants) if study.comparison else 2)
    return comparison_part.tuned(
        study.tuning,
        study.evidence["tune"],
        first_plot=first_plot,
        pruned=study.record.tune_pruned,
        folder=study.folder.name,
    )


def class_counts(study: FinishedStudy) -> tuple[Table, list[Chart]]:
    """Patches of each class from stage to stage, as a table, and the notebook's charts 1 and 2."""
    rows = []
    for stage, meaning in _STAGES.items():
        counts = study.record.classes[stage]
        total = counts.negative + counts.positive
        share = f"{counts.positive / total:.1%}" if total else "–"
        rows.append([meaning, f"{counts.negative:,}", f"{counts.positive:,}", f"{total:,}", share])
    head = ["patches", "negative", "positive", "all", "positive share"]
    everything, balanced = study.record.classes["all"], study.record.classes["balanced"]
    first = charts.class_counts("Chart 1. All labelled patches", "chart-1", everything.negative, everything.positive)
    table = Table("From the folder to the training and validation sets.", head, rows)
    if not study.config.balance:
        return table, [first]
    dropped = study.config.balance.drop_negative_fraction
    second = charts.class_counts("Chart 2. Balanced", "chart-2", balanced.negative, balanced.positive, dropped)
    return table, [first, second]
