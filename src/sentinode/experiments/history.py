"""The history of a run, a row for each epoch: its scores, the best of them, and when there are enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sentinode.config import FitConfig
from sentinode.data.artefacts import write_atomically
from sentinode.evaluation import metrics
from sentinode.fitting.epochs import EpochRecord, Outputs

History = list[dict[str, Any]]


def history_row(record: EpochRecord) -> dict[str, Any]:
    """One epoch's scores: loss, accuracy and AUC of both sides."""

    def side(name: str, outputs: Outputs) -> dict[str, float]:
        probabilities = 1 / (1 + np.exp(-outputs.logits.astype(np.float64)))
        return {
            f"{name}_loss": outputs.loss,
            f"{name}_accuracy": metrics.accuracy(outputs.labels, probabilities),
            f"{name}_auc": metrics.auc(outputs.labels, outputs.logits),
            f"{name}_patches": len(outputs.labels),
        }

    return {
        "epoch": record.epoch,
        **side("training", record.training),
        **side("validation", record.validation),
        "duration_s": round(record.duration_s, 3),
        "patches_per_s": round(record.patches_per_s, 1),
    }


def best_epoch(history: History, config: FitConfig) -> int:
    """The epoch with the highest validation score, the first of equals."""
    scores = [row[f"validation_{config.metric}"] for row in history]
    return int(history[int(np.argmax(scores))]["epoch"])


def has_finished(history: History, config: FitConfig) -> bool:
    """Whether all epochs, or fits of a head, are done, or the best one lies `patience` epochs back."""
    if not history:
        return False
    done = history[-1]["epoch"]
    waited = done - best_epoch(history, config)
    return bool(done >= config.epochs_planned or (config.patience is not None and waited >= config.patience))


def write_history(folder: Path, history: History) -> None:
    """Save a row for each epoch as history.csv."""
    write_atomically(folder / "history.csv", lambda file: pd.DataFrame(history).to_csv(file, index=False))
