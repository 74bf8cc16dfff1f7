"""Predictions -> a submission whose ids and values have been checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from sentinode.artefacts import write_atomically
from sentinode.errors import SubmissionError
from sentinode.inference.predictions import Predictions


def require_ids(ids: Shaped[np.ndarray, " n"], sample_ids: Shaped[np.ndarray, " m"]) -> None:
    """Raise SubmissionError unless the patches are exactly the sample's, each once: known before any is predicted."""
    _refuse_repeated(ids, "the patches")
    _refuse_repeated(sample_ids, "the sample submission")
    predicted, asked = set(ids.tolist()), set(sample_ids.tolist())
    missing, extra = sorted(asked - predicted), sorted(predicted - asked)
    if missing:
        raise SubmissionError(
            f"{len(missing)} of {len(asked)} ids of the sample submission have no patch (first: {missing[0]})",
            remedy="Predict the whole test folder.",
        )
    if extra:
        raise SubmissionError(
            f"{len(extra)} patches are not in the sample submission (first: {extra[0]})",
            remedy="Predict the folder that the sample submission belongs to.",
        )


def make_submission(predictions: Predictions, sample_ids: Shaped[np.ndarray, " m"]) -> pd.DataFrame:
    """A table id,label with exactly the sample's ids, in its order, and probabilities as labels.

    Raises SubmissionError where `require_ids` does, or a value is not finite in [0, 1].
    """
    require_ids(predictions.ids, sample_ids)
    values = predictions.probabilities
    wrong = ~(np.isfinite(values) & (values >= 0) & (values <= 1))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise SubmissionError(
            f"{int(wrong.sum())} values are not probabilities (first: {values[first]} for {predictions.ids[first]})",
            remedy="Train the run again; its weights are not sound.",
        )
    by_id = dict(zip(predictions.ids.tolist(), values.tolist(), strict=True))
    return pd.DataFrame({"id": sample_ids, "label": [by_id[i] for i in sample_ids.tolist()]})


def write_submission(path: Path, submission: pd.DataFrame) -> None:
    """Save the table, each probability in the fewest digits that read back as the same float: the ranking is kept."""
    write_atomically(path, lambda file: submission.to_csv(file, index=False))


def _refuse_repeated(ids: np.ndarray, whose: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise SubmissionError(
            f"{int((counts > 1).sum())} duplicate ids in {whose} (first: {values[counts > 1][0]})",
            remedy="Keep each id once.",
        )
