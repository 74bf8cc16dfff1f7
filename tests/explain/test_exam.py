"""Methods sit an exam on networks of which it is known what they look at; what looks at no network fails it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from conftest import make_patches
from sentinode.config.presets import load_preset
from sentinode.evaluation.bootstrap import Interval
from sentinode.explain.exam import CONTROLS, Exam, MethodExam, examine
from sentinode.explain.look import LooksAt, look, looks_of, share_in_centre, swapped_pairs, verdicts
from sentinode.inference.attribution import ExplainedLogit, Pixels, attribute
from sentinode.inference.trained import TrainedNetwork
from sentinode.settings import override

AS_THEY_ARE = override(
    load_preset("fair").run_config(),
    {"preprocess.size_px": 96, "preprocess.resize": "area", "predict.views": 1},
)
SET = make_patches(24, slides=8, seed=4)
PATCHES = np.ascontiguousarray(SET.pixels)


def linear(weights: np.ndarray, bias: float = 0.0) -> ExplainedLogit:
    """A logit that is a weighted sum of the pixels, (96, 96) weights a channel."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 96 * 96, 1))
    with torch.no_grad():
        network[1].weight.copy_(torch.from_numpy(np.tile(weights.ravel(), 3).astype(np.float32))[None])
        network[1].bias.fill_(bias)
    return ExplainedLogit((TrainedNetwork(network, AS_THEY_ARE, torch.device("cpu")),), (1.0,), 1)


def of_centre(*, ring: bool = False) -> ExplainedLogit:
    """Dark tissue in the centre, or around it, is tumour."""
    inside = np.zeros((96, 96))
    inside[32:64, 32:64] = 1
    if ring:
        inside = 1 - inside
    weights = -20 * inside / inside.sum() / 3
    return linear(weights, bias=20 * 0.55)


def of_contrast() -> ExplainedLogit:
    """A centre darker than what is around it is tumour; of shuffled weights, whose sum is 0, nothing is left."""
    weights = np.full((96, 96), 20 / 8192 / 3)
    weights[32:64, 32:64] = -20 / 1024 / 3
    return linear(weights)


@cache
def sat() -> Exam:
    return examine(of_contrast(), PATCHES, SET.slides)


def of(name: str) -> MethodExam:
    return next(found for found in sat().methods if found.method == name)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_a_method_that_shows_what_a_simple_network_uses_passes(method: str) -> None:
    found = of(method)
    assert found.passed, found
    assert found.deletion is not None
    assert found.deletion.low > 0
    assert method in sat().passed


def test_a_method_that_the_network_has_nothing_for_is_said_to_be_impossible() -> None:
    assert of("cam").refused == "the network has no maps"
    assert not of("cam").passed


def test_integrated_gradients_of_a_linear_network_are_complete_and_do_not_survive_other_weights() -> None:
    found = of("integrated_gradients")
    assert found.complete == 1
    assert abs(found.unlike[-1]) < 0.3


@pytest.mark.parametrize("control", CONTROLS)
def test_what_looks_at_no_network_fails(control: str) -> None:
    found = of(control)
    assert found.control
    assert "randomisation" in found.failed
    assert sat().sound
    assert control not in sat().passed


def test_a_constant_map_is_no_better_than_a_random_order() -> None:
    found = of("constant")
    assert found.deletion is not None
    assert found.deletion.low < 0 < found.deletion.high


def test_a_network_that_takes_turned_patches_for_others_has_no_stable_maps() -> None:
    lopsided = np.zeros((96, 96))
    lopsided[8:40, 8:24] = -30 / 512 / 3
    found = {m.method: m for m in examine(linear(lopsided, bias=20), SOME[:6], SLIDES[:6]).methods}
    assert "stability" in found["occlusion"].failed


def test_with_two_slides_nothing_passes_for_no_interval_is_known() -> None:
    found = examine(of_contrast(), SOME[:6], np.array(["a", "b"] * 3))
    assert found.passed == ()
    assert "at least 3" in str(found.methods[2].deletion.reason)


def test_an_exam_is_repeated_to_the_last_bit() -> None:
    few, slides = SOME[:4], SLIDES[:4]
    assert repr(examine(of_contrast(), few, slides)) == repr(examine(of_contrast(), few, slides))


