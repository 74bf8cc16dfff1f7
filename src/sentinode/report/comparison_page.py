"""Finished runs that were compared -> what their page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.experiments.comparison import Comparison
from sentinode.experiments.evaluate import Scored, Seen
from sentinode.experiments.evidence import Evidence
from sentinode.experiments.run import Run
from sentinode.report import charts, comparison_part, notebook, verdict_words, words
from sentinode.report.cautions import Remark, cautions, split_caution
from sentinode.report.tables import (
    environment,
    intervals,
    kept_scores,
    mean_and_spread,
    networks,
    over_seeds,
    runs_table,
)
from sentinode.settings import to_toml

_OWN_SPLITS: Final = (
    "The runs were not all trained on the same patches: the training side varies as well as initial weights, order of "
    "batches and augmentation."
)


def comparison_context(comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    runs = [run for variant in comparison.variants for run in variant.runs]
    first = runs[0]
    split_in_words = str(first.environment.get("split", ""))
    metric = first.config.fit.metric
    preference = notebook.preference(comparison, evidence)
    conclusion = [*verdict_words.verdicts(evidence), *([preference] if preference else [])]
    return {
        "title": "A comparison of finished runs",
        "note": str(first.environment.get("data_note", "")),
        "sections": {
            "conclusion": "Conclusion",
            "compare": "Comparison",
            "networks": "Networks",
            "settings": "Settings and runs",
            "environment": "Environment",
        },
        "split_basis": first.record.split_basis,
        "split_in_words": split_in_words,
        "split_caution": split_caution(first.record),
        "facts": [
            f"{len(comparison.variants)} variants",
            f"{len(runs)} runs, seeds {', '.join(map(str, comparison.seeds))}",
            f"{len(comparison.ids):,} validation patches",
        ],
        "cards": [
            (f"Validation {METRIC_NAMES[metric]}", mean_and_spread(variant.distinct_scores(metric), 3), variant.name)
            for variant in comparison.variants
        ],
        "conclusion": [Remark("Comparison", " ".join(conclusion)), Remark("Use", words.NO_CLINIC)],
        "cautions": cautions(runs),
        "notices": notices(runs),
        "several_runs": len(comparison.variants[0].runs) > 1,
        "compare": comparison_part.compared(comparison, evidence),
        "networks": networks(comparison.variants),
        "settings": to_toml(first.config),
        "runs_table": runs_table(runs, first.config),
        "environment": environment(first.environment),
    }


def scored_comparison_context(
    comparison: Comparison, evidence: Evidence, runs: Sequence[Run], seen: Seen, scored: Scored
) -> dict[str, Any]:
    """Finished runs that were compared on labelled patches, whatever their validation sides."""
    variants, metric, swatches = comparison.variants, comparison.metric, charts.colours(comparison.variants)
    first, patches = runs[0], len(comparison.ids)
    one_split = len({run.training_ids for run in runs}) == 1
    block = comparison_part.verdict_block("scored", comparison, evidence)
    return {
        "title": f"A comparison of finished runs on {scored.labels}",
        "note": scored.note,
        "sections": {
            "conclusion": "Conclusion",
            "compare": "Comparison",
            "settings": "Settings and runs",
        },
        "facts": [
            f"{len(variants)} variants",
            f"{len(runs)} runs, seeds {', '.join(map(str, comparison.seeds))}",
            f"{patches:,} labelled patches",
        ],
        "cards": [
            (METRIC_NAMES[metric], mean_and_spread(variant.scores(metric), 3), variant.name) for variant in variants
        ],
        "warnings": seen.in_words(patches, by="any of the runs"),
        "unseen": not seen.any,
        "conclusion": [
            Remark("Comparison", " ".join(verdict_words.verdicts(evidence))),
            Remark("Use", words.NO_CLINIC),
        ],
        "scores": kept_scores(variants, swatches, f"Scores on the labelled patches: {over_seeds(comparison)}."),
        "by_seed": [charts.by_seed("scored", variants, metric, side="")],
        "curves": charts.roc_and_precision("scored", evidence, variants, "Labelled patches")
        if 0 < int((variants[0].predictions.labels == 1).sum()) < patches
        else [],
        "verdict": {
            **block,
            "notebook": "",
            "varied": block["varied"] if one_split else _OWN_SPLITS,
            "intervals": intervals(evidence, swatches, "Scores on the labelled patches"),
        },
        "settings": to_toml(first.config),
        "runs_table": runs_table(runs, first.config),
    }


def notices(runs: Sequence[Run]) -> list[str]:
    """What the runs were told, each thing once, and whether they had the same patches and labels to train on."""
    told = [notice for run in runs for notice in run.environment.get("notices", [])]
    if len({run.environment.get("data_sha256") for run in runs}) > 1:
        told.append("the runs were trained on different patches or labels; only the validation patches are equal")
    return list(dict.fromkeys(told))
