"""The history of a run, a row for each epoch: its scores, the best of them, and when there are enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sentinode.artefacts import write_atomically
from sentinode.config.fit import FitConfig, Metric
from sentinode.errors import RunError
from sentinode.evaluation import metrics
from sentinode.fitting.epochs import EpochRecord, Outputs

if TYPE_CHECKING:
    import pandas as pd

History = list[dict[str, Any]]


def history_row(record: EpochRecord, metric: Metric) -> dict[str, Any]:
    """One epoch's scores: loss, accuracy and AUC of both sets, and what chooses the best epoch, if it is another.

    None for those that patches of one class do not have.
    """

    def of_set(name: str, outputs: Outputs) -> dict[str, float | None]:
        return {
            f"{name}_loss": outputs.loss,
            f"{name}_accuracy": metrics.accuracy(outputs.labels, _probabilities(outputs)),
            f"{name}_auc": _known(metrics.auc(outputs.labels, outputs.logits)),
            f"{name}_patches": len(outputs.labels),
        }

    chosen: dict[str, float | None] = {}
    if metric not in ("accuracy", "auc"):
        found = metrics.scores(record.validation.labels, _probabilities(record.validation))
        chosen = {f"validation_{metric}": _known(found[metric])}
    return {
        "epoch": record.epoch,
        **of_set("training", record.training),
        **of_set("validation", record.validation),
        **chosen,
        "duration_s": round(record.duration_s, 3),
        "patches_per_s": round(record.patches_per_s, 1),
    }


def _probabilities(outputs: Outputs) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # of a logit below -709, whose probability is 0
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-outputs.logits.astype(np.float64)))
    return probabilities


def _known(score: float) -> float | None:
    return None if np.isnan(score) else score


def best_epoch(history: History, config: FitConfig) -> int:
    """The epoch with the best validation score, the first of equals, among those in which it is defined.

    Where it is defined in none, the one of the highest accuracy.
    """
    scores = metrics.gain(config.metric) * _validation(history, config.metric)
    if np.isnan(scores).all():
        scores = _validation(history, "accuracy")
    return int(history[int(np.nanargmax(scores))]["epoch"])


def undefined_epochs(history: History, config: FitConfig) -> str:
    """How many epochs could not be judged by the metric that chooses the best one, in a sentence; "" for none."""
    undefined = int(np.isnan(_validation(history, config.metric)).sum())
    if not undefined:
        return ""
    chosen = "accuracy chose the epoch" if undefined == len(history) else "the epoch was chosen among the others"
    return (
        f"the validation {config.metric} is undefined in {undefined:,} of {len(history):,} epochs, whose validation "
        f"patches have one class: {chosen}"
    )


def has_finished(history: History, config: FitConfig) -> bool:
    """Whether all epochs, or fits of a head, are done, or the best one lies `patience` epochs back."""
    if not history:
        return False
    done = history[-1]["epoch"]
    waited = done - best_epoch(history, config)
    return bool(done >= config.epochs_planned or (config.patience is not None and waited >= config.patience))


def _validation(history: History, metric: str) -> NDArray[np.float64]:
    return np.array([row[f"validation_{metric}"] for row in history], np.float64)


def write_history(folder: Path, history: History) -> None:
    """Save a row for each epoch as history.csv."""
    import pandas as pd

    write_atomically(folder / "history.csv", lambda file: pd.DataFrame(history).to_csv(file, index=False))


def read_history(path: Path) -> pd.DataFrame:
    """A run's history.csv; raises RunError where it is no table of numbers with a row for each epoch."""
    import pandas as pd

    from sentinode.data.tables import read_table

    table = read_table(path, purpose="the history of a run")
    try:
        numbers = pd.DataFrame({name: pd.to_numeric(table[name].where(table[name] != "")) for name in table})
        if list(numbers["epoch"]) != list(range(1, len(table) + 1)):
            raise ValueError("its epochs are not counted from 1")
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(
            f"is not a history of a run ({error})", where=path, remedy="Restore it, or train the run again."
        ) from error
    return numbers
