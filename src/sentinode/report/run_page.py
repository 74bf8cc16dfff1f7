"""A finished run -> what its page shows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sentinode.experiments.run import Run
from sentinode.report import charts, parts, words
from sentinode.report.decision_part import decision_part
from sentinode.report.tables import METRIC_NAMES, Table, environment, layers, number, runs_table, summary_of
from sentinode.settings import to_toml


def run_context(run: Run) -> dict[str, Any]:
    split_in_words = str(run.environment.get("split", ""))
    basis = basis_of(run)
    sides = sides_of(run)
    return {
        "title": f"Run {run.name}",
        "note": str(run.environment.get("data_note", "")),
        "sections": {
            "scores": "Scores",
            "curves": "Learning curves",
            "errors": "ROC and errors",
            "decision": "Calibration and operating points",
            "mistakes": "Worst mistakes",
            "networks": "Network",
            "settings": "Settings",
            "environment": "Environment",
        },
        "split_basis": basis,
        "split_in_words": split_in_words,
        "split_caution": words.split_caution(basis),
        "facts": [
            f"{sides['training']:,} patches to train, {sides['validation']:,} to validate",
            f"seed {run.seed}",
            f"{len(run.history)} epochs",
        ],
        "cards": [
            ("Validation AUC", number(run.scores["auc"], 3), "kept weights, one run"),
            ("Accuracy at 0.5", number(run.scores["accuracy"], 3), "kept weights, one run"),
            ("Split", words.split_name(basis), "slides kept apart" if basis == "slide" else "read with care"),
        ],
        "cautions": words.cautions(run.config, [run], **sides),
        "notices": list(run.environment.get("notices", [])),
        "scores_table": Table(
            "Validation scores of the kept weights: one run.",
            ["score", "value"],
            [[name, number(run.scores[metric])] for metric, name in METRIC_NAMES.items()],
        ),
        "curves": charts.of_run(run),
        "roc": [charts.roc_of_run(run)],
        "decision": decision_part("run", run.decision),
        "run": run,
        "matrix": parts.matrix(f"Run {run.name}", run.predictions),
        "mistakes": parts.mistakes(run.folder, run),
        "networks": [layers("Network", summary_of(run.config))],
        "settings": to_toml(run.config),
        "runs_table": runs_table([run], run.config),
        "environment": environment(run.environment),
    }


def basis_of(run: Run) -> str:
    """What the run's split kept together; where its config says "auto", the words that the environment keeps tell."""
    if run.config.split.by != "auto":
        return run.config.split.by
    return "slide" if str(run.environment.get("split", "")).startswith("by slide") else "group"


def sides_of(run: Run) -> dict[str, int]:
    sides = pd.read_csv(run.folder / "split.csv", usecols=["side"])["side"].value_counts()
    return {side: int(sides.get(side, 0)) for side in ("training", "validation")}
