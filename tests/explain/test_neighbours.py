"""Neighbours: the features that are compared, the similarity against NumPy, and copies planted in the training set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sentinode.runs.features as features
from conftest import make_patches
from sentinode.config.presets import load_preset
from sentinode.data.patches import PatchSet, symmetric_view
from sentinode.errors import DataError
from sentinode.explain.nearest import Alike, KnownFeatures
from sentinode.explain.neighbours import NEAREST, neighbours_of
from sentinode.models.notebook import notebook_network
from sentinode.models.p4m import RingReadout, p4m_network
from sentinode.runs.ensemble import join_runs
from sentinode.runs.features import Penultimate
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override

CPU = torch.device("cpu")


def images(size_px: int) -> torch.Tensor:
    return torch.rand(3, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_features_are_what_the_last_layer_makes_the_logit_of() -> None:
    drawn = torch.Generator().manual_seed(0)
    notebook = notebook_network(norm="before", bn_momentum=0.9, generator=drawn).eval()
    p4m = p4m_network(input_size_px=48, bn_momentum=0.9, generator=drawn).eval()
    readout = p4m[-1]
    assert isinstance(notebook[-1], nn.Linear)
    assert isinstance(readout, RingReadout)
    for network, last, size_px in ((notebook, notebook[-1], 32), (p4m, readout, 48)):
        cut, seen = Penultimate(network, size_px), images(size_px)
        found = cut.features(seen)
        assert found.shape == (3, cut.width)
        logits = found @ last.weight.reshape(-1, 1) + last.bias
        torch.testing.assert_close(logits, network(seen), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_features_of_maps_are_means_over_their_places() -> None:
    body = nn.Conv2d(3, 4, 3)
    network = nn.Sequential(body, nn.Conv2d(4, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.testing.assert_close(Penultimate(network, 32).features(images(32)), body(images(32)).mean((2, 3)))
    scaled = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())  # as a user's own may be
    torch.testing.assert_close(Penultimate(scaled, 32).features(images(32)), images(32).mean((2, 3)))


def cosines(asked: np.ndarray, known: np.ndarray) -> np.ndarray:
    """In deviations of the known from their mean, in double precision."""
    mean, deviation = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64)
    deviation[deviation < 1e-6] = 1
    one, other = ((values.astype(np.float64) - mean) / deviation for values in (asked, known))
    return np.asarray(one @ other.T / np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)))


@pytest.mark.numeric
@pytest.mark.parametrize("numba", [True, False])
def test_cosines_are_known_within_what_is_said_and_exactly_where_asked(
    numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not numba:
        monkeypatch.setattr("sentinode.explain.nearest.at_hand", lambda: False)
    rng = np.random.default_rng(0)
    known = np.maximum(rng.normal(0.3, rng.uniform(0.1, 5, 200), (900, 200)), 0).astype(np.float32)
    known[:, 3] = 0.1  # of no use, and no reason to divide by nothing
    asked = np.concatenate([known[:3], rng.normal(0.3, 1, (7, 200)).astype(np.float32)])
    expected, before = cosines(asked, known), asked.copy()
    for alike, truth in zip(KnownFeatures(known.copy()).alike(asked), expected, strict=True):
        assert (np.abs(alike.nearly - truth) <= alike.within).all()
        assert alike.within.max() < 0.03  # or nearly all would have to be compared exactly
        np.testing.assert_allclose(alike.exactly(np.arange(900)), truth, atol=200 * 2.0**-24)
        among = rng.random(900) < 0.7
        places, values = alike.largest(among, 5)
        assert places.tolist() == np.flatnonzero(among)[np.argsort(-truth[among])][:5].tolist()
        np.testing.assert_allclose(values, truth[places], atol=200 * 2.0**-24)
    np.testing.assert_array_equal(asked, before)


def test_the_most_alike_come_first_and_of_equal_ones_the_first() -> None:
    exact = np.array([0.5, 0.9, 2.0, 0.5, 0.7, 0.5])
    among = np.arange(6) != 2
    for error in (0.0, 0.3):  # what is nearly known misleads, and the exact decides
        nearly = exact + error * np.array([1, -1, 0, 0.9, -1, 1])
        alike = Alike(nearly, np.full(6, error), lambda rows: exact[rows])
        assert alike.largest(among, 4)[0].tolist() == [1, 4, 0, 3]
        assert alike.largest(among, 9)[0].tolist() == [1, 4, 0, 3, 5]
        assert alike.largest(among & False, 3)[0].tolist() == []


@pytest.fixture(scope="module")
def patches() -> PatchSet:
    return make_patches()


@pytest.fixture(scope="module")
def run(patches: PatchSet, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two members, that each patch is compared by."""
    root = tmp_path_factory.mktemp("runs")
    material = Material(patches, patches.groups, session=Session(root / "cache", CPU))
    settings = {"fit.epochs": 2, "fit.batch_size": 16, "predict.views": 1, "split.validation_fraction": 0.3}
    config = override(load_preset("fair").run_config(), settings)
    members = [
        train_run(material, override(config, own), root / name)
        for name, own in {"before": {}, "after": {"model.norm": "after", "fit.seed": 26}}.items()
    ]
    return join_runs(members, root / "joined", "equal", Session(root / "cache", CPU))


