from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from rounding import Rounding
from sentinode.audit.appearance import QUANTITIES, appearance, appearance_by, brightness_and_contrast


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)


def test_one_colour_has_the_numbers_of_that_colour() -> None:
    pixels = np.tile(np.array([200, 100, 150], np.uint8), (1, 96, 96, 1))
    (line,) = appearance(pixels).to_dict("records")
    density = line.pop("optical_density")  # all others are whole numbers or halves, as are their sums
    assert line == {
        "red": 200,
        "green": 100,
        "blue": 150,
        "brightness": 150,
        "contrast": 0,
        "saturation": 0.5,
        "centre_brightness": 150,
    }
    assert density == pytest.approx(-np.log10([200 / 255, 100 / 255, 150 / 255]).mean(), rel=1e-4)


def directly(pixels: np.ndarray, dtype: type[np.floating]) -> dict[str, np.ndarray]:
    """Every quantity as its definition says, in single or double precision."""
    values = pixels.astype(dtype)
    brightness, highest = values.mean(axis=3), values.max(axis=3)
    red, green, blue = np.moveaxis(values.mean(axis=(1, 2)), -1, 0)
    return {
        "red": red,
        "green": green,
        "blue": blue,
        "brightness": brightness.mean(axis=(1, 2)),
        "contrast": brightness.std(axis=(1, 2)),
        "saturation": ((highest - values.min(axis=3)) / np.maximum(highest, 1)).mean(axis=(1, 2)),
        "optical_density": -np.log10(np.maximum(values, dtype(0.5)) / dtype(255)).mean(axis=(1, 2, 3)),
        "centre_brightness": brightness[:, 32:64, 32:64].mean(axis=(1, 2)),
    }


@pytest.mark.numeric
def test_numbers_agree_with_a_direct_computation() -> None:
    rounding = Rounding()
    for seed in range(4):
        pixels = noise(3, seed)
        table, single, exact = appearance(pixels), directly(pixels, np.float32), directly(pixels, np.float64)
        for name in QUANTITIES:
            of = (torch.from_numpy(np.array(values[name])) for values in (table, single, exact))
            rounding.add(name, *of)
    rounding.check()
    saturations = [colorsys.rgb_to_hsv(*colour)[1] for colour in (pixels[0].reshape(-1, 3) / 255).tolist()]
    assert exact["saturation"][0] == pytest.approx(np.mean(saturations), rel=1e-12)


def test_black_and_white_have_finite_numbers() -> None:
    pixels = np.stack([np.zeros((96, 96, 3), np.uint8), np.full((96, 96, 3), 255, np.uint8)])
    table = appearance(pixels)
    assert np.isfinite(table.to_numpy()).all()
    assert table["optical_density"].tolist() == pytest.approx([2.7076, 0], abs=5e-5)  # four digits


def test_chosen_rows_keep_their_order_and_their_numbers() -> None:
    pixels = noise(130)
    ticks: list[tuple[int, int]] = []
    rows = np.arange(129, -1, -1)
    table = appearance(pixels, rows, on_progress=lambda done, total: ticks.append((done, total)))
    assert table.index.tolist() == rows.tolist()
    assert ticks == [(64, 130), (128, 130), (130, 130)]
    assert table.sort_index().equals(appearance(pixels))


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
