from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from sentinode.audit.concepts import CONCEPTS, NAMES, concepts, measure, sharpness
from sentinode.data.images import SPACING_UM_PER_PX
from sentinode.phantom.nuclei import BORDER_PX, draw_nuclei, jittered_grid, stamp

VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
MM2 = (96 * SPACING_UM_PER_PX / 1000) ** 2


def stained(haematoxylin: np.ndarray, eosin: np.ndarray) -> np.ndarray:
    """Pixels (..., 3) of these amounts in optical density, on white glass."""
    density = haematoxylin[..., None] * VECTORS[0] + eosin[..., None] * VECTORS[1]
    return np.clip(np.rint(255 * 10**-density), 0, 255).astype(np.uint8)


def flat(haematoxylin: float, eosin: float) -> np.ndarray:
    return stained(np.full((1, 96, 96), haematoxylin), np.full((1, 96, 96), eosin))


@dataclass(frozen=True)
class Planted:
    """Patches, how many nuclei each was given whose centre lies in it, and how many of its pixels they cover."""

    pixels: np.ndarray
    nuclei: np.ndarray
    area: np.ndarray


def planted(
    *, radius: tuple[float, float], amount: tuple[float, float], spacing: float, share: float, seeds: int = 8
) -> Planted:
    """Nuclei on a jittered grid over pink ground, a little out of focus, with a camera's noise."""
    side = 96 + 2 * BORDER_PX + 16
    within = slice((side - 96) // 2, (side + 96) // 2)
    pixels, nuclei, area = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        points = jittered_grid(rng, side, spacing=spacing, jitter=0.15)
        points = points[rng.random(len(points)) < share]
        plane = np.zeros((side, side), np.float32)
        stamp(plane, draw_nuclei(rng, 32, radius=radius, amount=amount), rng.integers(32, size=len(points)), points)
        area.append((plane > 0.1)[within, within].sum())
        eosin = np.where(plane > 0.1, 0.1, 0.2)
        blurred = [ndimage.gaussian_filter(of, 0.7) for of in (np.maximum(plane, 0.06), eosin)]
        pixels.append(stained(*blurred)[within, within])
        nuclei.append(((points >= within.start) & (points < within.stop)).all(axis=1).sum())
    noisy = np.stack(pixels) + np.random.default_rng(0).normal(0, 2, (seeds, 96, 96, 3))
    return Planted(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), np.array(nuclei), np.array(area))


SMALL_DARK = {"radius": (2.9, 3.9), "amount": (0.6, 0.9)}
LARGE_PALE = {"radius": (5.0, 6.5), "amount": (0.35, 0.5)}


@pytest.mark.parametrize(
    ("kind", "spacing", "share"),
    [
        (SMALL_DARK, 10.0, 0.9),
        (SMALL_DARK, 10.0, 0.4),
        (SMALL_DARK, 10.0, 0.1),
        (LARGE_PALE, 16.0, 0.9),
        (LARGE_PALE, 16.0, 0.3),
    ],
)
def test_planted_nuclei_are_counted_and_measured(kind: dict, spacing: float, share: float) -> None:
    """What the module promises, where nuclei are not packed: counts within a quarter, sizes within a third."""
    truth = planted(**kind, spacing=spacing, share=share)
    found = concepts(truth.pixels)
    assert found["nuclear_density"].mean() * MM2 == pytest.approx(truth.nuclei.mean(), rel=0.25)
    size_um2 = truth.area.sum() / truth.nuclei.sum() * SPACING_UM_PER_PX**2
    assert np.average(found["nuclear_size"], weights=found["nuclear_density"]) == pytest.approx(size_um2, rel=1 / 3)


def test_of_packed_nuclei_no_more_than_a_third_are_missed() -> None:
    truth = planted(**SMALL_DARK, spacing=8.0, share=0.95)
    counted = concepts(truth.pixels)["nuclear_density"].to_numpy() * MM2
    assert 2 / 3 < counted.sum() / truth.nuclei.sum() < 1.1


def test_large_pale_nuclei_are_told_from_small_dark_ones() -> None:
    small, large = (
        concepts(planted(**kind, spacing=spacing, share=0.8).pixels)
        for kind, spacing in ((SMALL_DARK, 10.0), (LARGE_PALE, 16.0))
    )
    assert small["nuclear_size"].max() < large["nuclear_size"].min()
    assert small["nuclear_paleness"].max() < large["nuclear_paleness"].min()
    assert small["nuclear_density"].min() > large["nuclear_density"].max()


