"""Stain clusters: statistics of known colours, and slides of a phantom mostly found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import completeness_score, homogeneity_score

from rounding import Rounding
from sentinode.data.images import read_patch
from sentinode.errors import DataError
from sentinode.splits.stain_clusters import stain_clusters, stain_statistics, uncut_clusters, usual_count

HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def stained(count: int, seed: int, first: np.ndarray = HAEMATOXYLIN, second: np.ndarray = EOSIN) -> np.ndarray:
    """Patches of two stains in random, smooth amounts."""
    rng = np.random.default_rng(seed)
    amounts = 0.25 + 0.1 * gaussian_filter(rng.normal(0, 2, (count, 2, 96, 96)), (0, 0, 1, 1))
    density = amounts[:, 0, :, :, None] * first + amounts[:, 1, :, :, None] * second
    return np.rint(np.clip(255 * 10**-density, 0, 255)).astype(np.uint8)


@pytest.fixture(scope="module")
def phantom(phantom_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    truth = pd.read_csv(phantom_folder / "truth.csv", dtype={"id": str, "slide": str})
    files = [phantom_folder / part / f"{i}.tif" for i, part in zip(truth["id"], truth["part"], strict=True)]
    return np.stack([read_patch(file) for file in files]), truth["slide"].to_numpy(dtype=str)


def test_the_residual_direction_is_square_to_both_stains() -> None:
    expected = np.cross(HAEMATOXYLIN, EOSIN)
    expected *= np.sign(expected[2]) / np.linalg.norm(expected)
    found = stain_statistics(stained(3, 0))
    assert found.shape == (3, 19)
    assert found[:, :3] == pytest.approx(np.tile(expected, (3, 1)), abs=0.01)


def about_the_mean(density: np.ndarray) -> list[np.ndarray]:
    """The tissue's own axis, mean and deviation of one patch's tissue, from its moments about the origin."""
    mean = density.mean(axis=0)
    covariance = (density[:, :, None] * density[:, None, :]).mean(axis=0) - np.outer(mean, mean)
    axis = np.linalg.eigh(covariance)[1][:, 2]
    return [axis * np.sign(axis.sum()), mean, np.sqrt(covariance.diagonal())]


@pytest.mark.numeric
def test_mean_deviation_and_glass_agree_with_a_direct_computation() -> None:
    """As near to the truth as the same moments in single precision: a deviation from them loses digits."""
    rounding = Rounding()
    for seed in range(4):
        pixels = stained(2, seed)
        found = stain_statistics(pixels)
        density = -np.log10(pixels[:, ::2, ::2].astype(float) / 255).reshape(2, -1, 3)
        tissue = density.mean(axis=2) > 0.15
        for row in range(2):
            own = density[row][tissue[row]]
            exact, single = about_the_mean(own), about_the_mean(own.astype(np.float32))
            assert exact[2] == pytest.approx(own.std(axis=0), rel=1e-9)
            for number, name in enumerate(("axis", "mean", "deviation")):
                ours = found[row, 4 + 3 * number : 7 + 3 * number]
                rounding.add(name, *map(torch.from_numpy, (ours, single[number], exact[number])))
            glass = np.percentile(pixels[row].reshape(-1, 3), 99.5, axis=0)
            assert np.array_equal(found[row, 13:16], glass.astype(np.float32))
    rounding.check()


def test_blur_is_higher_out_of_focus() -> None:
    sharp = stained(4, 2)
    soft = gaussian_filter(sharp, (0, 1.5, 1.5, 0))
    before, after = stain_statistics(sharp), stain_statistics(soft)
    assert (after[:, 17] > before[:, 17]).all()
    assert (after[:, 16] < before[:, 16]).all()


def test_two_stains_are_told_apart_whatever_their_amounts() -> None:
    pixels = np.concatenate([stained(20, 3), stained(20, 4, np.array([0.55, 0.68, 0.48]), np.array([0.1, 0.87, 0.5]))])
    clusters = stain_clusters(stain_statistics(pixels), 2, np.random.default_rng(0))
    assert len(set(clusters[:20])) == len(set(clusters[20:])) == 1
    assert clusters[0] != clusters[-1]


def test_slides_of_a_phantom_are_mostly_found_again(phantom: tuple[np.ndarray, np.ndarray]) -> None:
    pixels, slides = phantom
    clusters = stain_clusters(stain_statistics(pixels), 8, np.random.default_rng(0))
    assert homogeneity_score(slides, clusters) > 0.6
    assert completeness_score(slides, clusters) > 0.6


def test_clusters_follow_their_generator_and_progress_is_told(phantom: tuple[np.ndarray, np.ndarray]) -> None:
    pixels = phantom[0]
    ticks: list[tuple[int, int]] = []
    statistics = stain_statistics(pixels, lambda done, total: ticks.append((done, total)))
    first = stain_clusters(statistics, 5, np.random.default_rng(1))
    assert (first == stain_clusters(statistics, 5, np.random.default_rng(1))).all()
    assert set(first.tolist()) == set(range(5))
    assert ticks == [(64, 240), (128, 240), (192, 240), (240, 240)]


def test_a_patch_has_the_same_statistics_in_any_company(phantom: tuple[np.ndarray, np.ndarray]) -> None:
    pixels = phantom[0]
    assert np.array_equal(stain_statistics(pixels[60:70]), stain_statistics(pixels)[60:70])


def test_blank_patches_have_no_stain_and_still_a_cluster() -> None:
    blank = np.full((2, 96, 96, 3), 250, np.uint8)
    assert np.isnan(stain_statistics(blank)[:, :13]).all()
    assert np.isfinite(stain_statistics(blank)[:, 13:]).all()
    clusters = stain_clusters(
        stain_statistics(np.concatenate([stained(10, 5), blank, np.zeros_like(blank)])), 2, np.random.default_rng(0)
    )
    assert set(clusters.tolist()) <= {0, 1}


def test_impossible_numbers_are_refused() -> None:
    for count in (1, 5):
        with pytest.raises(DataError, match=f"into {count} stain clusters"):
            stain_clusters(stain_statistics(stained(4, 0)), count, np.random.default_rng(0))


def test_a_group_moves_whole_into_the_cluster_that_most_of_it_is_in() -> None:
    clusters = np.array([0, 1, 1, 2, 2, 0])
    groups = np.array(["", "a", "a", "a", "b", "b"])
    assert uncut_clusters(clusters, groups).tolist() == ["stain0", "stain1", "stain1", "stain1", "stain0", "stain0"]


def test_the_usual_count_grows_with_the_patches_within_bounds() -> None:
    assert [usual_count(patches) for patches in (10, 100, 9_000, 220_025)] == [5, 8, 60, 150]
