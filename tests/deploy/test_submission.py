"""Submissions: the sample's ids in its order, or a refusal that says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.deploy.submission import make_submission, write_submission
from sentinode.errors import SubmissionError
from sentinode.inference.probabilities import Predictions, unlabelled


def predictions(ids: list[str], values: list[float]) -> Predictions:
    return Predictions(np.array(ids, dtype=str), unlabelled(len(ids)), np.array(values))


def test_order_comes_from_the_sample_and_values_follow_ids(tmp_path: Path) -> None:
    submission = make_submission(predictions(["a", "b", "c"], [0.1, 0.2, 0.3]), np.array(["c", "a", "b"]))
    assert submission.to_dict("list") == {"id": ["c", "a", "b"], "label": [0.3, 0.1, 0.2]}
    write_submission(tmp_path / "s.csv", submission)
    assert (tmp_path / "s.csv").read_text() == "id,label\nc,0.300000\na,0.100000\nb,0.200000\n"


@pytest.mark.parametrize(
    ("ids", "values", "sample", "said"),
    [
        (["a"], [0.1], ["a", "b"], "have no prediction .first: b"),
        (["a", "b"], [0.1, 0.2], ["a"], "not in the sample submission .first: b"),
        (["a", "a"], [0.1, 0.2], ["a"], "predictions stand twice"),
        (["a", "b"], [0.1, 0.2], ["a", "b", "b"], "sample submission stand twice"),
        (["a", "b"], [0.1, float("nan")], ["a", "b"], "nan for b"),
        (["a", "b"], [0.1, 1.2], ["a", "b"], "1.2 for b"),
        (["a", "b"], [-0.1, 0.2], ["a", "b"], "-0.1 for a"),
        (["a", "b"], [float("inf"), 0.2], ["a", "b"], "inf for a"),
    ],
)
def test_what_does_not_answer_the_sample_is_refused(
    ids: list[str], values: list[float], sample: list[str], said: str
) -> None:
    with pytest.raises(SubmissionError, match=said) as caught:
        make_submission(predictions(ids, values), np.array(sample))
    assert caught.value.exit_code == 2


def test_predictions_read_back_as_written(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(50).astype(np.float32).astype(float).tolist()
    written = predictions([f"p{n}" for n in range(50)], values)
    written.write(tmp_path / "p.csv")
    read = Predictions.read(tmp_path / "p.csv")
    assert np.array_equal(read.ids, written.ids)
    np.testing.assert_array_equal(read.probabilities.astype(np.float32), written.probabilities.astype(np.float32))
    assert pd.read_csv(tmp_path / "p.csv").columns.tolist() == ["id", "label", "probability"]
