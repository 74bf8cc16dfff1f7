"""The audit of a data set's pixels and labels: arrays in, one `Audit` out, nothing changed."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Int8, Shaped, UInt64

from sentinode.audit.appearance import PerPatch, brightness_and_contrast
from sentinode.audit.duplicates import Duplicate, hash_pixels, match_sums, sum_pixels
from sentinode.audit.overlaps import find_anchors, match_anchors, overlap_groups
from sentinode.data.chunks import Pixels, Progress, in_blocks, map_chunks
from sentinode.records import Number

# Grey levels. On 10,959 real patches these mark 1.5 %, nearly all of them without tumour.
WHITE_BRIGHTNESS: Final = 230.0
WHITE_CONTRAST: Final = 15.0
BLACK_BRIGHTNESS: Final = 40.0
FLAT_CONTRAST: Final = 10.0

Blank = Literal["white", "black", "flat", ""]


@dataclass(frozen=True, slots=True)
class DuplicateIds:
    """A `Duplicate`, by id."""

    a: str
    b: str
    symmetry: int


@dataclass(frozen=True, slots=True)
class OverlapIds:
    """An `Overlap`, by id."""

    a: str
    b: str
    dx_px: int
    dy_px: int
    shared_area_px: int


@dataclass(frozen=True, eq=False)
class AuditedRows:
    """What an audit found of each patch, in the order of the patches."""

    pixel_digests: Shaped[np.ndarray, " n"]
    """The SHA-1 of its raw RGB bytes."""
    groups: Int[np.ndarray, " n"]
    """The number of the group that it shares tissue with, -1 for none."""
    first_copies: Int[np.ndarray, " n"]
    """The row of the first patch that equals it, as it is, rotated or flipped: its own where none does."""
    blank: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class SlideBalance:
    """The patches of one slide, "" for those whose slide is unknown; the fraction is NaN where none has a label."""

    slide: str
    patches: int
    labelled: int
    positive: int
    tumour_fraction: Number


@dataclass(frozen=True)
class Duplicates:
    """The first pairs, and how many were found."""

    found: int
    pairs: tuple[DuplicateIds, ...]


@dataclass(frozen=True)
class Overlaps:
    """The first pairs, and how many were found."""

    found: int
    pairs: tuple[OverlapIds, ...]


@dataclass(frozen=True)
class AuditRecord:
    """What of an `Audit` is kept."""

    labels: dict[str, int]
    slides: tuple[SlideBalance, ...]
    duplicates: Duplicates
    label_conflicts: Duplicates
    overlaps: Overlaps
    groups: dict[str, int]
    blanks: dict[str, list[str]]
    id_mismatches: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """What an audit found, in ids; `record` is what is kept, `table` what is shown.

    `duplicates` includes those up to symmetry (`symmetry` 1 to 7), `overlaps` the true shifts only;
    `groups` joins both: every id that shares tissue with another, and its group's number.
    `label_conflicts` are the duplicates whose two labels differ. One id may be of a patch in training and of another in
    the test part: `rows` tells these apart.
    """

    patches: int
    labels: dict[str, int]
    slides: pd.DataFrame
    duplicates: tuple[DuplicateIds, ...]
    label_conflicts: tuple[DuplicateIds, ...]
    overlaps: tuple[OverlapIds, ...]
    groups: dict[str, int]
    blanks: dict[str, list[str]]
    id_mismatches: list[str]
    rows: AuditedRows

    def table(self) -> list[tuple[str, int, str]]:
        """What was counted, how often, and what it means."""
        identical = sum(duplicate.symmetry == 0 for duplicate in self.duplicates)
        in_overlaps = len({id_ for overlap in self.overlaps for id_ in (overlap.a, overlap.b)})
        labelled = self.labels["negative"] + self.labels["positive"]
        share = f"{self.labels['positive'] / labelled:.1%} of the labelled" if labelled else ""
        slides = self.slides[self.slides["slide"] != ""]
        without_slide = self.patches - int(slides["patches"].sum())
        return [
            ("patches", self.patches, ""),
            ("labelled negative", self.labels["negative"], ""),
            ("labelled positive", self.labels["positive"], share),
            ("without a label", self.labels["unlabelled"], ""),
            ("slides", len(slides), f"{without_slide} patches name none" if without_slide else ""),
            ("identical duplicates", identical, "equal an earlier patch, pixel for pixel"),
            ("rotated or flipped duplicates", len(self.duplicates) - identical, "equal after a rotation or flip"),
            ("duplicates with another label", len(self.label_conflicts), "one of the two labels is wrong"),
            ("overlapping patches", in_overlaps, f"{len(self.overlaps)} pairs, confirmed by equal pixels"),
            ("groups that share tissue", len(set(self.groups.values())), "keep each in one set of a split"),
            ("near-white patches", len(self.blanks["white"]), "empty glass"),
            ("near-black patches", len(self.blanks["black"]), "outside the scan"),
            ("flat patches", len(self.blanks["flat"]), "hardly any contrast"),
            (
                "ids that do not match the pixels' SHA-1",
                len(self.id_mismatches),
                "other sources use other names",
            ),
        ]

    def record(self, *, max_pairs: int = 10_000) -> AuditRecord:
        """Everything found; of each kind of pair the first `max_pairs`, for a full data set has a million overlaps."""
        balances = [
            SlideBalance(
                str(row["slide"]),
                int(row["patches"]),
                int(row["labelled"]),
                int(row["positive"]),
                float(row["tumour_fraction"]),
            )
            for row in self.slides.to_dict("records")
        ]
        return AuditRecord(
            self.labels,
            tuple(balances),
            Duplicates(len(self.duplicates), self.duplicates[:max_pairs]),
            Duplicates(len(self.label_conflicts), self.label_conflicts[:max_pairs]),
            Overlaps(len(self.overlaps), self.overlaps[:max_pairs]),
            self.groups,
            self.blanks,
            tuple(self.id_mismatches),
        )


def audit_patches(
    ids: Sequence[str] | np.ndarray,
    labels: Int8[np.ndarray, " n"],
    slides: Sequence[str] | np.ndarray,
    pixels: Pixels,
    *,
    workers: int = 2,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Audit:
    """Audit patches with labels 0, 1 or -1 (none) and slides, "" where unknown; reads the map once.

    Only pairs to be compared are read again. `on_progress(stage, done, total)` counts patches in
    the stage "read", proposed pairs in the stage "compare".
    """
    names = [str(name) for name in ids]
    count = len(names)
    if not count == len(labels) == len(slides) == len(pixels):
        raise ValueError("ids, labels, slides and pixels must be equally many")

    def read(first_row: int, chunk: Pixels) -> _Chunk:
        hashes = hash_pixels(chunk)
        digests = _digests(chunk)
        wrong = [first_row + k for k, digest in enumerate(digests.tolist()) if names[first_row + k] != digest.hex()]
        return _Chunk(
            find_anchors(chunk, hashes, first_row, count),
            sum_pixels(hashes),
            _kinds(*brightness_and_contrast(chunk)),
            wrong,
            digests,
        )

    anchors, sums, kinds, wrong_rows = [], [np.empty(0, np.uint64)], [np.empty(0, "<U5")], []
    digests = [np.empty(0, "V20")]
    chunks = map_chunks(read, pixels, workers=workers, on_progress=_stage("read", on_progress))
    for block in in_blocks(chunks):
        anchors.append(np.concatenate([chunk.anchors for chunk in block]))
        sums += [chunk.sums for chunk in block]
        kinds += [chunk.kinds for chunk in block]
        wrong_rows += [row for chunk in block for row in chunk.wrong_rows]
        digests += [chunk.digests for chunk in block]

    duplicates = match_sums(pixels, np.concatenate(sums))
    overlaps = match_anchors(pixels, anchors, workers=workers, on_progress=_stage("compare", on_progress))
    groups = overlap_groups(count, [*overlaps, *duplicates])
    first_copies = np.arange(count)
    for pair in duplicates:
        first_copies[pair.b] = pair.a
    kind = np.concatenate(kinds)
    tally = Counter(np.asarray(labels).tolist())
    return Audit(
        patches=count,
        labels={"negative": tally[0], "positive": tally[1], "unlabelled": tally[-1]},
        slides=balance_by_slide(labels, slides),
        duplicates=_named_duplicates(names, duplicates),
        label_conflicts=_named_duplicates(
            names, [pair for pair in duplicates if {labels[pair.a], labels[pair.b]} == {0, 1}]
        ),
        overlaps=tuple(
            OverlapIds(names[pair.a], names[pair.b], pair.dx_px, pair.dy_px, pair.shared_area_px)
            for pair in overlaps
            if (pair.dx_px, pair.dy_px) != (0, 0)
        ),
        groups={names[row]: int(groups[row]) for row in np.flatnonzero(groups >= 0)},
        blanks={name: [names[row] for row in np.flatnonzero(kind == name)] for name in ("white", "black", "flat")},
        id_mismatches=[names[row] for row in wrong_rows],
        rows=AuditedRows(np.concatenate(digests), groups, first_copies, kind != ""),
    )


def find_blanks(
    pixels: Pixels,
    *,
    white_brightness: float = WHITE_BRIGHTNESS,
    white_contrast: float = WHITE_CONTRAST,
    black_brightness: float = BLACK_BRIGHTNESS,
    flat_contrast: float = FLAT_CONTRAST,
    workers: int = 2,
    on_progress: Progress | None = None,
) -> Shaped[np.ndarray, " n"]:
    """Name each patch "black", "white" or "flat", the first that fits, or "".

    Brightness is the mean of a patch's colours, contrast the standard deviation of its pixels'
    brightness, both in grey levels. Black is darker than `black_brightness`; white is as bright as
    `white_brightness` with less than `white_contrast`; flat has less than `flat_contrast`.
    """

    def kinds_of(_: int, chunk: Pixels) -> Shaped[np.ndarray, " k"]:
        return _kinds(
            *brightness_and_contrast(chunk),
            white_brightness=white_brightness,
            white_contrast=white_contrast,
            black_brightness=black_brightness,
            flat_contrast=flat_contrast,
        )

    kinds = map_chunks(kinds_of, pixels, workers=workers, on_progress=on_progress)
    return np.concatenate([np.empty(0, "<U5"), *kinds])


def id_mismatches(
    ids: Sequence[str] | np.ndarray,
    pixels: Pixels,
    *,
    workers: int = 2,
    on_progress: Progress | None = None,
) -> list[int]:
    """The rows whose id is not the SHA-1 of their raw RGB bytes, in lower-case hexadecimal."""
    digests = pixel_digests(pixels, workers=workers, on_progress=on_progress)
    return [row for row, digest in enumerate(digests.tolist()) if digest.hex() != str(ids[row])]


def pixel_digests(pixels: Pixels, *, workers: int = 2, on_progress: Progress | None = None) -> Shaped[np.ndarray, " n"]:
    """The SHA-1 of each patch's raw RGB bytes, (N,) of 20 bytes."""
    digests = map_chunks(lambda _, chunk: _digests(chunk), pixels, workers=workers, on_progress=on_progress)
    return np.concatenate([np.empty(0, "V20"), *digests])


