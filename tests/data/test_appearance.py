from __future__ import annotations

import colorsys

import numpy as np
import pytest

from sentinode.data.appearance import QUANTITIES, appearance, appearance_by, brightness_and_contrast


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)


def test_one_colour_has_the_numbers_of_that_colour() -> None:
    pixels = np.tile(np.array([200, 100, 150], np.uint8), (1, 96, 96, 1))
    (line,) = appearance(pixels).to_dict("records")
    assert line == pytest.approx(
        {
            "red": 200,
            "green": 100,
            "blue": 150,
            "brightness": 150,
            "contrast": 0,
            "saturation": 0.5,
            "optical_density": -np.log10([200 / 255, 100 / 255, 150 / 255]).mean(),
            "centre_brightness": 150,
        },
        rel=1e-5,
        abs=1e-4,
    )


def test_numbers_agree_with_a_direct_computation() -> None:
    pixels = noise(3)
    table = appearance(pixels)
    brightness = pixels.astype(float).mean(axis=3)
    assert table["brightness"].to_numpy() == pytest.approx(brightness.mean(axis=(1, 2)), rel=1e-5)
    assert table["contrast"].to_numpy() == pytest.approx(brightness.std(axis=(1, 2)), rel=1e-5)
    assert table["centre_brightness"].to_numpy() == pytest.approx(
        brightness[:, 32:64, 32:64].mean(axis=(1, 2)), rel=1e-5
    )
    saturations = [colorsys.rgb_to_hsv(*colour)[1] for colour in (pixels[0].reshape(-1, 3) / 255).tolist()]
    assert table["saturation"][0] == pytest.approx(np.mean(saturations), rel=1e-5)


def test_black_and_white_have_finite_numbers() -> None:
    pixels = np.stack([np.zeros((96, 96, 3), np.uint8), np.full((96, 96, 3), 255, np.uint8)])
    table = appearance(pixels)
    assert np.isfinite(table.to_numpy()).all()
    assert table["optical_density"].tolist() == pytest.approx([2.7076, 0], abs=1e-4)


def test_chosen_rows_keep_their_order_and_their_numbers() -> None:
    pixels = noise(130)
    ticks: list[tuple[int, int]] = []
    rows = np.arange(129, -1, -1)
    table = appearance(pixels, rows, on_progress=lambda done, total: ticks.append((done, total)))
    assert table.index.tolist() == rows.tolist()
    assert ticks == [(64, 130), (128, 130), (130, 130)]
    np.testing.assert_allclose(table.sort_index(), appearance(pixels), rtol=1e-6)


def test_no_patches_give_an_empty_table_with_its_columns() -> None:
    table = appearance(noise(2), np.empty(0, int))
    assert list(table.columns) == list(QUANTITIES)
    assert len(table) == 0


def test_means_by_slide() -> None:
    levels = np.array([10, 20, 60], np.uint8)
    pixels = np.tile(levels[:, None, None, None], (1, 96, 96, 3))
    by_slide = appearance_by(appearance(pixels), ["a", "b", "a"])
    assert by_slide["patches"].to_dict() == {"a": 2, "b": 1}
    assert by_slide["red"].to_dict() == pytest.approx({"a": 35, "b": 20})


def test_brightness_and_contrast_are_those_of_the_table() -> None:
    pixels = noise(4, seed=1)
    mean, deviation = brightness_and_contrast(pixels)
    table = appearance(pixels)
    np.testing.assert_array_equal(table["brightness"], mean)
    np.testing.assert_array_equal(table["contrast"], deviation)
