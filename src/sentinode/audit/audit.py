"""The audit of a data set's pixels and labels: arrays in, one `Audit` out, nothing changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int, Int8, Shaped, UInt64

from sentinode.audit.appearance import brightness_and_contrast
from sentinode.audit.duplicates import Duplicate, hash_pixels, match_sums, sum_pixels
from sentinode.audit.overlaps import find_anchors, match_anchors, overlap_groups
from sentinode.data.chunks import Pixels, in_blocks, map_chunks
from sentinode.data.patches import PatchSet
from sentinode.progress import of_step
from sentinode.records import Number
from sentinode.session import Session

# Grey levels. On 10,959 real patches these mark 1.5 %, nearly all of them without tumour.
WHITE_BRIGHTNESS: Final = 230.0
WHITE_CONTRAST: Final = 15.0
BLACK_BRIGHTNESS: Final = 40.0
FLAT_CONTRAST: Final = 10.0


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


_Pair = TypeVar("_Pair", DuplicateIds, OverlapIds)


@dataclass(frozen=True)
class Pairs(Generic[_Pair]):
    """The first pairs, and how many were found."""

    found: int
    pairs: tuple[_Pair, ...]


@dataclass(frozen=True)
class AuditRecord:
    """What of an `Audit` is kept."""

    labels: dict[str, int]
    slides: tuple[SlideBalance, ...]
    duplicates: Pairs[DuplicateIds]
    label_conflicts: Pairs[DuplicateIds]
    overlaps: Pairs[OverlapIds]
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
    slides: tuple[SlideBalance, ...]
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
        slides = [balance for balance in self.slides if balance.slide]
        without_slide = self.patches - sum(balance.patches for balance in slides)
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
            ("ids that do not match the pixels' SHA-1", len(self.id_mismatches), "other sources use other names"),
        ]

    def record(self, *, max_pairs: int = 10_000) -> AuditRecord:
        """Everything found; of each kind of pair the first `max_pairs`, for a full data set has a million overlaps."""
        return AuditRecord(
            self.labels,
            self.slides,
            Pairs(len(self.duplicates), self.duplicates[:max_pairs]),
            Pairs(len(self.label_conflicts), self.label_conflicts[:max_pairs]),
            Pairs(len(self.overlaps), self.overlaps[:max_pairs]),
            self.groups,
            self.blanks,
            tuple(self.id_mismatches),
        )


def audit_patches(patches: PatchSet, session: Session) -> Audit:
    """Audit patches with labels 0, 1 or -1 (none) and slides, "" where unknown; reads the map once.

    Only pairs to be compared are read again. Progress counts patches in the step "read", proposed pairs in the step
    "compare".
    """
    names, labels, pixels = [str(name) for name in patches.ids], patches.labels, patches.pixels
    count = len(names)

    def read(first_row: int, chunk: Pixels) -> _Chunk:
        hashes = hash_pixels(chunk)
        digests = _digests(chunk)
        wrong = [first_row + k for k, digest in enumerate(digests.tolist()) if names[first_row + k] != digest.hex()]
        return _Chunk(
            find_anchors(chunk, hashes, first_row, count),
            sum_pixels(hashes),
            blank_kinds(chunk),
            wrong,
            digests,
        )

    anchors, sums, kinds, wrong_rows = [], [np.empty(0, np.uint64)], [np.empty(0, "<U5")], []
    digests = [np.empty(0, "V20")]
    tell, workers = session.progress, session.workers
    chunks = map_chunks(read, pixels, workers=workers, on_progress=of_step(tell, "read"))
    for block in in_blocks(chunks):
        anchors.append(np.concatenate([chunk.anchors for chunk in block]))
        sums += [chunk.sums for chunk in block]
        kinds += [chunk.kinds for chunk in block]
        wrong_rows += [row for chunk in block for row in chunk.wrong_rows]
        digests += [chunk.digests for chunk in block]

    duplicates = match_sums(pixels, np.concatenate(sums))
    overlaps = match_anchors(pixels, anchors, workers=workers, on_progress=of_step(tell, "compare"))
    groups = overlap_groups(count, [*overlaps, *duplicates])
    first_copies = np.arange(count)
    for pair in duplicates:
        first_copies[pair.b] = pair.a
    kind = np.concatenate(kinds)
    tally = Counter(labels.tolist())
    return Audit(
        patches=count,
        labels={"negative": tally[0], "positive": tally[1], "unlabelled": tally[-1]},
        slides=balance_by_slide(labels, patches.slides),
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


def blank_kinds(pixels: Pixels) -> Shaped[np.ndarray, " n"]:
    """Name each patch "black", "white" or "flat", the first that fits, or "".

    Brightness is the mean of a patch's colours, contrast the standard deviation of its pixels' brightness, both in grey
    levels. Black is dark; white is bright and has little contrast; flat has hardly any.
    """
    brightness, contrast = brightness_and_contrast(pixels)
    black = brightness < BLACK_BRIGHTNESS
    white = (brightness >= WHITE_BRIGHTNESS) & (contrast < WHITE_CONTRAST)
    return np.select([black, white, contrast < FLAT_CONTRAST], ["black", "white", "flat"], default="")


def pixel_digests(pixels: Pixels) -> Shaped[np.ndarray, " n"]:
    """The SHA-1 of each patch's raw RGB bytes, (N,) of 20 bytes."""
    digests = map_chunks(lambda _, chunk: _digests(chunk), pixels, workers=2)
    return np.concatenate([np.empty(0, "V20"), *digests])


def balance_by_slide(labels: Int8[np.ndarray, " n"], slides: Shaped[np.ndarray, " n"]) -> tuple[SlideBalance, ...]:
    """Counts by slide, sorted by name."""
    names, of = np.unique(slides, return_inverse=True)
    patches, labelled, positive = (
        np.bincount(of[rows], minlength=len(names)).tolist() for rows in (slice(None), labels >= 0, labels == 1)
    )
    return tuple(
        SlideBalance(str(name), all_, known, tumour, tumour / known if known else float("nan"))
        for name, all_, known, tumour in zip(names, patches, labelled, positive, strict=True)
    )


class _Chunk(NamedTuple):
    anchors: UInt64[np.ndarray, " k"]
    sums: UInt64[np.ndarray, " n"]
    kinds: Shaped[np.ndarray, " n"]
    wrong_rows: list[int]
    digests: Shaped[np.ndarray, " n"]


def _digests(chunk: Pixels) -> Shaped[np.ndarray, " n"]:
    return np.array([hashlib.sha1(patch, usedforsecurity=False).digest() for patch in chunk], dtype="V20")


def _named_duplicates(names: list[str], duplicates: Iterable[Duplicate]) -> tuple[DuplicateIds, ...]:
    return tuple(DuplicateIds(names[pair.a], names[pair.b], pair.symmetry) for pair in duplicates)
