"""Comparisons and their evidence -> what a page shows of them."""

from __future__ import annotations

from typing import Any, Final

from sentinode.experiments.comparison import Comparison
from sentinode.experiments.evidence import Evidence
from sentinode.report import charts, verdict_words, words
from sentinode.report.claims import claim
from sentinode.report.tables import intervals, kept_scores, last_epochs, over_seeds

_ALL_VALIDATION: Final = {"auc": "Validation AUC"}
_SPLITS: Final = {
    "random": "patch by patch, slides ignored: the notebook's own split",
    "stain": "by clusters of stain and texture, a stand-in for slides",
}


def compared(comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    variants, swatches = comparison.variants, charts.colours(comparison.variants)
    told = over_seeds(comparison)
    return {
        "plots": charts.training_and_validation(variants, 1),
        "more": [
            *charts.validation_together("compare", variants, _ALL_VALIDATION),
            charts.by_seed("compare", variants, "auc"),
        ],
        "curves": charts.roc_and_precision("compare", evidence, variants, "Comparison"),
        "last_epochs": last_epochs(variants, swatches, f"Table 1. Accuracy after the last epoch: {told}."),
        "scores": kept_scores(variants, swatches, f"Validation scores of the kept weights: {told}."),
        "notebook": words.NOTEBOOK if any(claim(variant.settings) for variant in variants) else "",
        "verdict": verdict_block("compare", comparison, evidence),
        "words": words.seen(comparison, [name for name in ("auc", "accuracy") if name != comparison.metric]),
    }


def tuned(tuning: Comparison, evidence: Evidence, *, first_plot: int, pruned: int) -> dict[str, Any]:
    variants, swatches = tuning.variants, charts.colours(tuning.variants)
    told = over_seeds(tuning)
    titles = {
        "accuracy": f"Plot {first_plot}. Validation accuracy",
        "loss": f"Plot {first_plot + 1}. Validation loss",
    }
    return {
        "plots": [
            *charts.validation_together("tune", variants, titles | _ALL_VALIDATION),
            charts.by_seed("tune", variants, "auc"),
        ],
        "curves": charts.roc_and_precision("tune", evidence, variants, "Tuning"),
        "last_epochs": last_epochs(variants, swatches, f"Table 2. Accuracy after the last epoch: {told}."),
        "scores": kept_scores(variants, swatches, f"Validation scores of the kept weights: {told}."),
        "notebook": words.NOTEBOOK if any(claim(variant.settings) for variant in variants) else "",
        "same_training": words.same_training(tuning),
        "verdict": verdict_block("tune", tuning, evidence),
        "words": [words.spread(tuning, "auc"), *words.seen(tuning, ["auc"])],
        "pruned": pruned,
    }


def leaked(leak: Comparison, evidence: Evidence, trusted_basis: str) -> dict[str, Any]:
    """The leak audit: one model, several splits."""
    basis = words.split_name(trusted_basis)
    return {
        "splits": {"grouped": f"{basis}: the trusted split", **_SPLITS},
        "sentences": verdict_words.inflation(evidence),
        "rule": f"{verdict_words.varied(evidence)} {verdict_words.rule(evidence)}",
        "charts": [
            charts.forest("leak", evidence, leak.variants, right_of_zero="looks better than"),
            charts.by_seed("leak", leak.variants, "auc"),
        ],
        "intervals": intervals(evidence, charts.colours(leak.variants)),
        "trusted_caution": words.split_caution(trusted_basis),
        "names": [variant.name for variant in leak.variants],
    }


def notebook_preference(comparison: Comparison, evidence: Evidence) -> str | None:
    """The notebook's claims about these variants beside our verdicts."""
    models = {variant.name: variant.runs[0].config.model for variant in comparison.variants}
    if any(variant.blends for variant in comparison.variants):
        return None  # the notebook had single networks
    return verdict_words.notebook_preference(evidence, models)


def verdict_block(key: str, comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    """Verdicts in words, their forest plot, what varied, the rule, every metric's interval, and the naive tests."""
    variants = comparison.variants
    return {
        "sentences": verdict_words.verdicts(evidence),
        "notebook": notebook_preference(comparison, evidence) or "",
        "varied": verdict_words.varied(evidence),
        "rule": verdict_words.rule(evidence) if evidence.verdicts else "",
        "forest": [charts.forest(key, evidence, variants)] if evidence.verdicts else [],
        "intervals": intervals(evidence, charts.colours(variants)),
        "independent": [verdict_words.assumed_independent(tests) for tests in evidence.independent],
    }
