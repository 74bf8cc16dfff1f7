"""Submissions: the sample's ids in its order, or a refusal that says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sentinode.data.patches import UNLABELLED
from sentinode.data.tables import read_table
from sentinode.errors import SubmissionError
from sentinode.evaluation.metrics import auc
from sentinode.exports.submission import make_submission, write_submission
from sentinode.inference.predictions import Predictions


def predictions(ids: list[str], values: list[float]) -> Predictions:
    return Predictions(np.array(ids, dtype=str), np.full(len(ids), UNLABELLED, np.int8), np.array(values))


def test_order_comes_from_the_sample_and_values_follow_ids(tmp_path: Path) -> None:
    submission = make_submission(predictions(["a", "b", "c"], [0.1, 0.2, 0.3]), np.array(["c", "a", "b"]))
    assert submission.to_dict("list") == {"id": ["c", "a", "b"], "label": [0.3, 0.1, 0.2]}
    write_submission(tmp_path / "s.csv", submission)
    assert (tmp_path / "s.csv").read_text() == "id,label\nc,0.3\na,0.1\nb,0.2\n"


def near_ties() -> np.ndarray:
    """Probabilities of which neighbours differ by 1e-7 or less, and by the least that floats can, near 0, 0.5 and 1."""
    steps = np.arange(200)
    single = np.float32(0.3) + steps.astype(np.float32) * np.float32(1e-7)
    least = [np.nextafter(0.5, 1), np.nextafter(0.5, 0), 0.5, np.nextafter(1.0, 0), 1.0, 0.0, np.nextafter(0.0, 1)]
    values = np.r_[0.25 + steps * 1e-7, 0.5 + steps * 1e-9, single, steps * 1e-12, 1 - steps * 1e-12, least]
    return np.random.default_rng(0).permutation(np.unique(values))


@pytest.mark.parametrize("kind", ["submission", "predictions"])
def test_the_ranking_survives_writing(kind: str, tmp_path: Path) -> None:
    values, path = near_ties(), tmp_path / "p.csv"
    labels = np.random.default_rng(1).integers(0, 2, len(values)).astype(np.int8)
    ids = [f"p{k:04d}" for k in range(len(values))]
    written = Predictions(np.array(ids), labels, values)
    if kind == "submission":
        write_submission(path, make_submission(written, written.ids))
        read = read_table(path, purpose="id,label")["label"].astype(np.float64).to_numpy()
    else:
        written.write(path)
        read = Predictions.read(path).probabilities
    np.testing.assert_array_equal(read, values)
    assert auc(labels, read) == auc(labels, values)
    assert auc(labels, np.round(values, 6)) != auc(labels, values), "six decimals would not do"


@pytest.mark.parametrize(
    ("ids", "values", "sample", "said"),
    [
        (["a"], [0.1], ["a", "b"], "have no patch .first: b"),
        (["a", "b"], [0.1, 0.2], ["a"], "not in the sample submission .first: b"),
        (["a", "a"], [0.1, 0.2], ["a"], "duplicate ids in the patches"),
        (["a", "b"], [0.1, 0.2], ["a", "b", "b"], "duplicate ids in the sample submission"),
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
