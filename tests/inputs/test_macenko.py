"""Stain normalisation: what can be normalised comes out alike, what cannot stays as it is and is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from conftest import make_patches
from sentinode.config.run import PreprocessConfig
from sentinode.data.images import read_patch
from sentinode.data.patches import PatchSet
from sentinode.inputs.augment import stain
from sentinode.inputs.macenko import normalise_stain
from sentinode.inputs.preprocess import downsample, notices, prepare, preprocess

pytestmark = pytest.mark.numeric

REFERENCE = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
STRENGTHS = np.array([1.9705, 1.0308])
OTHER = np.array([[0.65, 0.70, 0.29], [0.10, 0.95, 0.29]])
MACENKO = PreprocessConfig(stain="macenko")


def amounts(count: int, seed: int) -> np.ndarray:
    """Concentrations of two stains, (N, 96, 96, 2): places with one of them, with both, and with neither."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(0, 1, (count, 96, 96, 2)), (0, 2, 2, 0))
    return np.clip(smooth / smooth.std() - 0.3, 0, 2)


def painted(concentrations: np.ndarray, stains: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(240 * np.exp(-concentrations @ stains)), 0, 255).astype(np.uint8)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each pair of patches, in grey levels."""
    return np.abs(a.astype(float) - b).mean(axis=(1, 2, 3))


@pytest.fixture(scope="module")
def tissue(phantom_folder: Path) -> np.ndarray:
    truth = pd.read_csv(phantom_folder / "truth.csv", dtype={"id": str}, keep_default_na=False)
    plain = truth[~truth["defect"].isin(["white", "black"])][:60]
    files = [phantom_folder / part / f"{i}.tif" for i, part in zip(plain["id"], plain["part"], strict=True)]
    return np.stack([read_patch(file) for file in files])


def stained_otherwise(patches: np.ndarray, strengths: list[float]) -> np.ndarray:
    images = torch.from_numpy(patches).permute(0, 3, 1, 2) / 255
    scaled = stain(images, torch.tensor([strengths]).repeat(len(patches), 1))
    return np.rint(scaled.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


def test_known_stains_become_the_reference() -> None:
    """Painted in other stains, patches become what the reference's stains would have made of their amounts."""
    concentrations = amounts(4, 0)
    normalised, left = normalise_stain(painted(concentrations, OTHER))
    assert not left.any()
    largest = np.percentile(concentrations.reshape(4, -1, 2), 99, axis=1)
    expected = painted(concentrations * (STRENGTHS / largest)[:, None, None], REFERENCE)
    before = difference(painted(concentrations, OTHER), expected)
    assert (difference(normalised, expected) < 6).all()
    assert (difference(normalised, expected) < before / 3).all()


def test_different_strengths_come_out_nearer_to_each_other(tissue: np.ndarray) -> None:
    weak, strong = stained_otherwise(tissue, [0.75, 0.75, 1.0]), stained_otherwise(tissue, [1.1, 1.2, 1.0])
    (one, left), (two, also_left) = normalise_stain(weak), normalise_stain(strong)
    sound = ~left & ~also_left
    assert sound.mean() > 0.9
    before, after = difference(weak, strong)[sound], difference(one, two)[sound]
    assert np.median(after) < 0.5 * np.median(before)
    assert (after < before).mean() > 0.9


def test_haematoxylin_comes_first_whatever_there_is_more_of(tissue: np.ndarray) -> None:
    """Nuclei stay bluer than what surrounds them, under any share of the stains: the two never change places."""
    concentrations = amounts(6, 1)
    for shares in ([1.0, 0.3], [0.3, 1.0], [1.0, 1.0]):
        pixels = painted(concentrations * shares, OTHER)
        normalised, left = normalise_stain(pixels)
        assert not left.any()
        first, second = (concentrations[..., k] > np.percentile(concentrations[..., k], 95) for k in (0, 1))
        first, second = first & ~second, second & ~first
        red = normalised[..., 0].astype(float)
        assert red[first].mean() < red[second].mean() - 30
    dark = tissue.sum(axis=3) < np.percentile(tissue.sum(axis=3), 10)
    assert normalise_stain(tissue)[0][dark].mean() < normalise_stain(tissue)[0][~dark].mean() - 30


