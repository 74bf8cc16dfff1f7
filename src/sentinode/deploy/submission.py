"""Predictions -> a submission whose ids and values have been checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from sentinode.data.artefacts import write_atomically
from sentinode.errors import SubmissionError
from sentinode.inference.probabilities import Predictions


def make_submission(predictions: Predictions, sample_ids: Shaped[np.ndarray, " m"]) -> pd.DataFrame:
    """A table id,label with exactly the sample's ids, in its order, and probabilities as labels.

    Raises SubmissionError where an id is missing, extra or stands twice, or a value is not finite in
    [0, 1].
    """
    _refuse_repeated(predictions.ids, "the predictions")
    _refuse_repeated(sample_ids, "the sample submission")
    predicted, asked = set(predictions.ids.tolist()), set(sample_ids.tolist())
    missing, extra = sorted(asked - predicted), sorted(predicted - asked)
    if missing:
        raise SubmissionError(
            f"{len(missing)} of {len(asked)} ids of the sample submission have no prediction (first: {missing[0]})",
            remedy="Predict the whole test folder.",
        )
    if extra:
        raise SubmissionError(
            f"{len(extra)} predicted ids are not in the sample submission (first: {extra[0]})",
            remedy="Predict the folder that the sample submission belongs to.",
        )
    values = predictions.probabilities
    wrong = ~(np.isfinite(values) & (values >= 0) & (values <= 1))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise SubmissionError(
            f"{int(wrong.sum())} values are no probabilities (first: {values[first]} for {predictions.ids[first]})",
            remedy="Train the run again; its weights are not sound.",
        )
    by_id = dict(zip(predictions.ids.tolist(), values.tolist(), strict=True))
    return pd.DataFrame({"id": sample_ids, "label": [by_id[i] for i in sample_ids.tolist()]})


def write_submission(path: Path, submission: pd.DataFrame) -> None:
    write_atomically(path, lambda file: submission.to_csv(file, index=False, float_format="%.6f"))


def _refuse_repeated(ids: np.ndarray, whose: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise SubmissionError(
            f"{int((counts > 1).sum())} ids of {whose} stand twice (first: {values[counts > 1][0]})",
            remedy="Keep each id once.",
        )
