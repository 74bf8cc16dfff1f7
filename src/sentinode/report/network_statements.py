"""What the records of runs say about their networks and how these were trained, in sentences that stand alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sentinode.config import FitConfig
from sentinode.experiments.run import Run
from sentinode.report.tables import summary_of
from sentinode.settings import to_flat

_SETTINGS_OF: Final = {  # what each architecture makes of the settings of the model
    "notebook": ("architecture", "norm", "bn_momentum"),
    "residual": ("architecture", "bn_momentum", "centre"),
    "p4m": ("architecture", "bn_momentum", "p4m_design"),
    "timm": ("backbone", "pretrained", "features", "skipped_maps", "resize_px"),
}


def network_statement(run: Run) -> str:
    """The network of a run, or the networks of a blend."""
    if run.members:
        counts = ", ".join(f"{summary_of(each.config).total:,}" for each in run.members)
        return f"A blend of {len(run.members)} convolutional networks with {counts} parameters."
    used = _SETTINGS_OF[run.config.model.architecture]
    told = {name: value for name, value in to_flat(run.config.model).items() if name in used}
    settings = ", ".join(f"{name} {value}" for name, value in told.items())
    summary = summary_of(run.config)
    return (
        f"A convolutional network ({settings}) with {summary.total:,} parameters, {summary.trainable:,} of them "
        "trained."
    )


def training_statement(runs: Sequence[Run]) -> str:
    """How the networks of the runs were trained, each way told once."""
    ways: dict[FitConfig, list[int]] = {}
    for run in runs:
        for each in run.networks:
            ways.setdefault(each.config.fit.model_copy(update={"seed": 0}), []).append(len(each.history))
    return " ".join(_trained(way, rows) for way, rows in ways.items())


def _trained(fit: FitConfig, rows: Sequence[int]) -> str:
    """How networks were trained whose histories have so many rows."""
    if fit.train == "head":
        copies = f" to {fit.head_copies} augmented copies of each patch" if fit.head_copies else ""
        penalties = f"{len(fit.head_penalties)} penalties"
        return f"A logistic head on features of a frozen backbone, fitted{copies} with {penalties}."
    least, most = min(rows), max(rows)
    lasted = f"{least}" if least == most else f"{least} to {most}"
    parts = [
        f"Adam on binary cross-entropy, learning rate {fit.learning_rate:g}",
        "falling as a cosine" if fit.schedule == "cosine" else "",
        f"weight decay {fit.weight_decay:g}" if fit.weight_decay else "",
        f"label smoothing {fit.label_smoothing:g}" if fit.label_smoothing else "",
        "the head fitted before the rest" if fit.head_first else "",
        f"the first {fit.frozen_stages} stages fixed" if fit.frozen_stages else "",
        f"batches of {fit.batch_size}",
        f"{lasted} of at most {fit.epochs} epochs",
        {"ema": "an exponential average of the weights kept", "swa": "the mean of later epochs' weights kept"}.get(
            fit.average, ""
        ),
    ]
    return ", ".join(part for part in parts if part) + "."
