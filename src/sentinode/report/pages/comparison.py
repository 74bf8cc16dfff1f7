"""Finished runs that were compared -> what their page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sentinode.report.prose import notebook
from sentinode.report.prose import verdicts as verdict_words
from sentinode.report.prose.cautions import NO_CLINIC, cautions, split_caution
from sentinode.report.sections import comparison as comparison_part
from sentinode.report.sections.tables import environment, networks, runs_table
from sentinode.runs.run import Run
from sentinode.settings import to_toml
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import Evidence
from sentinode.studies.study import EvidenceRecord
from sentinode.studies.tables import PredictedRun, unknown_slides

_OWN_SPLITS: Final = (
    "The runs were not all trained on the same patches, so their training sets differ as well as initial weights, "
    "order of batches and augmentation."
)


def comparison_context(comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    runs = [run for variant in comparison.variants for run in variant.runs]
    first = runs[0]
    return {
        "title": "A comparison of finished runs",
        "note": str(first.environment.get("data_note", "")),
        "sections": {
            "conclusion": "Answer",
            "compare": "Comparison",
            "settings": "Networks, settings and environment",
        },
        "split_basis": first.record.split_basis,
        "split_caution": split_caution(first.record),
        "facts": _facts(comparison, runs, "validation patches"),
        "answers": comparison_part.answered(
            "compare", comparison, evidence, preference=notebook.preference(comparison, evidence)
        ),
        "rule": [verdict_words.varied(evidence), *verdict_words.rule([evidence])],
        "cautions": [*cautions(runs), NO_CLINIC],
        "notices": notices(runs),
        "compare": comparison_part.compared(comparison, evidence),
        "networks": networks(comparison.variants),
        "settings": to_toml(first.config),
        "runs_table": runs_table(runs, first.config),
        "environment": environment(first.environment),
    }


def scored_comparison_context(comparison: Comparison, runs: Sequence[Run], record: EvidenceRecord) -> dict[str, Any]:
    """Finished runs that were compared on labelled patches, whatever their validation sets."""
    evidence, seen = record.compare, record.seen
    assert evidence is not None
    assert seen is not None
    first, patches = runs[0], len(comparison.ids)
    one_split = len({run.training_ids for run in runs}) == 1
    return {
        "title": f"A comparison of finished runs on {record.labels}",
        "note": record.note,
        "sections": {"conclusion": "Answer", "scored": "Comparison", "settings": "Settings and runs"},
        "facts": _facts(comparison, runs, "labelled patches"),
        "answers": comparison_part.answered(
            "scored", comparison, evidence, preference=notebook.preference(comparison, evidence)
        ),
        "rule": [verdict_words.varied(evidence) if one_split else _OWN_SPLITS, *verdict_words.rule([evidence])],
        "warnings": seen.in_words(patches, by="any of the runs"),
        "cautions": [NO_CLINIC],
        "lead": "The runs were trained elsewhere and given as folders. All predicted the same labelled patches"
        f"{'' if seen.any else ', which were used neither for training nor for any choice'}; runs of one seed are "
        "compared in pairs, and the networks of one seed's folds predict together.",
        "compare": comparison_part.weighed(
            "scored", "Labelled patches", comparison, evidence, patches="labelled patches'"
        ),
        "settings": to_toml(first.config),
        "runs_table": runs_table(runs, first.config),
    }


def tables_context(comparison: Comparison[PredictedRun], record: EvidenceRecord) -> dict[str, Any]:
    """Tables of predictions, of any program."""
    evidence = record.compare
    assert evidence is not None
    labels, seeds = comparison.variants[0].predictions.labels, len(comparison.seeds)
    return {
        "title": f"A comparison of predictions on {record.labels}",
        "note": record.note,
        "sections": {"conclusion": "Answer", "scored": "Comparison"},
        "facts": [
            f"{len(comparison.variants)} tables of predictions, {'one seed' if seeds == 1 else f'{seeds} seeds'} each",
            f"{len(labels):,} labelled patches, {int((labels == 1).sum()):,} of them with tumour",
        ],
        "answers": comparison_part.answered("scored", comparison, evidence),
        "rule": [verdict_words.varied(evidence), *verdict_words.rule([evidence])],
        "warnings": [told] if (told := unknown_slides(len(labels), record.slides_unknown)) else [],
        "cautions": [NO_CLINIC],
        "lead": "Each table gives a probability for every labelled patch. Where the probabilities came from, and which "
        "patches a model was trained on, is not known here: a patch that was trained on, or whose slide was, flatters "
        "its table.",
        "compare": comparison_part.weighed(
            "scored", "Labelled patches", comparison, evidence, patches="labelled patches'"
        ),
    }


def _facts(comparison: Comparison, runs: Sequence[Run], patches: str) -> list[str]:
    return [
        f"{len(comparison.variants)} variants",
        f"{len(runs)} runs, seeds {', '.join(map(str, comparison.seeds))}",
        f"{len(comparison.ids):,} {patches}",
    ]


def notices(runs: Sequence[Run]) -> list[str]:
    """What the runs were told, each thing once, and whether they had the same patches and labels to train on."""
    told = [notice for run in runs for notice in run.environment.get("notices", [])]
    if len({run.environment.get("data_sha256") for run in runs}) > 1:
        told.append("the runs were trained on different patches or labels; only the validation patches are equal")
    return list(dict.fromkeys(told))
