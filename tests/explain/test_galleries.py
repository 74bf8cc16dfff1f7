"""Which patches are shown, and that their pictures are their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from conftest import make_patches
from sentinode.config.run import RunConfig
from sentinode.explain.galleries import examples, mistakes_to_show, worst_mistakes, write_inputs, write_pictures
from sentinode.inference.predictions import Predictions
from sentinode.settings import override


def test_the_worst_mistakes_are_the_most_confident_ones() -> None:
    ids = np.array(["a", "b", "c", "d", "e"])
    labels = np.array([0, 0, 1, 1, 1], dtype=np.int8)
    predictions = Predictions(ids, labels, np.array([0.6, 0.9, 0.1, 0.4, 0.8]))
    false_positives, false_negatives = worst_mistakes(predictions)
    assert ids[false_positives].tolist() == ["b", "a"]
    assert ids[false_negatives].tolist() == ["c", "d"]
    assert mistakes_to_show(predictions) == ["b", "a", "c", "d"]


def test_examples_are_of_their_class_and_follow_the_seed() -> None:
    patches = make_patches(40)
    drawn = examples(patches.ids, patches.labels, 5, seed=1)
    for label in (0, 1):
        assert len(set(drawn[label])) == 5
        assert set(patches.labels[patches.rows_of(np.array(drawn[label]))].tolist()) == {label}
    assert drawn == examples(patches.ids, patches.labels, 5, seed=1)
    assert len(examples(patches.ids, patches.labels, 500, seed=1)[0]) == 20


def test_a_picture_is_the_patchs_pixels(tmp_path: Path) -> None:
    patches = make_patches(4)
    write_pictures(tmp_path, patches, ["patch0002", "patch0000", "patch0002"])
    assert {path.name for path in tmp_path.iterdir()} == {"patch0000.png", "patch0002.png"}
    with Image.open(tmp_path / "patch0002.png") as image:
        assert np.array_equal(np.asarray(image), patches.pixels[2])


def test_what_a_network_is_given_is_pictured_beside_the_patch(tmp_path: Path) -> None:
    patches, config = make_patches(4), override(RunConfig(), {"preprocess.resize": "nearest"})
    ranges = write_inputs(tmp_path, patches, ["patch0001"], config)
    with Image.open(tmp_path / "patch0001.input.png") as image:
        given = np.asarray(image)
    assert given.shape == (32, 32, 3)
    assert (given == patches.pixels[1][1::3, 1::3]).all()  # the middle pixel of each block of 3 x 3
    assert (ranges[0].lowest, ranges[0].highest) == (given.min() / 255, given.max() / 255)
    with Image.open(tmp_path / "patch0001.varied.png") as image:
        varied = np.asarray(image)
    assert sorted(varied.flatten()) == sorted(given.flatten())  # one of the square's symmetries


def test_nothing_varied_is_pictured_where_training_varies_nothing(tmp_path: Path) -> None:
    still = override(RunConfig(), {"fit.augment.symmetries": "none"})
    write_inputs(tmp_path, make_patches(4), ["patch0001"], still)
    assert [path.name for path in tmp_path.iterdir()] == ["patch0001.input.png"]