SOME = PATCHES[:15]  # too few to be clustered by stain: noise has none
LABELS = SET.labels[:15].astype(np.int64)
SLIDES = SET.slides[:15]


def dark_ring(pixels: Pixels, labels: np.ndarray) -> Pixels:
    """The same patches with the darkness of the positives around the centre, and not in it."""
    changed = pixels.copy()
    changed[labels == 1] //= 2
    changed[labels == 1, 32:64, 32:64] = pixels[labels == 0][:1, 32:64, 32:64]
    return changed


def looked(explained: ExplainedLogit, pixels: Pixels) -> LooksAt:
    swapped = swapped_pairs(pixels, LABELS, seed=0)
    maps = {"occlusion": attribute(explained, pixels, "occlusion").maps}
    return look(looks_of(explained, pixels, swapped, maps), swapped, SLIDES, unit="slides", seed=0)


def test_a_network_that_reads_the_centre_follows_it() -> None:
    found = looked(of_centre(), SOME)
    assert found.pairs > 0
    assert found.follows_centre.estimate == 1
    assert found.ring_blurred.estimate < 1e-5
    assert found.centre_share.estimate == pytest.approx(1, abs=1e-4)
    assert found.attribution["occlusion"].estimate == pytest.approx(1, abs=1e-3)


def test_a_network_that_reads_the_ring_does_not() -> None:
    found = looked(of_centre(ring=True), dark_ring(SOME, LABELS))
    assert found.pairs > 0
    assert found.follows_centre.estimate == 0
    assert found.centre_blurred.estimate < 1e-5
    assert found.attribution["occlusion"].estimate == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("estimate", "low", "high", "sentence"),
    [
        (0.9, 0.7, 1.0, "It decides by the centre more often"),
        (0.1, 0.0, 0.3, "It decides by what is around the centre more often"),
        (0.6, 0.4, 0.8, "It cannot be told"),
        (0.9, np.nan, np.nan, "It cannot be told"),
    ],
)
def test_what_a_network_uses_is_said_where_its_interval_says_so(
    estimate: float, low: float, high: float, sentence: str
) -> None:
    found = replace(looked(of_centre(), SOME), follows_centre=Interval(estimate, low, high, 0.95))
    assert found.in_words.startswith(sentence)


def test_two_networks_are_compared_on_the_same_patches_and_one_run_each_names_no_winner() -> None:
    swapped = swapped_pairs(SOME, LABELS, seed=0)
    both = tuple(looks_of(of_centre(ring=ring), SOME, swapped, {}) for ring in (False, True))
    found = verdicts(("a", "b"), (both[0], both[1]), swapped, SLIDES, unit="slides", seed=0)
    assert found[0].difference == pytest.approx(1, abs=1e-4)
    assert {verdict.outcome for verdict in found} <= {"too few seeds", "no spread", "too few slides"}


def test_swapped_patches_have_the_centre_of_one_and_the_ring_of_another_class() -> None:
    swapped = swapped_pairs(SOME, LABELS, seed=1)
    assert len(swapped.rings) == 2 * (LABELS == 1).sum()
    assert (LABELS[swapped.rings] == 1 - LABELS[swapped.centres]).all()
    assert (swapped.tumour == LABELS[swapped.centres]).all()
    inside = np.zeros((96, 96), bool)
    inside[32:64, 32:64] = True
    assert np.array_equal(swapped.pixels[:, inside], SOME[swapped.centres][:, inside])
    assert np.array_equal(swapped.pixels[:, ~inside], SOME[swapped.rings][:, ~inside])


def test_without_two_classes_there_are_no_pairs_and_the_rest_is_measured() -> None:
    swapped = swapped_pairs(SOME, np.zeros(len(SOME), np.int64), seed=0)
    found = look(looks_of(of_centre(), SOME, swapped, {}), swapped, SLIDES, unit="slides", seed=0)
    assert found.pairs == 0
    assert np.isnan(found.follows_centre.estimate)
    assert "come from the centre" in found.in_words


def test_an_even_map_has_a_ninth_in_the_centre_and_an_empty_one_no_share() -> None:
    maps = np.stack([np.ones((96, 96)), -np.ones((96, 96)), np.zeros((96, 96))]).astype(np.float32)
    assert share_in_centre(maps) == pytest.approx([1 / 9, 1 / 9, np.nan], nan_ok=True)
