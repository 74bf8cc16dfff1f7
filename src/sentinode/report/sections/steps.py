"""The study of the preset `seed`, step by step: where a page shows each, and what it was in the notebook.

The 17 steps are the notebook's, in its order: its data are read and looked at in three, the classes counted and
balanced in two, the two models shown in one each, and each of its two comparisons has its plots, then its table with a
verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from sentinode.report.prose.data_statements import DataStatements
from sentinode.report.prose.model_statements import augmentation_statement, inputs_statement, training_statement
from sentinode.report.prose.numbers import many, mean_and_spread
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import Evidence
from sentinode.studies.study import FinishedStudy

PRESET: Final = "seed"
"""The preset that does the notebook's study as it was done."""


@dataclass(frozen=True)
class Step:
    """A step, where the page shows it ("" where it was not asked for), what was done here and in the notebook."""

    title: str
    anchor: str
    here: str
    notebook: str


def steps(study: FinishedStudy) -> list[Step]:
    """All 17, in their order."""
    record, data = study.record, DataStatements(study)
    counts = record.classes
    chosen, compared, tuned = study.chosen, study.comparison, study.tuning
    runs = [run for variant in study.variants for run in variant.runs]
    networks = [network for run in runs for network in run.networks]
    epoch_s = float(np.median([network.history["duration_s"].mean() for network in networks]))
    labelled, balanced, sampled = (
        f"{counts[stage].negative:,} negative, {counts[stage].positive:,} positive"
        for stage in ("all", "balanced", "sampled")
    )
    dropped = study.config.balance.drop_negative_fraction if study.config.balance else 0.0
    return [
        Step(
            "Read the tables: heads and schemas",
            "tables" if record.tables else "data",
            " ".join(f"{table.file}: {table.rows:,} rows." for table in record.tables) or "These data have no tables.",
            "220,025 labels, 57,458 patches to predict.",
        ),
        Step(
            "Look at negative and positive patches",
            "examples",
            f"{many(len(record.examples['negative']), 'patch', 'patches')} of each class, drawn at random.",
            "A few of each class.",
        ),
        Step("Look for anomalies", "anomalies", data.quality, "“No anomalies”, without a check; there are some."),
        Step("Count the classes: chart 1", "charts", f"{labelled}.", "59.5 % negative, 40.5 % positive."),
        Step(
            "Balance them: chart 2",
            "charts",
            f"{dropped:.0%} of the negatives dropped: {balanced}.",
            "31 % of the negatives dropped: 89,017 negative, 89,117 positive.",
        ),
        Step("Sample", "stages", f"{sampled}.", "25,000 of each class."),
        Step("Split", "stages", f"{data.sets} {data.split}", "35,000 training, 15,000 validation patches, at random."),
        Step(
            "Preprocess",
            "inputs",
            f"{inputs_statement(chosen.runs)} {augmentation_statement(chosen.runs)}",
            "Scaled to 0 to 1, random zoom 0.2, resized to 32 × 32 (nearest).",
        ),
        *(
            Step(
                f"Model “{order}”: its layers",
                *_network(study, order),
                "53,313 parameters, 52,865 of them trainable.",
            )
            for order in ("before", "after")
        ),
        Step(
            "Train",
            "runs",
            f"{training_statement(chosen.runs)} {_share_of_epochs(study)}{epoch_s:.1f} s an epoch.",
            "20 epochs of half the patches each, 70 to 106 s an epoch.",
        ),
        Step(
            "Compare: plots 1 to 4",
            "plots-compared" if compared else "",
            "Accuracy and loss of each variant, by epoch." if compared else "",
            "Accuracy and loss of each model, by epoch.",
        ),
        Step(
            "Table 1, and its verdict",
            "table-1" if compared else "",
            _table(compared, study.evidence.get("compare")),
            "Before .8444 in training, .7460 in validation; after .8206, .8070. “After” is preferred.",
        ),
        Step(
            "Tune the momentum: plots 5 and 6",
            "plots-tuned" if tuned else "",
            "Training and validation accuracy of each momentum, by epoch." if tuned else "",
            "Training and validation accuracy of momentum 0.99, 0.75, 0.50 and 0.25.",
        ),
        Step(
            "Table 2, and its verdict",
            "table-2" if tuned else "",
            _table(tuned, study.evidence.get("tune")),
            ".99: .8409 in training, .7505 in validation; .75: .8375, .8374; .50: .8431, .8449; .25: .8379, .8389. Its "
            "text names three different best values.",
        ),
        Step(
            "Conclude",
            "conclusion",
            f"“{record.chosen}” has the highest validation score; the answers are above.",
            "“After” is preferred to “before”, and momentum 0.25 to 0.99.",
        ),
        Step(
            "Submit",
            "conclusion",
            f"submission.csv: {record.submission_rows:,} rows."
            if record.submission_rows
            else "There is no test set to predict.",
            "Only a heading; it was never done.",
        ),
    ]


def _network(study: FinishedStudy, order: str) -> tuple[str, str]:
    """Which of the tables of networks is this variant's, and its parameters."""
    found = [variant for variant in study.variants if variant.name == order and not variant.blends]
    if not found:
        return "", ""
    summary = found[0].runs[0].network_record.summary
    networks = (network for variant in study.variants for network in variant.runs[0].networks)
    layers = list(dict.fromkeys(network.network_record.summary.layers for network in networks))
    told = f"{summary.total:,} parameters, {summary.trainable:,} of them trainable."
    return f"network-{layers.index(summary.layers) + 1}", told


def _share_of_epochs(study: FinishedStudy) -> str:
    run = study.chosen.runs[0].networks[0]
    trained = int(run.history["training_patches"].max())
    return f"An epoch sees {trained:,} of {run.record.training:,} patches. "


def _table(found: Comparison | None, evidence: Evidence | None) -> str:
    """The last epoch's accuracies, and the verdicts in a word each."""
    if not found or not evidence:
        return ""
    told = "; ".join(
        f"{variant.name} {_last(found, row, 'training')} in training, {_last(found, row, 'validation')} in validation"
        for row, variant in enumerate(found.variants)
        if not variant.blends
    )
    verdicts = "; ".join(f"“{v.a}” against “{v.b}”: {v.outcome}" for v in evidence.verdicts)
    return f"{told}. {verdicts}." if verdicts else f"{told}."


def _last(found: Comparison, row: int, side: str) -> str:
    return mean_and_spread(float(run.history[f"{side}_accuracy"].iloc[-1]) for run in found.variants[row].runs)