def balance_by_slide(labels: Int8[np.ndarray, " n"], slides: Sequence[str] | np.ndarray) -> pd.DataFrame:
    """Count per slide, sorted by name: `slide, patches, labelled, positive, tumour_fraction`.

    The fraction is of the labelled patches, NaN where there are none; the slide "" holds the
    patches whose slide is unknown.
    """
    table = pd.DataFrame({"slide": np.asarray(slides, dtype=object), "label": np.asarray(labels)})
    table["labelled"] = table["label"] >= 0
    table["positive"] = table["label"] == 1
    by_slide = table.groupby("slide", as_index=False).agg(
        patches=("label", "size"), labelled=("labelled", "sum"), positive=("positive", "sum")
    )
    by_slide["tumour_fraction"] = by_slide["positive"] / by_slide["labelled"].where(by_slide["labelled"] > 0)
    return by_slide


class _Chunk(NamedTuple):
    anchors: UInt64[np.ndarray, " k"]
    sums: UInt64[np.ndarray, " n"]
    kinds: Shaped[np.ndarray, " n"]
    wrong_rows: list[int]
    digests: Shaped[np.ndarray, " n"]


def _kinds(
    brightness: PerPatch,
    contrast: PerPatch,
    *,
    white_brightness: float = WHITE_BRIGHTNESS,
    white_contrast: float = WHITE_CONTRAST,
    black_brightness: float = BLACK_BRIGHTNESS,
    flat_contrast: float = FLAT_CONTRAST,
) -> Shaped[np.ndarray, " n"]:
    black = brightness < black_brightness
    white = (brightness >= white_brightness) & (contrast < white_contrast)
    return np.select([black, white, contrast < flat_contrast], ["black", "white", "flat"], default="")


def _digests(chunk: Pixels) -> Shaped[np.ndarray, " n"]:
    return np.array([hashlib.sha1(patch, usedforsecurity=False).digest() for patch in chunk], dtype="V20")


def _named_duplicates(names: list[str], duplicates: Iterable[Duplicate]) -> tuple[DuplicateIds, ...]:
    return tuple(DuplicateIds(names[pair.a], names[pair.b], pair.symmetry) for pair in duplicates)


def _stage(stage: str, on_progress: Callable[[str, int, int], None] | None) -> Progress | None:
    return None if on_progress is None else functools.partial(on_progress, stage)
