"""A digital phantom: seeded synthetic sections of lymph node, written as a competition folder.

What is made here is phantom: synthetic tissue. It is for demonstrations, tests and teaching; it says
nothing about patients. `truth.csv` tells all that the painter knows: slide, place, tumour, defects.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Int, UInt8
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from sentinode.data.artefacts import write_json
from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX, Patch, encode_tiff, patch_id
from sentinode.data.tissue import BORDER_PX, SPACING_UM_PER_PX, paint_section
from sentinode.errors import DataError, SentinodeWarning, storage_errors

NOTE: Final = "phantom: synthetic tissue"
PAINTER_VERSION: Final = 1
POSITIVE_SHARE: Final = 0.40
TEST_SLIDE_SHARE: Final = 0.20
MOST_PATCHES_PER_SLIDE: Final = 400  # a slide's field is painted whole: memory grows with it

Defect = Literal["", "duplicate", "overlap", "black", "white"]
_Kind = Literal["turned", "copied", "overlap", "black", "white"]
# Share of all patches and the least number, whatever the size of the phantom.
_DEFECTS: Final[dict[_Kind, tuple[float, int]]] = {
    "turned": (0.0035, 1),  # a duplicate under one of the square's symmetries
    "copied": (0.0015, 1),  # a duplicate byte for byte, under an id that is not its SHA-1
    "overlap": (0.03, 2),
    "black": (0.001, 1),
    "white": (0.007, 1),
}
_OVERLAP_POSITIVE_SHARE: Final = 0.85  # nearly all overlaps in the real data are positive
_CHAIN_SHARE: Final = 0.3  # of overlaps that continue the one before
_LARGEST_SHIFT_PX: Final = 80
_NEST_SHARE: Final = 0.5  # of a slide's positive share: nests; small groups and rims give the rest
# Squares dropped at random jam when they fill 0.75 of each axis (Renyi 1958); some room is left over.
_AXIS_SHARE: Final = 0.70


@dataclass(frozen=True)
class PhantomSummary:
    """What a finished phantom holds; `defects` counts the planted patches by kind."""

    folder: Path
    seed: int
    slides: int
    train_patches: int
    test_patches: int
    positive_patches: int
    defects: dict[str, int]

    @property
    def patches(self) -> int:
        return self.train_patches + self.test_patches


@dataclass(frozen=True)
class TruthRow:
    """One row of `truth.csv`: `x`, `y` is the top left corner in the slide's field, in pixels.

    `tumour_fraction` is that of the centre square; `of` is the id that a duplicate or an overlap
    was made from.
    """

    id: str
    part: Literal["train", "test"]
    slide: str
    x: int
    y: int
    label: int
    tumour_fraction: float
    defect: Defect
    of: str


@dataclass(frozen=True)
class _SlidePlan:
    """All that a worker needs to make one slide, whichever process it runs in."""

    name: str
    part: Literal["train", "test"]
    seed: np.random.SeedSequence
    patches: int
    positive_share: float
    defects: Counter[_Kind]


def write_phantom(
    dest: Path,
    *,
    patches: int = 4000,
    slides: int = 24,
    seed: int = 25,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PhantomSummary:
    """Paint `slides` sections and write `patches` of them, in two disjoint parts, as a competition folder.

    The same arguments give the same bytes, however many `workers` (default: one a CPU, fewer for small
    phantoms). The folder is complete or absent; a finished phantom of the same arguments is kept and
    summarised. `on_progress(done, total)` counts patches, in the calling process.
    Raises DataError for impossible numbers or a folder that holds something else, StorageError where
    the disk refuses.
    """
    _check(patches, slides, seed, workers)
    dest = Path(dest)
    finished = _finished(dest, patches, slides, seed)
    if finished is not None:
        return finished
    plans = _plan(patches, slides, seed)
    staging = dest.absolute().with_name(f".{dest.name}.{os.getpid()}.partial")
    try:
        with storage_errors(dest):
            for part in ("train", "test"):
                (staging / part).mkdir(parents=True)
            rows: list[TruthRow] = []
            # Closing waits for the workers: none may write any more when the folder is renamed or removed.
            with closing(_make_slides(plans, staging, _worker_count(workers, patches, slides))) as made:
                for of_slide in made:
                    rows += of_slide
                    if on_progress is not None:
                        on_progress(len(rows), patches)
            rows.sort(key=lambda row: row.id)
            summary = _summarise(dest, seed, slides, rows)
            _write_tables(staging, rows)
            _write_manifest(staging / "phantom.json", summary)
            if dest.exists():
                dest.rmdir()  # empty, as checked: not every system renames onto a folder
            staging.rename(dest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return summary


# --- before: arguments and plan ---------------------------------------------------------------------


def _check(patches: int, slides: int, seed: int, workers: int | None) -> None:
    def refuse(what: str, remedy: str) -> None:
        raise DataError(what, where="phantom", remedy=remedy)

    if slides < 3:
        refuse(f"{slides} slides cannot be split by slide", "Ask for 3 slides or more.")
    fewest, most = max(60, 10 * slides), MOST_PATCHES_PER_SLIDE * slides
    if not fewest <= patches <= most:
        refuse(
            f"{patches} patches do not fit {slides} slides",
            f"Ask for {fewest} to {most} patches, or for another number of slides.",
        )
    if seed < 0:
        refuse(f"the seed {seed} is negative", "Give a seed of 0 or more.")
    if workers is not None and workers < 1:
        refuse(f"{workers} workers cannot paint", "Give 1 worker or more, or leave the number out.")


def _finished(dest: Path, patches: int, slides: int, seed: int) -> PhantomSummary | None:
    """The summary of a finished phantom of these arguments at `dest`, None where the way is free."""
    remedy = "Choose another folder, or remove this one."
    if not dest.exists():
        return None
    if not dest.is_dir():
        raise DataError("is a file, not a folder", where=dest, remedy=remedy)
    if not any(dest.iterdir()):
        return None
    try:
        manifest = json.loads((dest / "phantom.json").read_text(encoding="utf-8"))
        asked = {"painter_version": PAINTER_VERSION, "patches": patches, "slides": slides, "seed": seed}
        differing = [f"{key} {manifest[key]}" for key, value in asked.items() if manifest[key] != value]
        if not differing:
            kept = ("seed", "slides", "train_patches", "test_patches", "positive_patches", "defects")
            return PhantomSummary(folder=dest, **{key: manifest[key] for key in kept})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("is not empty and is no finished phantom", where=dest, remedy=remedy) from error
    raise DataError(f"holds another phantom ({', '.join(differing)})", where=dest, remedy=remedy)


def _plan(patches: int, slides: int, seed: int) -> list[_SlidePlan]:
    """Share out parts, patches, positives and defects among the slides."""
    root = np.random.SeedSequence(seed)
    seeds = root.spawn(slides)
    rng = np.random.default_rng(root.spawn(1)[0])
    test_slides = max(1, round(TEST_SLIDE_SHARE * slides))
    is_test = rng.permutation(np.arange(slides) < test_slides)
    share = np.empty(slides)
    for part in (is_test, ~is_test):
        # Slides differ in how much of them is tumour, but both parts have the same mean.
        spread = np.linspace(-0.2, 0.2, part.sum()) if part.sum() > 1 else np.zeros(1)
        share[part] = POSITIVE_SHARE + rng.permutation(spread)
    counts = [patches // slides + (index < patches % slides) for index in range(slides)]
    defects: list[Counter[_Kind]] = [Counter() for _ in range(slides)]
    for kind, (of_all, fewest) in _DEFECTS.items():
        total = max(fewest, round(of_all * patches))
        for index in np.resize(rng.permutation(slides), total):
            defects[index][kind] += 1
    return [
        _SlidePlan(
            name=f"slide-{index + 1:03d}",
            part="test" if is_test[index] else "train",
            seed=seeds[index],
            patches=counts[index],
            positive_share=float(share[index]),
            defects=defects[index],
        )
        for index in range(slides)
    ]


def _worker_count(workers: int | None, patches: int, slides: int) -> int:
    if workers is None:
        # A new process costs about as much as 500 patches.
        workers = min(os.cpu_count() or 1, math.ceil(patches / 500))
    return min(workers, slides)


# --- one slide --------------------------------------------------------------------------------------


def _make_slides(
    plans: list[_SlidePlan], folder: Path, workers: int
) -> Generator[list[TruthRow], None, None]:
    """Make all slides and yield the rows of each as it is finished, in any order."""
    waiting = {plan.name: plan for plan in plans}
    if workers > 1:
        # Fresh processes: a fork of a process that runs PyTorch's threads can hang.
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        try:
            futures = {pool.submit(_make_slide, plan, folder): plan.name for plan in plans}
            for future in as_completed(futures):
                rows = future.result()
                del waiting[futures[future]]
                yield rows
        except BrokenProcessPool:
            # So it ends in a script without `if __name__ == "__main__"`, or without memory for more.
            warnings.warn(
                "phantom: worker processes could not run; painting goes on in one process.",
                SentinodeWarning,
                stacklevel=3,
            )
        finally:
            pool.shutdown(cancel_futures=True)
    for plan in waiting.values():
        yield _make_slide(plan, folder)


def _make_slide(plan: _SlidePlan, folder: Path) -> list[TruthRow]:
    """Paint one section, cut its patches, plant its defects and write the files."""
    rng = np.random.default_rng(plan.seed)
    side_px = math.ceil(PATCH_SIZE_PX * (math.sqrt(plan.patches) + 1) / _AXIS_SHARE) + 2 * BORDER_PX
    with threadpool_limits(1):  # the slides are the parallel part; threads within one only get in the way
        section = paint_section(rng, side_px=side_px, tumour_share=_NEST_SHARE * plan.positive_share)
    cutter = _Cutter(plan, rng, section.rgb, section.tumour)
    for row, patch in cutter.cut_all():
        (folder / plan.part / f"{row.id}.tif").write_bytes(encode_tiff(patch))
    return cutter.rows


class _Cutter:
    """Cuts one section: which places are free, what their label is, what was cut so far."""

    def __init__(
        self,
        plan: _SlidePlan,
        rng: np.random.Generator,
        rgb: UInt8[np.ndarray, "side side 3"],
        tumour: Bool[np.ndarray, "side side"],
    ) -> None:
        self.plan, self.rng, self.rgb = plan, rng, rgb
        self.last_corner = len(rgb) - BORDER_PX - PATCH_SIZE_PX
        # Sums over all pixels above and to the left: any rectangle's sum is then four look-ups.
        self.sums = np.pad(np.cumsum(np.cumsum(tumour, axis=0, dtype=np.int32), axis=1), ((1, 0), (1, 0)))
        self.rows: list[TruthRow] = []

    def cut_all(self) -> Iterator[tuple[TruthRow, Patch]]:
        """All patches of the slide, defects included; `rows` grows with them."""
        defects = self.plan.defects
        copies = defects["turned"] + defects["copied"] + defects["overlap"]
        positives = round(
            self.plan.positive_share * self.plan.patches - _OVERLAP_POSITIVE_SHARE * defects["overlap"]
        )
        corners = self._free_corners({1: positives, 0: self.plan.patches - copies - positives})
        labels = self._centre_pixels(corners) > 0
        blanks = iter(["black"] * defects["black"] + ["white"] * defects["white"])
        clean: list[tuple[TruthRow, Patch]] = []
        for (y, x), positive in zip(corners.tolist(), labels, strict=True):
            blank = None if positive else next(blanks, None)
            patch = self._pixels(y, x) if blank is None else self._blank(blank)
            made = self._record(patch, y, x, blank or "")
            if blank is None:
                clean.append(made)
            yield made
        for kind in ("turned", "copied"):
            for _ in range(defects[kind]):
                yield self._duplicate(*clean[self.rng.integers(len(clean))], turned=kind == "turned")
        yield from self._overlaps([row for row, _ in clean], defects["overlap"])

    def _free_corners(self, wanted: dict[int, int]) -> Int[np.ndarray, "n 2"]:
        """Draw places that do not touch: `wanted` of each label where there is room, else the other."""
        corners = self.rng.integers(BORDER_PX, self.last_corner, (30_000, 2), endpoint=True)
        labels = (self._centre_pixels(corners) > 0).astype(int).tolist()
        blocked = np.zeros(self.rgb.shape[:2], bool)
        chosen: list[tuple[int, int]] = []
        total, left = sum(wanted.values()), dict(wanted)
        for strict in (True, False):
            for (y, x), label in zip(corners.tolist(), labels, strict=True):
                if len(chosen) == total:
                    break
                if blocked[y, x] or (strict and left[label] == 0):
                    continue
                left[label] -= 1
                chosen.append((y, x))
                blocked[
                    max(0, y - PATCH_SIZE_PX + 1) : y + PATCH_SIZE_PX,
                    max(0, x - PATCH_SIZE_PX + 1) : x + PATCH_SIZE_PX,
                ] = True
        assert len(chosen) == total, "the field is large enough for its patches"
        return np.array(chosen)

    def _overlaps(self, originals: list[TruthRow], count: int) -> Iterator[tuple[TruthRow, Patch]]:
        """Shifted cuts of cuts, mostly of positive ones; some continue the one before as a chain."""
        chain: list[TruthRow] = []
        while count:
            if not chain or self.rng.random() > _CHAIN_SHARE:
                label = int(self.rng.random() < _OVERLAP_POSITIVE_SHARE)
                of_label = [row for row in originals if row.label == label] or originals
                chain = [of_label[self.rng.integers(len(of_label))]]
            of = chain[-1]
            dy, dx = self.rng.integers(-_LARGEST_SHIFT_PX, _LARGEST_SHIFT_PX, 2, endpoint=True).tolist()
            y, x = of.y + dy, of.x + dx
            family = {row.id for row in chain}
            if max(abs(dy), abs(dx)) < 4 or not self._is_free(y, x, besides=family):
                chain = []
                continue
            made = self._record(self._pixels(y, x), y, x, "overlap", of=of.id)
            originals = [row for row in originals if row.id not in family]
            chain.append(made[0])
            count -= 1
            yield made

    def _is_free(self, y: int, x: int, *, besides: set[str]) -> bool:
        if min(y, x) < BORDER_PX or max(y, x) > self.last_corner:
            return False
        return not any(
            abs(row.y - y) < PATCH_SIZE_PX and abs(row.x - x) < PATCH_SIZE_PX
            for row in self.rows
            if row.id not in besides and row.of not in besides
        )

    def _duplicate(self, original: TruthRow, patch: Patch, *, turned: bool) -> tuple[TruthRow, Patch]:
        if turned:
            symmetry = int(self.rng.integers(1, 8))  # 0 would change nothing
            copy = np.rot90(patch[:, ::-1] if symmetry >= 4 else patch, symmetry % 4)
            return self._record(copy, original.y, original.x, "duplicate", of=original.id)
        name = self.rng.bytes(20).hex()
        return self._record(patch, original.y, original.x, "duplicate", of=original.id, name=name)

    def _blank(self, kind: str) -> Patch:
        """A failed scan: almost black or almost white, with a little noise of the sensor."""
        noise = np.abs(self.rng.normal(0, 1.2, (PATCH_SIZE_PX, PATCH_SIZE_PX, 3))).astype(np.uint8)
        return noise if kind == "black" else np.uint8(255) - noise

    def _pixels(self, y: int, x: int) -> Patch:
        return self.rgb[y : y + PATCH_SIZE_PX, x : x + PATCH_SIZE_PX]

    def _centre_pixels(self, corners: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
        """How many pixels of tumour the centre square of each cut holds."""
        top, left = (corners + (PATCH_SIZE_PX - CENTRE_SIZE_PX) // 2).T
        bottom, right, sums = top + CENTRE_SIZE_PX, left + CENTRE_SIZE_PX, self.sums
        pixels: Int[np.ndarray, "n"] = (
            sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        )
        return pixels

    def _record(
        self, patch: Patch, y: int, x: int, defect: str, *, of: str = "", name: str | None = None
    ) -> tuple[TruthRow, Patch]:
        pixels = int(self._centre_pixels(np.array([[y, x]]))[0])
        row = TruthRow(
            id=name or patch_id(patch),
            part=self.plan.part,
            slide=self.plan.name,
            x=x,
            y=y,
            label=int(pixels > 0),
            tumour_fraction=pixels / CENTRE_SIZE_PX**2,
            defect=defect,  # type: ignore[arg-type]
            of=of,
        )
        self.rows.append(row)
        return row, patch


# --- after: tables and manifest ---------------------------------------------------------------------


def _summarise(dest: Path, seed: int, slides: int, rows: list[TruthRow]) -> PhantomSummary:
    assert len({row.id for row in rows}) == len(rows), "ids are unique"
    parts = Counter(row.part for row in rows)
    defects = Counter(row.defect for row in rows if row.defect)
    return PhantomSummary(
        folder=dest,
        seed=seed,
        slides=slides,
        train_patches=parts["train"],
        test_patches=parts["test"],
        positive_patches=sum(row.label for row in rows),
        defects=dict(sorted(defects.items())),
    )


def _write_tables(folder: Path, rows: list[TruthRow]) -> None:
    def write(name: str, header: list[str], lines: Iterable[tuple[Any, ...]]) -> None:
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(lines)

    write("train_labels.csv", ["id", "label"], ((row.id, row.label) for row in rows if row.part == "train"))
    write("sample_submission.csv", ["id", "label"], ((row.id, 0) for row in rows if row.part == "test"))
    write("slides.csv", ["id", "slide"], ((row.id, row.slide) for row in rows))
    truth = [asdict(row) | {"tumour_fraction": f"{row.tumour_fraction:.6f}"} for row in rows]
    write("truth.csv", list(truth[0]), (tuple(row.values()) for row in truth))


def _write_manifest(path: Path, summary: PhantomSummary) -> None:
    """Write the parameters and counts, last of all and down to the disk."""
    content = asdict(summary) | {
        "note": NOTE,
        "painter_version": PAINTER_VERSION,
        "patches": summary.patches,
        "spacing_um_per_px": SPACING_UM_PER_PX,
    }
    del content["folder"]  # the same phantom is the same bytes wherever it lies
    write_json(path, dict(sorted(content.items())))
