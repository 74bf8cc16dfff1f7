"""Annotations become masks, lesions and stages by their definitions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sentinode import Session, score_slides
from sentinode.errors import DataError
from sentinode.evaluation.bootstrap import PairedInterval
from sentinode.phantom.whole_slides import PlantedLesion, asap_xml
from sentinode.records import read_record
from sentinode.slides.camelyon import (
    Annotation,
    detections,
    official_mask,
    official_outcome,
    outcome,
    rasterised,
    read_annotations,
    stage_of,
    truth_of,
)
from sentinode.slides.cohort import judge_cohort
from sentinode.slides.heatmap import Grid, HeatMap
from sentinode.slides.judging import Model, SlideEntry, SlideSettings
from sentinode.slides.scores import SlideScores, verdict
from slides.conftest import classifier_of, write_pyramid

ONE = np.ones(2)


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], float)


def map_of(probability: np.ndarray, step_um: float = 30.0) -> HeatMap:
    grid = Grid(*probability.shape, (32.0, 32.0), (step_um, step_um))
    nothing = np.full(probability.shape, np.nan, np.float32)
    everywhere = np.zeros(probability.shape, np.uint8)
    return HeatMap(grid, probability.astype(np.float32), nothing, everywhere, everywhere)


@given(
    st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=8).map(np.array),
)
def test_a_polygon_covers_the_pixels_whose_centres_it_holds(ring: np.ndarray) -> None:
    polygon = shapely.Polygon(ring)
    if not polygon.is_valid or polygon.area < 1:
        return
    found = rasterised([Annotation((ring,))], (20, 22), ONE)
    y, x = np.mgrid[:20, :22] + 0.5
    inside = shapely.contains_xy(polygon, x, y)
    sure = shapely.distance(polygon.exterior, shapely.points(x, y)) > 1e-9
    assert np.array_equal(found[sure], inside[sure])


def test_holes_and_exclusions_are_cut_out() -> None:
    with_hole = Annotation((square(0, 0, 10), square(4, 4, 2)))
    mask = rasterised([Annotation((square(2, 2, 1),), excluded=True), with_hole], (10, 10), ONE)
    assert mask.sum() == 100 - 4 - 1
    assert not mask[4:6, 4:6].any()
    assert not mask[2, 2]


def test_a_cell_has_tumour_where_any_of_it_is_annotated() -> None:
    grid = Grid(4, 5, (32.0, 32.0), (31.104, 31.104))
    truth = truth_of([Annotation((square(29, 29, 39),))], grid)
    assert np.argwhere(truth.share > 0).tolist() == [[r, c] for r in (0, 1, 2) for c in (0, 1, 2)]
    assert truth.share[1, 1] == 1
    assert truth.share[0, 0] == pytest.approx(1 / 64)
    assert truth.longest_um[0] == pytest.approx(39 * 2**0.5 * 0.972, abs=10)


def test_asap_and_geojson_are_read_alike(tmp_path: Path) -> None:
    outline = square(10, 20, 30) + 0.25
    (tmp_path / "a.xml").write_text(asap_xml([PlantedLesion("micro", outline)]).replace('"Tumor" Color', '"_0" Color'))
    feature = {
        "type": "Feature",
        "properties": {"classification": {"name": "Tumor"}},
        "geometry": {"type": "MultiPolygon", "coordinates": [[outline.tolist()]]},
    }
    excluded = feature | {"properties": {"classification": {"name": "Exclude"}}}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature, excluded]}))
    (asap,) = read_annotations(tmp_path / "a.xml")
    first, second = read_annotations(tmp_path / "a.geojson")
    assert np.array_equal(asap.rings[0], outline)
    assert np.array_equal(first.rings[0], outline)
    assert (asap.excluded, first.excluded, second.excluded) == (False, False, True)


@pytest.mark.parametrize(
    "text", ["not xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><x/>", "<a><Annotation><Coordinate Order='x'/></Annotation></a>"]
)
def test_what_is_no_annotation_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match="holds no annotations"):
        read_annotations(tmp_path / "a.xml")
    (tmp_path / "a.geojson").write_text('{"features": [{"geometry": 3}]}')
    with pytest.raises(DataError, match="holds no annotations"):
        read_annotations(tmp_path / "a.geojson")


def test_detections_are_the_highest_of_their_neighbourhood() -> None:
    probability = np.full((30, 30), 0.01)
    probability[5, 5], probability[5, 8], probability[5, 20], probability[25, 25] = 0.9, 0.95, 0.7, np.nan
    places, scores = detections(map_of(probability))
    assert places.tolist() == [[5, 8], [5, 20]]
    assert scores.tolist() == pytest.approx([0.95, 0.7])


def test_an_outcome_counts_hits_misses_and_what_need_not_be_found() -> None:
    """Three lesions: one of 12 cells' side that is hit, one that is missed, and isolated cells, which are hit."""
    probability = np.full((60, 60), 0.01)
    probability[5, 5], probability[30, 50], probability[50, 8] = 0.9, 0.8, 0.6
    annotations = [
        Annotation((square(2 * 32, 2 * 32, 12 * 32),)),
        Annotation((square(1200, 1500, 300),)),
        Annotation((square(8 * 32, 50 * 32, 64),)),
    ]
    heat_map = map_of(probability)
    found = outcome("a", heat_map, truth_of(annotations, heat_map.grid), threshold=0.5)
    assert found.lesions.tolist() == pytest.approx([0.9, 0.0])
    assert found.false_positives.tolist() == pytest.approx([0.8])
    assert found.isolated == 1
    tumour = 12 * 12 + 11 * 11 + 2 * 2
    assert found.cells[1].sum() == pytest.approx(tumour, abs=30)
    assert found.dice == pytest.approx(2 * 2 / (3 + found.cells[1].sum()))
    normal = outcome("n", heat_map, None, threshold=0.5)
    assert (normal.tumour, len(normal.false_positives), len(normal.lesions)) == (False, 3, 0)


