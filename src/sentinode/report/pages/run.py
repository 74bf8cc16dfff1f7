"""A finished run -> what its page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sentinode.config.run import RunConfig
from sentinode.evaluation.clusters import CLUSTER_NAMES
from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.report.figures import charts
from sentinode.report.prose.cautions import NO_CLINIC, cautions, split_caution
from sentinode.report.prose.data_statements import centre_square
from sentinode.report.prose.model_statements import curves_statement, seeded_statement
from sentinode.report.prose.numbers import many, number
from sentinode.report.sections import patches as parts
from sentinode.report.sections.decision import decision_part
from sentinode.report.sections.patches import Answer
from sentinode.report.sections.tables import (
    Table,
    between,
    environment,
    layers,
    networks_of,
    one_prediction,
    runs_table,
)
from sentinode.runs.environment import TeacherRecord
from sentinode.runs.evaluate import Intervals, validation_intervals
from sentinode.runs.run import Blend, Run
from sentinode.runs.teacher import record_of
from sentinode.settings import to_flat, to_toml

_OF_MEMBERS: Final = ("auc", "average_precision", "accuracy", "log_loss")
_NOT_TOLD: Final = "–"
_CHOSEN: Final = {"best": "selected", "last": "last"}


def run_context(run: Run) -> dict[str, Any]:
    record, teacher = run.record, record_of(run)
    intervals = validation_intervals([run])
    fit = run.config.fit
    row = "head fit" if fit.train == "head" else "epoch"
    whose = f"ensemble of {len(run.members)} networks" if run.members else f"{_CHOSEN[fit.keep]} {row}"
    return {
        "title": f"Run {run.name}",
        "note": str(run.environment.get("data_note", "")),
        "sections": {
            "conclusion": "Answer",
            "scores": "Scores",
            **({"members": "Members of the ensemble"} if run.members else {"curves": "Learning curves"}),
            "decision": "Calibration and operating points",
            "mistakes": "Worst mistakes",
            "settings": "Network, settings and environment",
        },
        "curves_lead": curves_statement([run]),
        "centre_square": centre_square(record.origin),
        "split_basis": record.split_basis,
        "split_caution": split_caution(record),
        "facts": [
            f"{record.training:,} patches for training, {record.validation:,} for validation",
            *(_by_teacher(teacher) if teacher else []),
            *([f"{len(run.members)} networks"] if run.members else [f"seed {run.seed}", many(len(run.history), row)]),
        ],
        "answers": [_answer(run, intervals)],
        "cautions": [*cautions([run]), NO_CLINIC],
        "notices": list(run.environment.get("notices", [])),
        "scores_table": one_prediction(f"Validation scores of the {whose}", intervals),
        "members": _members(run, run.blend) if run.blend else None,
        "curves": [] if run.members else charts.of_run(run),
        "decision": decision_part("run", run.decision),
        "matrix": parts.matrix(f"Run {run.name}, validation set", run.predictions),
        "mistakes": parts.mistakes(run.folder, run.predictions),
        "networks": networks_of((each.name, each) for each in run.members)
        if run.members
        else [layers(_network(run), run.network_record.summary)],
        "settings": to_toml(run.config),
        "runs_table": runs_table([run], run.config),
        "environment": environment(run.environment),
    }


def _by_teacher(record: TeacherRecord) -> list[str]:
    """What of the training set a teacher predicted, and which patches joined it."""
    given = "labels" if record.share is None else "probabilities"
    joined = [f"{many(record.joined, 'unlabelled patch', 'unlabelled patches')} more"] if record.joined else []
    return [*joined, f"learned a teacher's {given}"]


def _network(run: Run) -> str:
    """What its layers are headed by: a network of the user's own is told by its name."""
    initial = run.network_record.initial
    return f"Network “{initial.name}”" if initial.source == "own" else "Network"


def _answer(run: Run, intervals: Intervals) -> Answer:
    scores = intervals.scores
    told = f"AUC {number(scores['auc'].estimate, 3)} on {run.record.validation:,} validation patches"
    if run.members:
        best = max(run.members, key=lambda member: member.scores["auc"])
        told = f"{told}; its best member, {best.name}, has {number(best.scores['auc'], 3)} alone"
    return Answer(
        f"How well does this {'ensemble' if run.members else 'network'} find tumour?",
        f"{told}. Accuracy at threshold 0.5: {number(scores['accuracy'].estimate, 3)}.",
        [
            f"95 % interval of the AUC {between(scores['auc'])}, of the accuracy {between(scores['accuracy'])} "
            f"({intervals.clusters:,} {CLUSTER_NAMES[intervals.cluster_kind]}).",
            f"The split is {run.environment.get('split', 'not recorded')}.",
            *([seeded_statement([run], folds=False)] if not _seeded(run) else []),
        ],
        [charts.roc_of_run(run)],
        "scores",
    )


def _seeded(run: Run) -> bool:
    """Whether another seed would give another network."""
    return any(network.network_record.seeded for network in run.networks)


def _members(run: Run, blend: Blend) -> Table:
    """What each member is, weighs and scores alone; and the ensemble."""
    rows, networks = [], _architectures([member.config for member in run.members])
    for member, network, weight in zip(run.members, networks, run.weights, strict=True):
        folds = blend.fold_weights.get(member.name, [])
        between = [f"{number(min(folds), 2)}\u00a0to\u00a0{number(max(folds), 2)}"] if folds else []
        scores = [number(member.scores[metric]) for metric in _OF_MEMBERS]
        rows.append([member.name, number(weight, 3), *between, *scores, network])
    scores = [number(run.scores[metric]) for metric in _OF_MEMBERS]
    match blend.rule:
        case "fitted":
            ranges = {"without a fold": _NOT_TOLD}
            caption = (
                "Weights with the lowest log loss on the validation set, and their range when each fold of it is left "
                "out in turn. The ensemble is scored with weights fitted on other slides or groups."
            )
        case "equal":
            ranges = {}
            caption = "Equal weights, which use no labels."
    rows.append(["the ensemble", number(1, 3), *ranges.values(), *scores, f"all {len(run.members)}"])
    head = ["member", "weight", *ranges, *(METRIC_NAMES[metric] for metric in _OF_MEMBERS), "network"]
    return Table(caption, head, rows, frozenset({"network"}))


def _architectures(configs: Sequence[RunConfig]) -> list[str]:
    """Such as "notebook, norm before": each architecture, and its settings where they are not the same for all."""
    settings = [to_flat(config.model) | {"input px": config.preprocess.size_px} for config in configs]
    differing = [key for key in settings[0] if any(own[key] != settings[0][key] for own in settings)]
    return [
        ", ".join([own["architecture"], *(f"{key} {own[key]}" for key in differing if key != "architecture")])
        for own in settings
    ]
