"""What the options leave out: of duplicates one copy always stays, and one id in both parts is two patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import make_patches
from sentinode.config.run import RunConfig
from sentinode.runs.material import Gathered, gather
from sentinode.session import Session
from sentinode.settings import override

LEAVING = {"data.leave_out": ["duplicate", "blank", "unlabelled"]}


def gathered(folder: Path, session: Session, training: dict[str, tuple[int, int]], test: dict[str, int]) -> Gathered:
    """Of a folder with these images: id -> which of some patches, and its label (-1: none)."""
    pixels = make_patches(12).pixels.copy()
    pixels[11] = 255
    for part, images in (("train", {i: which for i, (which, _) in training.items()}), ("test", test)):
        (folder / part).mkdir(parents=True)
        for name, which in images.items():
            patch = np.rot90(pixels[-which]) if which < 0 else pixels[which]
            Image.fromarray(patch).save(folder / part / f"{name}.tif")
    labels = [(name, label) for name, (_, label) in training.items() if label >= 0]
    pd.DataFrame(labels, columns=["id", "label"]).to_csv(folder / "train_labels.csv", index=False)
    return gather(folder, override(RunConfig(), LEAVING), session)


@pytest.mark.parametrize(
    ("training", "test", "stay"),
    [
        pytest.param({"a": (1, 0), "b": (1, 0)}, {"t": 2}, "a", id="a pair"),
        pytest.param({"a": (1, 0), "b": (1, 0), "c": (-1, 0)}, {"t": 2}, "a", id="three, one of them turned"),
        pytest.param({"a": (1, 0)}, {"a": 1, "t": 2}, "a", id="one patch in both parts under one id"),
        pytest.param({"a": (1, 0)}, {"t": 1, "u": 2}, "a", id="a copy in the test part under another id"),
        pytest.param({"a": (1, 0), "b": (1, 0)}, {"b": 1, "t": 2}, "a", id="the copy's id is in test"),
        pytest.param({"a": (1, 0), "b": (1, 0)}, {"a": 2, "b": 3}, "a", id="both ids are of other patches in test"),
        pytest.param({"a": (1, 0), "b": (3, 0)}, {"b": 1}, "ab", id="the test patch of the same id is the copy"),
        pytest.param({"a": (1, 0), "b": (3, 0)}, {"b": 11}, "ab", id="the test patch of the same id is blank"),
        pytest.param({"a": (1, -1), "b": (1, 0)}, {"t": 2}, "b", id="the first copy has no label"),
    ],
)
def test_one_copy_of_each_set_of_duplicates_stays(
    tmp_path: Path, session: Session, training: dict[str, tuple[int, int]], test: dict[str, int], stay: str
) -> None:
    others = {"x": (7, 1), "y": (8, 0)}
    found = gathered(tmp_path / "data", session, training | others, test)
    assert sorted(found.material.candidates.ids.tolist()) == sorted([*stay, *others])
    assert found.left_out["duplicate"] == sum(label >= 0 or name != "a" for name, (_, label) in training.items()) - len(
        stay
    )


def test_copies_with_both_labels_keep_the_first_and_that_is_said(tmp_path: Path, session: Session) -> None:
    training = {"a": (1, 1), "b": (1, 0), "c": (1, 0), "d": (4, 0), "e": (4, 0)}
    found = gathered(tmp_path / "data", session, training, {"t": 2}).material
    assert dict(zip(found.candidates.ids.tolist(), found.candidates.labels.tolist(), strict=True)) == {"a": 1, "d": 0}
    assert found.notices == ["1 set of duplicates has both labels: the first labelled copy stays, with its own label"]


def test_tissue_of_a_test_patch_is_not_that_of_the_training_patch_of_its_id(tmp_path: Path, session: Session) -> None:
    """`b` shares tissue with `a` in training; the test patch `b` is another one, and shares tissue with `t`."""
    training = {"a": (1, 0), "b": (1, 0), "x": (7, 1), "y": (8, 0)}
    found = gathered(tmp_path / "data", session, training, {"b": 3, "t": 3})
    groups = dict(zip(found.check.packed.training.ids.tolist(), found.check.groups().tolist(), strict=True))
    assert groups["a"] == groups["b"] != ""
    assert found.check.across_parts() == 0
