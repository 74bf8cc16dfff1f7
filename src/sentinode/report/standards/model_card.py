"""A finished study -> the model card of its chosen variant, under the headings of Mitchell et al. (2019)."""

from __future__ import annotations

from sentinode.report.prose.data_statements import DataStatements
from sentinode.report.prose.model_statements import ModelStatements
from sentinode.studies.study import FinishedStudy


def model_card(study: FinishedStudy) -> list[tuple[str, list[str]]]:
    """Headings in Mitchell's order, each with what the records say, and what they do not record."""
    data, model = DataStatements(study), ModelStatements(study)
    return [
        (
            "Model details",
            [
                model.network,
                model.initial,
                model.seeds,
                model.training,
                model.selection,
                model.version,
                model.files,
            ],
        ),
        (
            "Intended use",
            [
                "Research and teaching: comparing networks, and how a split or a seed changes a score.",
                "Out of scope: diagnosis, triage, any decision about a patient.",
            ],
        ),
        (
            "Factors",
            [
                data.slides,
                data.factors,
                data.people,
            ],
        ),
        ("Metrics", [model.metrics, model.uncertainty, model.prediction, model.thresholds]),
        ("Evaluation data", [data.internal, data.split, data.external]),
        ("Training data", [data.source, data.outcome, data.flow, data.left_out, data.inputs, data.augmentation]),
        ("Quantitative analyses", [model.performance, model.calibration, model.diagnostic, model.spread]),
        (
            "Ethical considerations",
            [
                data.no_people
                if data.synthetic
                else "Consent, ethics approval and de-identification are not recorded.",
                "A network can fail on tissue unlike its training data, and its probability does not show it.",
            ],
        ),
        ("Caveats and recommendations", [model.limits, model.failures, *study.record.notices]),
    ]
