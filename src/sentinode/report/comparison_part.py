"""Comparisons and their evidence -> what a page shows of them."""

from __future__ import annotations

from typing import Any, Final

from sentinode.experiments.comparison import Comparison
from sentinode.experiments.evidence import Evidence
from sentinode.report import charts, notebook, verdict_words, words
from sentinode.report.cautions import split_caution, split_name
from sentinode.report.network_statements import curves_statement
from sentinode.report.tables import intervals, kept_scores, over_seeds

_AUC: Final = {"validation_auc": "Validation AUC"}
_SPLITS: Final = {
    "random": "patch by patch, slides ignored",
    "stain": "by clusters of stain and texture, a stand-in for slides",
}


def compared(comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    variants, swatches = comparison.variants, charts.colours(comparison.variants)
    told = over_seeds(comparison)
    return {
        "curves_lead": curves_statement([run for variant in variants for run in variant.runs]),
        "plots": charts.training_and_validation(variants, 1),
        "more": [
            *charts.together("compare", variants, _AUC),
            charts.by_seed("compare", variants, "auc"),
        ],
        "curves": charts.roc_and_precision("compare", evidence, variants, "Comparison"),
        "last_epochs": notebook.last_epochs(variants, swatches, f"Table 1. Accuracy after the last epoch: {told}."),
        "scores": kept_scores(variants, swatches, f"Validation scores of the kept weights: {told}."),
        "notebook": notebook.FOR_REFERENCE if any(map(notebook.claim, variants)) else "",
        "verdict": verdict_block("compare", comparison, evidence),
        "words": words.seen(comparison, [name for name in ("auc", "accuracy") if name != comparison.metric]),
    }


def tuned(tuning: Comparison, evidence: Evidence, *, first_plot: int, pruned: int) -> dict[str, Any]:
    variants, swatches = tuning.variants, charts.colours(tuning.variants)
    told = over_seeds(tuning)
    momenta = {key for variant in variants for key in variant.settings} == {"model.bn_momentum"}
    by = " by momentum" if momenta else ""
    titles = {
        "training_accuracy": f"Plot {first_plot}. Training accuracy{by}",
        "validation_accuracy": f"Plot {first_plot + 1}. Validation accuracy{by}",
    }
    return {
        "plots": charts.together("tune", variants, titles),
        "more": [
            *charts.together("tune", variants, {"validation_loss": "Validation loss"} | _AUC),
            charts.by_seed("tune", variants, "auc"),
        ],
        "curves": charts.roc_and_precision("tune", evidence, variants, "Tuning"),
        "last_epochs": notebook.last_epochs(variants, swatches, f"Table 2. Accuracy after the last epoch: {told}."),
        "scores": kept_scores(variants, swatches, f"Validation scores of the kept weights: {told}."),
        "notebook": notebook.FOR_REFERENCE if any(map(notebook.claim, variants)) else "",
        "same_training": words.same_training(tuning),
        "verdict": verdict_block("tune", tuning, evidence),
        "words": [words.spread(tuning, "auc"), *words.seen(tuning, ["auc"])],
        "pruned": pruned,
    }


def leaked(leak: Comparison, evidence: Evidence) -> dict[str, Any]:
    """The leak audit: one model, several splits, the trusted one first."""
    trusted = leak.variants[0].runs[0].record
    return {
        "splits": {"grouped": f"{split_name(trusted.split_basis)}: the trusted split", **_SPLITS},
        "sentences": verdict_words.inflation(evidence),
        "rule": f"{verdict_words.varied(evidence)} {verdict_words.rule(evidence)}",
        "charts": [
            charts.forest("leak", evidence, leak.variants, better="looks better than"),
            charts.by_seed("leak", leak.variants, "auc"),
        ],
        "intervals": intervals(evidence, charts.colours(leak.variants)),
        "trusted_caution": split_caution(trusted),
        "names": [variant.name for variant in leak.variants],
    }


def verdict_block(key: str, comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    """Verdicts in words, their forest plot, what varied, the rule, every metric's interval, and the naive tests."""
    variants = comparison.variants
    return {
        "sentences": [*verdict_words.verdicts(evidence), *verdict_words.own(evidence)],
        "notebook": notebook.preference(comparison, evidence) or "",
        "varied": verdict_words.varied(evidence),
        "rule": verdict_words.rule(evidence) if evidence.verdicts else "",
        "forest": [charts.forest(key, evidence, variants)] if evidence.verdicts else [],
        "intervals": intervals(evidence, charts.colours(variants)),
        "independent": [verdict_words.assumed_independent(tests) for tests in evidence.independent],
    }
