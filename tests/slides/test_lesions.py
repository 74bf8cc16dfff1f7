"""Lesions are what hangs together; their polygons are valid and have exactly the area of their cells."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sentinode import find_lesions
from sentinode.slides.heatmap import Grid, HeatMap
from sentinode.slides.lesions import Lesion, geojson, longest_axis_um, outlines, size_of


def heat_map(probability: np.ndarray, step: tuple[float, float] = (32.0, 32.0)) -> HeatMap:
    grid = Grid(*probability.shape, step, (30.0, 30.0))
    return HeatMap(
        grid,
        probability.astype(np.float32),
        np.full(probability.shape, np.nan, np.float32),
        np.zeros(probability.shape, np.uint8),
        np.zeros(probability.shape, np.uint8),
    )


def test_cells_above_the_threshold_that_touch_are_one_lesion() -> None:
    probability = np.array(
        [
            [0.9, 0.1, 0.1, 0.1, 0.5],
            [0.1, 0.8, 0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1, 0.6, np.nan],
        ]
    )
    first, second = find_lesions(heat_map(probability), 0.5)
    assert (first.cells, second.cells) == (2, 1)
    assert first.area_mm2 == pytest.approx(2 * 0.0009)
    assert first.longest_axis_um == pytest.approx(np.hypot(60, 60))
    assert (first.mean_probability, first.max_probability) == pytest.approx((0.85, 0.9))
    assert (first.x_px, first.y_px) == (16, 16)
    assert (second.x_px, second.y_px) == (112, 80)


def test_sizes_follow_the_longest_axis() -> None:
    assert size_of(200.0) == "isolated tumour cells"
    assert size_of(200.1) == "micrometastasis"
    assert size_of(2000.0) == "micrometastasis"
    assert size_of(2000.1) == "macrometastasis"
    assert longest_axis_um(np.array([[0, 0], [0, 9]]), (31.0, 31.0)) == pytest.approx(np.hypot(310, 31))


def test_a_hole_is_a_hole_and_what_lies_in_it_a_lesion_of_its_own() -> None:
    ring = np.zeros((7, 7))
    ring[:, :] = 0.9
    ring[1:6, 1:6] = 0.1
    ring[3, 3] = 0.9
    outer, inner = find_lesions(heat_map(ring), 0.5)
    assert len(outer.rings) == 1
    assert [len(rings) - 1 for rings in outer.rings[0]] == [4, 4]
    assert inner.cells == 1
    (polygon,) = outlines(ring > 0.5)[:1]
    assert polygon[0].tolist()[0] == polygon[0].tolist()[-1]


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_polygons_are_valid_and_cover_exactly_the_cells(mask: np.ndarray) -> None:
    lesions = find_lesions(heat_map(np.where(mask, 0.9, 0.1), (32.0, 31.5)), 0.5)
    features = json.loads(geojson(lesions)[0])["features"]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    assert all(shape.is_valid for shape in shapes)
    assert [shape.area for shape in shapes] == pytest.approx([lesion.cells * 32 * 31.5 for lesion in lesions])
    everything = shapely.union_all(shapes)
    for row, column in np.ndindex(mask.shape):
        centre = shapely.Point((column + 0.5) * 32, (row + 0.5) * 31.5)
        assert everything.contains(centre) == mask[row, column]


def test_geojson_stays_within_its_size_and_counts_what_it_leaves_out() -> None:
    rng = np.random.default_rng(0)
    lesions = find_lesions(heat_map(rng.random((60, 60))), 0.8)
    content, left_out = geojson(lesions, largest=20_000)
    features = json.loads(content)["features"]
    assert len(content) <= 20_000
    assert left_out == len(lesions) - len(features) > 0
    assert geojson(lesions)[1] == 0


def test_a_feature_says_what_qupath_shows() -> None:
    triangle = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
    lesion = Lesion("micrometastasis", 4, 0.0036, 250.0, 0.7, 0.9, 1.0, 2.0, ((triangle,),))
    feature = json.loads(geojson([lesion])[0])["features"][0]
    assert feature["geometry"]["type"] == "Polygon"
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"]["name"] == "Tumor"
    assert feature["properties"]["measurements"] == {
        "area mm2": 0.0036,
        "longest axis um": 250.0,
        "mean probability": 0.7,
        "max probability": 0.9,
    }