def asked_of(patches: PatchSet, run: Run) -> tuple[PatchSet, np.ndarray]:
    """Five training patches under other names, changed so that the first three are copies of a kind; and their ids."""
    ids = np.array(sorted(run.training_ids))[:5]
    pixels = patches.pixels[patches.rows_of(ids)].copy()
    pixels[0] = symmetric_view(pixels[0], 5)
    pixels[1] = np.clip(pixels[1].astype(int) + np.random.default_rng(0).integers(-4, 5, pixels[1].shape), 0, 255)
    pixels[2, :80, :70] = pixels[2, 16:, 26:].copy()
    pixels[2, 80:] = 128
    pixels[2, :, 70:] = 128
    pixels[3:] = 255 - pixels[3:]
    known = patches.rows(patches.rows_of(ids))
    return PatchSet(np.array([f"asked{k}" for k in range(5)]), known.labels, known.slides, known.groups, pixels), ids


@pytest.mark.filterwarnings("ignore:.*views")
def test_copies_in_the_training_set_are_found_and_named(patches: PatchSet, run: Run, tmp_path: Path) -> None:
    asked, ids = asked_of(patches, run)
    found = neighbours_of(run, asked, patches, k=40, session=Session(tmp_path, CPU))
    ties = [{(tie.id, tie.tie) for tie in of.ties} for of in found]
    assert ties[0] == {(ids[0], "equal")}
    assert ties[1] == {(ids[1], "nearly equal")}
    assert ties[2] == {(ids[2], "shared tissue")}
    assert ties[3] == ties[4] == set()
    assert found[1].of_class[found[1].label][0].id == ids[1]


def test_each_class_has_its_most_similar_training_patches(patches: PatchSet, run: Run, tmp_path: Path) -> None:
    validated = patches.some(patches.rows_of(run.predictions.ids[:4]), tmp_path)
    session = Session(tmp_path, CPU)
    found = neighbours_of(run, validated, patches, k=3, session=session)
    known = patches.rows_of(np.array(sorted(run.training_ids)))
    alike = np.zeros((4, len(known)))
    for network in run.networks:
        cut = Penultimate(network.network(CPU), network.config.preprocess.size_px)
        store = features.FeatureStore(patches, network.config, None, cut, session)
        alike += cosines(store.features(patches.rows_of(validated.ids)), store.features(known)) / 2
    for row, of in enumerate(found):
        assert (of.id, of.label, of.slide) == tuple(columns[row] for columns in validated.columns[:3])
        for label, neighbours in enumerate(of.of_class):
            columns = np.flatnonzero(patches.labels[known] == label)
            best = columns[np.argsort(-alike[row, columns])][:3]
            assert [neighbour.id for neighbour in neighbours] == patches.ids[known[best]].tolist()
            np.testing.assert_allclose([one.similarity for one in neighbours], alike[row, best], atol=1e-4)
            assert all(one.label == label and one.slide == patches.slides[patches.rows_of(np.array([one.id]))][0]
                       for one in neighbours)  # fmt: skip
        nearest = np.argsort(-alike[row])[:NEAREST]
        assert (of.nearest, of.other_class) == (NEAREST, int((patches.labels[known[nearest]] != of.label).sum()))


def test_no_patch_is_its_own_neighbour(patches: PatchSet, run: Run, tmp_path: Path) -> None:
    ids = np.array(sorted(run.training_ids))[[0, -1]]
    found = neighbours_of(run, patches.some(patches.rows_of(ids), tmp_path), patches, session=Session(tmp_path, CPU))
    for i, of in zip(ids, found, strict=True):
        assert i not in {neighbour.id for neighbours in of.of_class for neighbour in neighbours}


def test_features_of_the_training_set_are_computed_once(
    patches: PatchSet, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, _ = asked_of(patches, run)
    session = Session(tmp_path, CPU)
    first = neighbours_of(run, asked, patches, session=session)
    monkeypatch.setattr(features, "features_of", lambda *_, **__: pytest.fail("computed again"))
    assert neighbours_of(run, asked, patches, session=session) == first
    other = replace(patches, pixels=255 - patches.pixels)
    with pytest.raises(pytest.fail.Exception):
        neighbours_of(run, asked, other, session=session)


def test_a_training_set_that_lacks_patches_is_refused(patches: PatchSet, run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are not among"):
        neighbours_of(run, patches.part(slice(0, 2)), patches.part(slice(0, 9)), session=Session(tmp_path, CPU))