@pytest.mark.parametrize(("haematoxylin", "eosin"), [(0.1, 0.3), (0.4, 0.2), (0.0, 0.5), (0.3, 0.0)])
def test_amounts_of_stain_are_those_that_were_laid_down(haematoxylin: float, eosin: float) -> None:
    found = concepts(flat(haematoxylin, eosin)).iloc[0]
    # Half a grey level of rounding is at most 0.002 in density here, and unmixing triples it at most.
    assert found["haematoxylin"] == pytest.approx(haematoxylin, abs=0.006)
    assert found["eosin"] == pytest.approx(eosin, abs=0.006)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_of_a_patch_of_one_grey_nothing_is_made_up(value: int) -> None:
    found = concepts(np.full((1, 96, 96, 3), value, np.uint8)).iloc[0]
    assert found["brightness"] == found["centre_brightness"] == value
    assert np.isnan(found["sharpness"])
    assert found["stroma_share"] == 0
    assert found["nuclear_density"] * MM2 == pytest.approx(0 if value == 255 else 1)
    assert np.isnan(found["nuclear_size"]) == (value == 255)


def test_stroma_is_pink_away_from_nuclei() -> None:
    haematoxylin, eosin = np.full((1, 96, 96), 0.02), np.zeros((1, 96, 96))
    eosin[:, :48] = 0.3
    haematoxylin[:, 8:12, 8:12] = 0.8
    found = measure(stained(haematoxylin, eosin))
    assert not found.stroma[0, 49:].any()
    assert not found.stroma[0, 8:12, 8:12].any()
    assert found.stroma.mean() == pytest.approx(0.5, abs=0.02)
    assert found.peaks.sum() == 1


def test_the_centre_is_measured_by_itself() -> None:
    pixels = flat(0.05, 0.3)
    pixels[:, 32:64, 32:64] = flat(0.0, 0.0)[:, 32:64, 32:64]
    found = concepts(pixels).iloc[0]
    assert found["centre_brightness"] == 255
    assert found["centre_eosin"] == 0
    assert found["centre_stroma_share"] < 0.13  # a rim of one pixel, which the filter blurs
    assert found["eosin"] == pytest.approx(0.3 * 8 / 9, abs=0.006)
    assert found["stroma_share"] == pytest.approx(8 / 9, abs=0.02)


def test_blur_lowers_sharpness_and_hardly_anything_else_of_colour() -> None:
    sharp = planted(**SMALL_DARK, spacing=10.0, share=0.6).pixels
    blurred = np.rint(ndimage.gaussian_filter(sharp.astype(np.float32), (0, 2, 2, 0))).astype(np.uint8)
    assert sharpness(sharp).min() > 1
    assert sharpness(blurred).max() < 0.5
    both = [concepts(of)[["brightness", "haematoxylin", "eosin"]].to_numpy() for of in (sharp, blurred)]
    np.testing.assert_allclose(*both, rtol=0.1, atol=0.02)


def test_hardly_anything_changes_when_a_patch_is_rotated_or_flipped() -> None:
    pixels = planted(**SMALL_DARK, spacing=10.0, share=0.6, seeds=4).pixels
    as_it_is = concepts(pixels)
    for turned in (pixels[:, ::-1], pixels.transpose(0, 2, 1, 3), np.rot90(pixels, axes=(1, 2))):
        np.testing.assert_allclose(concepts(turned)[list(NAMES)], as_it_is, rtol=1e-3)


def test_a_patch_has_the_same_numbers_whoever_is_beside_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 96, 96, 3), dtype=np.uint8)
    heard: list[tuple[int, int]] = []
    all_of_them = concepts(pixels, on_progress=lambda done, total: heard.append((done, total)))
    assert heard == [(16, 40), (32, 40), (40, 40)]
    rows = np.array([33, 2])
    some = concepts(pixels, rows, workers=1)
    assert some.index.tolist() == rows.tolist()
    np.testing.assert_array_equal(some, all_of_them.loc[rows])
    assert concepts(pixels, rows[:0]).shape == (0, len(NAMES))


def test_every_concept_has_a_unit_and_is_explained() -> None:
    assert list(concepts(flat(0.1, 0.1)).columns) == list(NAMES)
    assert len(set(NAMES)) == len(NAMES) == 2 * len(CONCEPTS) - 1
    assert all(of.unit and of.meaning.endswith(".") for of in CONCEPTS)
