from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from sentinode.audit.duplicates import hash_pixels
from sentinode.audit.overlaps import (
    MAX_NEIGHBOURS,
    MIN_SHARED_PX,
    Overlap,
    find_anchors,
    match_anchors,
    overlap_groups,
)

PATCH = 96


def find_overlaps(pixels: np.ndarray, **options: Any) -> list[Overlap]:
    """In parts, as an audit reads them."""
    parts = [(at, pixels[at : at + 4]) for at in range(0, len(pixels), 4)]
    anchors = [find_anchors(part, hash_pixels(part), at, len(pixels)) for at, part in parts]
    return match_anchors(pixels, anchors, **options)


def tissue(seed: int, side: int = 300) -> np.ndarray:
    """A square of smooth, stained-looking noise, (side, side, 3)."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(side, side, 3)), (2, 2, 0))
    return np.clip(150 + smooth * 40 / smooth.std(), 0, 255).astype(np.uint8)


def cut(slide: np.ndarray, x: int, y: int) -> np.ndarray:
    return slide[y : y + PATCH, x : x + PATCH]


def shared_px(dx: int, dy: int) -> int:
    return (PATCH - abs(dx)) * (PATCH - abs(dy))


def brute_force(pixels: np.ndarray) -> list[Overlap]:
    """Every shift of every pair, by comparing all pixels."""
    reach = PATCH - MIN_SHARED_PX
    found = []
    for a, b in combinations(range(len(pixels)), 2):
        for dx in range(-reach, reach + 1):
            for dy in range(-reach, reach + 1):
                of_a = pixels[a, max(dy, 0) : PATCH + min(dy, 0), max(dx, 0) : PATCH + min(dx, 0)]
                of_b = pixels[b, max(-dy, 0) : PATCH + min(-dy, 0), max(-dx, 0) : PATCH + min(-dx, 0)]
                if of_a[0, 0, 0] == of_b[0, 0, 0] and np.array_equal(of_a, of_b):
                    found.append(Overlap(a, b, dx, dy, shared_px(dx, dy)))
    return found


@pytest.mark.parametrize(("dx", "dy"), [(30, 0), (-30, 0), (0, 45), (0, -45), (7, -61), (-80, 80), (80, -80)])
def test_a_shift_in_any_direction_is_found(dx: int, dy: int) -> None:
    slide = tissue(0)
    first, second = cut(slide, 100, 100), cut(slide, 100 + dx, 100 + dy)
    assert find_overlaps(np.stack([first, second])) == [Overlap(0, 1, dx, dy, shared_px(dx, dy))]
    assert np.array_equal(first[max(dy, 0), max(dx, 0)], second[max(-dy, 0), max(-dx, 0)])


shifts = st.integers(-(PATCH - MIN_SHARED_PX), PATCH - MIN_SHARED_PX)


@settings(max_examples=60)
@given(dx=shifts, dy=shifts, seed=st.integers(0, 1000), smooth=st.booleans())
def test_any_planted_shift_with_enough_shared_tissue_is_found(dx: int, dy: int, seed: int, smooth: bool) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    slide = tissue(seed) if smooth else noise
    pair = np.stack([cut(slide, 100, 100), cut(slide, 100 + dx, 100 + dy)])
    assert find_overlaps(pair, workers=1) == [Overlap(0, 1, dx, dy, shared_px(dx, dy))]


def test_all_pairs_of_a_brute_force_search_are_found_and_no_other() -> None:
    rng = np.random.default_rng(1)
    slides = [tissue(1, 190), tissue(2, 190)]
    pixels = np.stack([cut(slides[k % 2], *rng.integers(0, 94, 2)) for k in range(7)])
    expected = brute_force(pixels)
    assert len(expected) >= 3
    assert find_overlaps(pixels) == expected


def test_less_shared_tissue_than_a_block_is_not_reported() -> None:
    slide = tissue(3)
    fifteen, sixteen = (np.stack([cut(slide, 100, 100), cut(slide, 196 - px, 100)]) for px in (15, 16))
    assert find_overlaps(fifteen) == []
    assert len(find_overlaps(sixteen)) == 1


def test_one_changed_pixel_in_the_shared_area_is_no_overlap() -> None:
    slide = tissue(4)
    pair = np.stack([cut(slide, 100, 100), cut(slide, 110, 100)])
    pair[1, 95, 0, 2] ^= 1
    assert find_overlaps(pair) == []


def test_empty_glass_is_not_shared_tissue() -> None:
    faint = np.random.default_rng(5).integers(246, 256, (300, 300, 3), dtype=np.uint8)
    white, black = np.full((2, PATCH, PATCH, 3), 255, np.uint8), np.zeros((2, PATCH, PATCH, 3), np.uint8)
    pixels = np.concatenate([white, black, [cut(faint, 0, 0), cut(faint, 16, 0)]])
    assert find_overlaps(pixels) == []


def test_tissue_islands_on_white_are_matched_by_the_islands() -> None:
    slide = np.full((300, 300, 3), 255, np.uint8)
    slide[140:156, 140:156] = tissue(6)[:16, :16]
    pair = np.stack([cut(slide, 100, 100), cut(slide, 120, 90)])
    assert find_overlaps(pair) == [Overlap(0, 1, 20, -10, shared_px(20, -10))]


def test_identical_patches_overlap_with_no_shift() -> None:
    patch = cut(tissue(7), 0, 0)
    assert find_overlaps(np.stack([patch, patch])) == [Overlap(0, 1, 0, 0, PATCH * PATCH)]


def test_tissue_seen_more_often_than_an_anchor_has_neighbours_stays_one_group() -> None:
    slide = tissue(8)
    count = 3 * MAX_NEIGHBOURS
    pixels = np.stack([cut(slide, k % 7, k // 7) for k in range(count)])
    overlaps = find_overlaps(pixels)
    assert len(overlaps) <= count * (count - 1) // 2
    assert set(overlap_groups(count, overlaps)) == {0}


def test_the_result_does_not_depend_on_the_number_of_workers() -> None:
    slides = [tissue(seed) for seed in range(20, 24)]
    rng = np.random.default_rng(2)
    pixels = np.stack([cut(slides[k % 4], *rng.integers(0, 200, 2)) for k in range(100)])
    ticks: list[tuple[int, int]] = []
    one = find_overlaps(pixels, workers=1, on_progress=lambda done, total: ticks.append((done, total)))
    assert one == find_overlaps(pixels, workers=3)
    assert ticks[-1][0] == ticks[-1][1] > 0, "of the pairs that were proposed"
    assert ticks == sorted(ticks)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_patches_have_no_pairs(count: int) -> None:
    pixels = np.stack([tissue(9, PATCH)] * count) if count else np.empty((0, 96, 96, 3), np.uint8)
    assert find_overlaps(pixels) == []
    assert list(overlap_groups(count, [])) == [-1] * count


def test_groups_join_chains_and_are_numbered_by_their_first_rows() -> None:
    pairs = [Overlap(4, 6, 0, 1, 1), Overlap(1, 3, 0, 1, 1), Overlap(3, 5, 0, 1, 1)]
    expected = [-1, 0, -1, 0, 1, 0, 1]
    assert overlap_groups(7, pairs).tolist() == expected
    assert overlap_groups(7, reversed(pairs)).tolist() == expected
