"""A finished run -> what its page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sentinode.config import RunConfig
from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.experiments.blend import Blend
from sentinode.experiments.evaluate import validation_intervals
from sentinode.experiments.pseudo import record_of
from sentinode.experiments.run import Run
from sentinode.report import charts, parts
from sentinode.report.cautions import cautions, kept_apart, split_caution, split_name
from sentinode.report.data_statements import centre_square
from sentinode.report.decision_part import decision_part
from sentinode.report.network_statements import curves_statement, seeded_statement
from sentinode.report.tables import (
    Table,
    card,
    environment,
    layers,
    networks_of,
    number,
    one_prediction,
    runs_table,
)
from sentinode.settings import to_flat, to_toml

_OF_MEMBERS: Final = ("auc", "average_precision", "accuracy", "log_loss")
_NOT_TOLD: Final = "–"


def run_context(run: Run) -> dict[str, Any]:
    split_in_words = str(run.environment.get("split", ""))
    record, pseudo = run.record, record_of(run)
    intervals = validation_intervals(run)
    is_head = run.config.fit.train == "head"
    rows = "fits of a head" if is_head else "epochs"
    whose = f"ensemble of {len(run.members)} networks" if run.members else "kept weights, one run"
    return {
        "title": f"Run {run.name}",
        "note": str(run.environment.get("data_note", "")),
        "sections": {
            "scores": "Scores",
            **({"members": "Members of the ensemble"} if run.members else {"curves": "Learning curves"}),
            "errors": "ROC and errors",
            "decision": "Calibration and operating points",
            "mistakes": "Worst mistakes",
            "networks": "Networks" if run.members else "Network",
            "settings": "Settings",
            "environment": "Environment",
        },
        "curves_lead": curves_statement([run]),
        "centre_square": centre_square(record.origin),
        "seeds_lead": _seeds_lead(run),
        "split_basis": record.split_basis,
        "split_in_words": split_in_words,
        "split_caution": split_caution(record),
        "facts": [
            f"{record.training:,} patches to train, {record.validation:,} to validate",
            *([f"{pseudo['positive'] + pseudo['negative']:,} more to train, pseudo-labelled"] if pseudo else []),
            *([f"{len(run.members)} networks"] if run.members else [f"seed {run.seed}", f"{len(run.history)} {rows}"]),
        ],
        "cards": [
            card("Validation AUC", intervals.scores["auc"]),
            card("Accuracy at 0.5", intervals.scores["accuracy"]),
            ("Split", split_name(record.split_basis), kept_apart(record.split_basis)),
        ],
        "cautions": cautions([run]),
        "notices": list(run.environment.get("notices", [])),
        "scores_table": one_prediction(f"Validation scores of the {whose}", intervals),
        "members": _members(run, run.blend) if run.blend else None,
        "curves": [] if run.members else charts.of_run(run),
        "roc": [charts.roc_of_run(run)],
        "decision": decision_part("run", run.decision),
        "run": run,
        "matrix": parts.matrix(f"Run {run.name}, validation side, kept weights", run.predictions),
        "mistakes": parts.mistakes(run.folder, run.predictions),
        "networks": networks_of((each.name, each) for each in run.members)
        if run.members
        else [layers(_network(run), run.network_record.summary)],
        "settings": to_toml(run.config),
        "runs_table": runs_table([run], run.config),
        "environment": environment(run.environment),
    }


def _network(run: Run) -> str:
    """What its layers are headed by: a network of the user's own is told by its name."""
    initial = run.network_record.initial
    return f"Network “{initial.name}”" if initial.source == "own" else "Network"


def _seeds_lead(run: Run) -> str:
    seeded = [network for network in run.networks if network.network_record.seeded]
    if not seeded:
        return seeded_statement([run], folds=False)
    return "One run says nothing about the spread between seeds."


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
            ranges = {"without a part": _NOT_TOLD}
            caption = (
                "Weights of least log loss on the validation side; beside them their range when each part of it is "
                "left out in turn. The ensemble's scores are of patches whose weights that were fitted on other "
                "slides or groups."
            )
        case "equal":
            ranges = {}
            caption = "Equal weights, which take nothing from the labels."
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