def test_turning_a_patch_changes_nothing(tissue: np.ndarray) -> None:
    turned = normalise_stain(np.ascontiguousarray(tissue.transpose(0, 2, 1, 3)))[0].transpose(0, 2, 1, 3)
    assert np.abs(turned.astype(int) - normalise_stain(tissue)[0]).max() <= 1


def one_colour() -> np.ndarray:
    return np.tile(np.array([150, 80, 140], np.uint8), (96, 96, 1))


def one_stain() -> np.ndarray:
    """Haematoxylin alone, in many strengths."""
    strengths = np.linspace(0.3, 2, 96 * 96).reshape(1, 96, 96, 1)
    return painted(strengths, OTHER[:1])[0]


def a_speck() -> np.ndarray:
    patch = np.full((96, 96, 3), 245, np.uint8)
    patch[:12, :12] = painted(amounts(1, 2), OTHER)[0, :12, :12]
    return patch


@pytest.mark.parametrize(
    "patch",
    [np.full((96, 96, 3), 255, np.uint8), np.zeros((96, 96, 3), np.uint8), one_colour(), one_stain(), a_speck()],
    ids=["white", "black", "one colour", "one stain", "a speck of tissue"],
)
def test_what_cannot_be_normalised_keeps_its_pixels(patch: np.ndarray) -> None:
    among = np.concatenate([painted(amounts(2, 3), OTHER), patch[None]])
    normalised, left = normalise_stain(among)
    assert left.tolist() == [False, False, True]
    assert np.array_equal(normalised[2], patch)
    assert not np.array_equal(normalised[0], among[0])


def test_a_batch_is_its_patches_one_by_one(tissue: np.ndarray) -> None:
    patches = np.concatenate([tissue[:20], np.full((1, 96, 96, 3), 255, np.uint8), tissue[20:23]])
    normalised, left = normalise_stain(patches)
    alone = [normalise_stain(patch[None]) for patch in patches]
    assert np.array_equal(normalised, np.concatenate([pixels for pixels, _ in alone]))
    assert left.tolist() == [bool(flag[0]) for _, flag in alone]
    assert [a.shape for a in normalise_stain(patches[:0])] == [(0, 96, 96, 3), (0,)]


def with_blanks(tissue: np.ndarray, blanks: int) -> PatchSet:
    patches = make_patches(len(tissue))
    pixels = tissue.copy()
    pixels[:blanks] = 255
    return PatchSet(patches.ids, patches.labels, patches.slides, patches.groups, pixels)


def test_preprocessing_normalises_the_whole_patch_before_it_cuts_and_shrinks(tissue: np.ndarray) -> None:
    config = PreprocessConfig(stain="macenko", crop_px=64, size_px=32)
    pixels, left = preprocess(tissue, config)
    whole, also_left = normalise_stain(tissue)
    assert np.array_equal(pixels, downsample(whole, config))
    assert np.array_equal(left, also_left)
    untouched, none = preprocess(tissue, PreprocessConfig())
    assert np.array_equal(untouched, downsample(tissue, PreprocessConfig()))
    assert not none.any()


def test_pixels_held_and_on_demand_are_the_same_and_counted_alike(tissue: np.ndarray) -> None:
    patches = with_blanks(tissue, 3)
    rows = np.random.default_rng(0).permutation(len(patches))
    held, demanded = (prepare(patches, rows, MACENKO, budget_mb=budget) for budget in (100, 0))
    assert held.held is not None
    assert demanded.held is None
    assert np.array_equal(held[slice(0, 60)], preprocess(patches.pixels[rows], MACENKO)[0])
    assert np.array_equal(demanded[slice(5, 20)], held[slice(5, 20)])
    assert np.array_equal(demanded[np.array([7, 3])], held[np.array([7, 3])])
    expected = int(preprocess(patches.pixels, MACENKO)[1].sum())
    assert expected >= 3
    assert held.unnormalised == demanded.unnormalised == expected


def test_what_was_left_is_told_and_nothing_without_normalisation(tissue: np.ndarray) -> None:
    patches, rows = with_blanks(tissue[:20], 2), np.arange(20)
    sides = [prepare(patches, part, MACENKO, budget_mb=100) for part in (rows[:5], rows[5:])]
    assert [side.unnormalised for side in sides] == [2, 0]
    assert [text.split(":")[0] for text in notices(*sides)] == ["stain normalisation left 2 of 20 patches as they are"]
    assert notices(sides[1]) == []
    assert notices(prepare(patches, rows, PreprocessConfig(), budget_mb=100)) == []
