from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sentinode.audit.audit import (
    Audit,
    AuditRecord,
    DuplicateIds,
    OverlapIds,
    Pairs,
    SlideBalance,
    audit_patches,
    balance_by_slide,
    blank_kinds,
)
from sentinode.data.images import patch_id
from sentinode.data.patches import PatchSet
from sentinode.progress import Progress, silent
from sentinode.records import read_record, write_record
from sentinode.session import Session


def tissue(seed: int, side: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 220, (side, side, 3), dtype=np.uint8)


def plain(level: int) -> np.ndarray:
    return np.full((96, 96, 3), level, np.uint8)


def audited(
    ids: Sequence[str],
    labels: np.ndarray,
    slides: Sequence[str],
    pixels: np.ndarray,
    progress: Progress = silent,
) -> Audit:
    patches = PatchSet(
        np.array(ids, dtype=str), labels, np.array(slides, dtype=str), np.full(len(ids), "", dtype=str), pixels
    )
    return audit_patches(patches, Session(Path(), torch.device("cpu"), progress=progress))


@pytest.fixture(scope="module")
def audit() -> Audit:
    """Nine patches with one of each finding; ids are letters but for the SHA-1 of the first."""
    slide = tissue(0, 200)
    pixels = np.stack(
        [
            slide[:96, :96],  # 0
            slide[30:126, 50:146],  # b: 0 shifted
            tissue(1),  # c
            tissue(1),  # d: identical, the same label
            np.rot90(tissue(1)),  # e: turned, another label
            plain(255),  # f
            plain(0),  # g
            plain(120),  # h
            tissue(2),  # i
        ]
    )
    ids = [patch_id(pixels[0]), *"bcdefghi"]
    labels = np.array([1, 1, 0, 0, 1, 0, 0, -1, -1], np.int8)
    slides = ["s1", "s1", "s2", "s2", "s2", "s2", "", "", "s3"]
    return audited(ids, labels, slides, pixels)


def test_duplicates_overlaps_and_groups_are_named_by_id(audit: Audit) -> None:
    (overlap,) = audit.overlaps
    assert replace(overlap, a="") == OverlapIds("", "b", 50, 30, 46 * 66)
    assert audit.duplicates == (DuplicateIds("c", "d", 0), DuplicateIds("c", "e", 1))
    assert audit.label_conflicts == (DuplicateIds("c", "e", 1),)
    assert audit.groups == {overlap.a: 0, "b": 0, "c": 1, "d": 1, "e": 1}


def test_every_blank_and_every_foreign_id_is_listed(audit: Audit) -> None:
    assert audit.blanks == {"white": ["f"], "black": ["g"], "flat": ["h"]}
    assert audit.id_mismatches == list("bcdefghi")


def test_the_table_counts_what_was_found(audit: Audit) -> None:
    counts = {what: count for what, count, _ in audit.table()}
    assert counts == {
        "patches": 9,
        "labelled negative": 4,
        "labelled positive": 3,
        "without a label": 2,
        "slides": 3,
        "identical duplicates": 1,
        "rotated or flipped duplicates": 1,
        "duplicates with another label": 1,
        "overlapping patches": 2,
        "groups that share tissue": 2,
        "near-white patches": 1,
        "near-black patches": 1,
        "flat patches": 1,
        "ids that do not match the pixels' SHA-1": 8,
    }


def test_a_record_is_plain_has_no_nan_and_says_what_it_leaves_out(audit: Audit, tmp_path: Path) -> None:
    write_record(tmp_path / "audit.json", audit.record())
    kept = json.loads((tmp_path / "audit.json").read_text())
    assert kept["slides"][-1] == {
        "slide": "s3",
        "patches": 1,
        "labelled": 0,
        "positive": 0,
        "tumour_fraction": None,
    }
    assert kept["duplicates"]["pairs"][0] == {"a": "c", "b": "d", "symmetry": 0}
    again = read_record(tmp_path / "audit.json", AuditRecord)
    assert again.overlaps == audit.record().overlaps
    assert np.isnan(again.slides[-1].tumour_fraction)
    assert audit.record(max_pairs=1).duplicates == Pairs(2, (DuplicateIds("c", "d", 0),))


def test_progress_is_told_for_each_stage() -> None:
    slide = tissue(3, 150)
    pixels = np.stack([slide[:96, :96], slide[20:116, :96]])
    ticks: list[tuple[str, int, int]] = []

    def note(step: str, done: int, total: int, _note: str = "", /) -> None:
        ticks.append((step, done, total))

    audited(["a", "b"], np.zeros(2, np.int8), ["", ""], pixels, note)
    assert ticks == [("read", 2, 2), ("compare", 1, 1)]


def test_nothing_to_audit_is_an_audit_of_nothing() -> None:
    audit = audited([], np.empty(0, np.int8), [], np.empty((0, 96, 96, 3), np.uint8))
    assert all(count == 0 for _, count, _ in audit.table())
    assert audit.record().duplicates == Pairs(0, ())


def test_blanks_by_their_thresholds() -> None:
    rng = np.random.default_rng(4)
    glass = rng.normal(240, 5, (96, 96, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    pixels = np.stack([glass, plain(229), plain(230), plain(39), plain(40), tissue(5)])
    assert blank_kinds(pixels).tolist() == ["white", "flat", "white", "black", "flat", ""]


def test_a_colourful_patch_of_one_brightness_is_flat() -> None:
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[::2] = (200, 100, 0)
    stripes[1::2] = (0, 100, 200)
    assert blank_kinds(stripes[None]).tolist() == ["flat"]


def test_an_id_must_be_the_sha1_of_its_pixels() -> None:
    pixels = np.stack([tissue(6), tissue(7), tissue(8), tissue(9)])
    ids = [patch_id(pixels[0]), patch_id(pixels[0]), "slide_7_patch_2", patch_id(pixels[3]).upper()]
    labels, slides = np.zeros(4, np.int8), [""] * 4
    assert audited(ids, labels, slides, pixels).id_mismatches == ids[1:]
    assert audited([patch_id(patch) for patch in pixels], labels, slides, pixels).id_mismatches == []


def test_balance_counts_labelled_patches_only_and_keeps_the_unknown_slide() -> None:
    labels = np.array([1, 0, 0, -1, 1, -1], np.int8)
    unknown, a, b = balance_by_slide(labels, np.array(["a", "a", "a", "a", "", "b"]))
    assert unknown == SlideBalance("", 1, 1, 1, 1.0)
    assert a == SlideBalance("a", 4, 3, 1, 1 / 3)
    assert replace(b, tumour_fraction=0.0) == SlideBalance("b", 1, 0, 0, 0.0)
    assert np.isnan(b.tumour_fraction)