def test_the_challenges_mask_widens_fills_and_leaves_out_what_is_short() -> None:
    """37.5 um are 4.8 pixels of level 5: two squares 54 um apart become one lesion; a small one is too short."""
    factor = 32.0
    at = [Annotation((square(x * factor, 10 * factor, side * factor),)) for x, side in ((10, 40), (57, 40), (150, 4))]
    labels, isolated, found_factor = official_mask(at, (200 * 32, 100 * 32), 0.243)
    assert found_factor == factor
    assert labels.shape == (100, 200)
    assert labels.max() == 2
    assert labels[30, 53] == labels[30, 20] == 1
    assert isolated == {2}
    ring = [Annotation((square(20 * factor, 20 * factor, 60 * factor), square(40 * factor, 40 * factor, 20 * factor)))]
    assert official_mask(ring, (100 * 32, 100 * 32), 0.243)[0][50, 50] == 1
    places = np.array([[20.0, 30.0], [60, 30], [152, 12], [190, 90]]) * factor
    scores = np.array([0.6, 0.7, 0.9, 0.4])
    found = official_outcome("a", places, scores, (labels, isolated, factor))
    assert found.lesions.tolist() == [0.7]
    assert found.false_positives.tolist() == [0.4]
    assert found.isolated == 1


def test_stages_of_patients() -> None:
    macro, micro, itc = "macrometastasis", "micrometastasis", "isolated tumour cells"
    assert stage_of([None, None]) == "pN0"
    assert stage_of([None, itc]) == "pN0(i+)"
    assert stage_of([micro, itc, None]) == "pN1mi"
    assert stage_of([micro, micro, micro, micro]) == "pN1mi"
    assert stage_of([macro, micro, itc]) == "pN1"
    assert stage_of([macro, micro, micro, macro]) == "pN2"


def test_real_annotations_agree_with_their_mask(shared: Callable[[str], Path]) -> None:
    annotations = read_annotations(shared("camelyon16_tumor_102.xml"))
    mask = np.asarray(Image.open(shared("camelyon16_tumor_102_mask.png")).convert("L")) > 0
    found = rasterised(annotations, mask.shape, ONE / 128)
    assert (found & mask).sum() / (found | mask).sum() > 0.85  # at 29 um/px, most of a lesion is its rim


def test_a_judged_cohort_is_scored(tmp_path: Path, tissue_rgb: np.ndarray, session: Session) -> None:
    (tmp_path / "truth").mkdir()
    lesion = PlantedLesion("micro", square(200, 150, 260))
    (tmp_path / "truth" / "a.xml").write_text(asap_xml([lesion]))
    entries = []
    for name, rgb in (("a", tissue_rgb), ("b", tissue_rgb[:, ::-1])):
        entries.append(SlideEntry(write_pyramid(tmp_path / f"{name}.tif", np.ascontiguousarray(rgb)), name))
    for out, seed in (("one", 1), ("two", 2)):
        model = Model(classifier_of(seed), out, "")
        judge_cohort(entries, model, SlideSettings(0.5, "as given"), tmp_path / out, session)
    (tmp_path / "patients.csv").write_text("slide,patient\na,p\nb,p\n")
    found = score_slides(
        tmp_path / "one",
        tmp_path / "truth",
        official=True,
        against=tmp_path / "two",
        patients=tmp_path / "patients.csv",
        out=tmp_path / "scores.json",
    )
    assert read_record(tmp_path / "scores.json", SlideScores).slides == found.slides
    assert [slide.annotated for slide in found.slides] == [True, False]
    assert found.slides[0].lesions == 1
    assert found.official is not None
    assert found.stages is not None
    assert found.stages.patients["p"][0] == "pN1mi"
    assert "slides with tumour: 1" in str(found.scores["froc"].reason)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="annotations of none"):
        score_slides(tmp_path / "one", tmp_path / "none")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.2, "a has a better AUC of slides than b on 0 slides: +0.100, 95 % interval +0.010 to +0.200."),
        (-0.2, -0.01, "a has a worse AUC of slides than b on 0 slides: +0.100, 95 % interval -0.200 to -0.010."),
        (-0.1, 0.2, "There is no evidence that a and b differ in AUC of slides on 0 slides: +0.100"),
        (math.nan, math.nan, "Which model has the better AUC of slides on 0 slides is unknown: two slides."),
    ],
)
def test_a_verdict_is_chosen_by_the_interval(low: float, high: float, said: str) -> None:
    of = PairedInterval(0.1, low, high, 0.95, share_a_better=0.9, p_value=math.nan, reason="two slides")
    found = SlideScores("a", (), {}, None, None, against="b", differences={"slide_auc": of})
    assert verdict(found, "slide_auc").startswith(said)
