"""Comparisons and their evidence -> what a page shows of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sentinode.report.figures import charts
from sentinode.report.prose import notebook
from sentinode.report.prose import verdicts as words
from sentinode.report.prose.cautions import split_caution, split_name
from sentinode.report.prose.model_statements import curves_statement
from sentinode.report.sections.patches import Answer
from sentinode.report.sections.tables import intervals, kept_scores, over_seeds, verdicts
from sentinode.runs.variant import R, Variant
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import Evidence

_AUC: Final = {"validation_auc": "Validation AUC"}


def answered(key: str, comparison: Comparison[R], evidence: Evidence, *, preference: str | None = None) -> list[Answer]:
    """The question, its verdicts and the forest plot; nothing where there is one variant only.

    `preference` is what the notebook answered.
    """
    if not evidence.verdicts:
        return []
    return [
        Answer(
            words.question(evidence),
            words.answer(evidence),
            [*words.how_sure(evidence), *([preference] if preference else []), *words.own(evidence)],
            [charts.forest(key, evidence, comparison.variants)],
            key,
        )
    ]


def leak_answered(leak: Comparison, evidence: Evidence) -> Answer:
    trusted = split_caution(leak.variants[0].runs[0].record)
    least = "The trusted split may leak too, so the true inflation may be larger."
    return Answer(
        "Does a random split inflate the score?",
        " ".join(words.inflation(evidence)),
        [*words.how_sure(evidence), *([least] if trusted else [])],
        [charts.forest("leak", evidence, leak.variants, better="looks better")],
        "leak",
    )


def compared(comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    """What the section on a comparison has beyond its answer."""
    variants, swatches = comparison.variants, charts.colours(comparison.variants)
    told = over_seeds(comparison)
    return {
        **weighed("compare", "Comparison", comparison, evidence),
        "plots": [*charts.training_and_validation(variants, 1), *charts.together("compare", variants, _AUC)],
        "curves_lead": curves_statement([run for variant in variants for run in variant.runs]),
        "last_epochs": notebook.last_epochs(variants, swatches, f"Table 1. Accuracy after the last epoch: {told}."),
        "notebook": " ".join(filter(None, [notebook.difference(comparison), notebook.reference(variants)])),
    }


def tuned(tuning: Comparison, evidence: Evidence, *, first_plot: int, pruned: int, folder: str) -> dict[str, Any]:
    """What the section on a search has beyond its answer; `folder` is the study's name."""
    variants, swatches = tuning.variants, charts.colours(tuning.variants)
    told = over_seeds(tuning)
    momenta = {key for variant in variants for key in variant.settings} == {"model.bn_momentum"}
    by = " by momentum" if momenta else ""
    titles = {
        "training_accuracy": f"Plot {first_plot}. Training accuracy{by}",
        "validation_accuracy": f"Plot {first_plot + 1}. Validation accuracy{by}",
        "validation_loss": "Validation loss",
        **_AUC,
    }
    best = tuning.best(tuning.metric)
    return {
        **weighed("tune", "Tuning", tuning, evidence),
        "best": best.name,
        "command": _command(best, folder),
        "by_parameter": charts.by_parameter(variants, tuning.metric),
        "plots": charts.together("tune", variants, titles),
        "last_epochs": notebook.last_epochs(variants, swatches, f"Table 2. Accuracy after the last epoch: {told}."),
        "notebook": notebook.reference(variants),
        "same_training": words.same_training(tuning),
        "pruned": pruned,
    }


def _command(best: Variant, folder: str) -> str:
    """Trains its first run once more, from the settings that the run's folder holds."""
    settings = f"{folder}/runs/{best.runs[0].name}/config.toml"
    return f"sentinode train DATA --config {shlex.quote(settings)} --out best"


def leaked(leak: Comparison, evidence: Evidence) -> dict[str, Any]:
    """The leak audit: one model, several splits, the trusted one first."""
    trusted = leak.variants[0].runs[0].record
    splits = {
        "grouped": f"{split_name(trusted.split_basis)}: the trusted split",
        "random": "patch by patch, slides ignored",
    }
    return {
        **weighed("leak", "Leak audit", leak, evidence),
        "splits": {variant.name: splits[variant.name] for variant in leak.variants},
    }


def weighed(
    key: str, title: str, comparison: Comparison[R], evidence: Evidence, *, patches: str = "validation"
) -> dict[str, Any]:
    """Differences, scores and curves with what is known of their spread; `patches` says what was scored."""
    variants, swatches = comparison.variants, charts.colours(comparison.variants)
    labels = variants[0].predictions.labels
    both_classes = 0 < int((labels == 1).sum()) < len(labels)
    whose = f"{patches[:1].upper()}{patches[1:]} scores"
    return {
        "verdicts": verdicts(evidence) if evidence.verdicts else None,
        "intervals": intervals(evidence, swatches, whose),
        "scores": kept_scores(variants, swatches, f"{whose}: {over_seeds(comparison)}."),
        "by_seed": charts.by_seed(key, variants, "auc", patches=patches),
        "curves": charts.roc_and_precision(key, evidence, variants, title) if both_classes else [],
        "independent": [told for tests in evidence.independent for told in words.assumed_independent(tests)],
    }


def said_once(answers: Sequence[Answer]) -> list[Answer]:
    """The answers without what an earlier one has said."""
    said: set[str] = set()
    shortened = []
    for each in answers:
        again = each.answer in said
        sure = [sentence for sentence in each.sure if sentence not in said]
        said |= {each.answer, *each.sure}
        shortened.append(
            replace(each, answer="Not known either, for the same reason." if again else each.answer, sure=sure)
        )
    return shortened
