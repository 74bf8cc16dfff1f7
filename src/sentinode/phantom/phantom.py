"""A digital phantom: seeded synthetic sections of lymph node, written as a competition folder.

What is made here is phantom: synthetic tissue. It is for demonstrations, tests and teaching; it says
nothing about patients. `truth.csv` tells all that the painter knows: slide, place, tumour, defects.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from sentinode.artefacts import claim_file
from sentinode.data.images import SPACING_UM_PER_PX, encode_tiff
from sentinode.data.listing import PHANTOM_NOTE
from sentinode.errors import DataError, RunError, SentinodeWarning, storage_errors
from sentinode.phantom.cutting import Cutter, DefectKind, SlidePlan, TruthRow, field_side_px
from sentinode.phantom.tissue import paint_section
from sentinode.progress import StepProgress
from sentinode.records import read_record, write_record

PAINTER_VERSION: Final = 2
POSITIVE_SHARE: Final = 0.40
TEST_SLIDE_SHARE: Final = 0.20
MOST_PATCHES_PER_SLIDE: Final = 400  # a slide's field is painted whole: memory grows with it

# Share of all patches and the least number, whatever the size of the phantom.
_DEFECTS: Final[dict[DefectKind, tuple[float, int]]] = {
    "rotated": (0.0035, 1),  # a duplicate, rotated or flipped
    "copied": (0.0015, 1),  # a duplicate byte for byte, under an id that is not its SHA-1
    "overlap": (0.03, 2),
    "black": (0.001, 1),
    "white": (0.007, 1),
}
_NEST_SHARE: Final = 0.5  # of a slide's positive share: nests; small groups and rims give the rest


@dataclass(frozen=True)
class PhantomSummary:
    """phantom.json: what was asked for and what came of it; `defects` counts the planted patches by kind."""

    seed: int
    slides: int
    patches: int
    train_patches: int
    test_patches: int
    positive_patches: int
    defects: dict[str, int]
    note: str = PHANTOM_NOTE
    painter_version: int = PAINTER_VERSION
    spacing_um_per_px: float = SPACING_UM_PER_PX


def write_phantom(
    dest: Path,
    *,
    patches: int = 4000,
    slides: int = 24,
    seed: int = 25,
    workers: int | None = None,
    on_progress: StepProgress | None = None,
) -> PhantomSummary:
    """Paint `slides` sections and write `patches` of them, in two disjoint parts, as a competition folder.

    The same arguments give the same bytes, with any number of `workers` (default: one per CPU, fewer for small
    phantoms). The folder is complete or absent; a finished phantom with the same arguments is kept and
    summarised. `on_progress(done, total)` counts patches, in the calling process.
    Raises DataError for impossible numbers or a folder with other contents, StorageError if the disk is full.
    """
    _check(patches, slides, seed, workers)
    dest = Path(dest)
    finished = _finished(dest, patches, slides, seed)
    if finished is not None:
        return finished
    with claim_file(dest):
        finished = _finished(dest, patches, slides, seed)  # by whoever held it until now
        if finished is not None:
            return finished
        plans = _plan(patches, slides, seed)
        staging = dest.absolute().with_name(f".{dest.name}.{os.getpid()}.part")
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
                summary = _summarise(seed, slides, rows)
                _write_tables(staging, rows)
                write_record(staging / "phantom.json", summary)  # last of all, and down to the disk
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
        raise DataError("is a file, not a directory", where=dest, remedy=remedy)
    if not any(dest.iterdir()):
        return None
    try:
        painted = read_record(dest / "phantom.json", PhantomSummary)
    except RunError as error:
        raise DataError("is not empty and is not a finished phantom", where=dest, remedy=remedy) from error
    asked = {"painter_version": PAINTER_VERSION, "patches": patches, "slides": slides, "seed": seed}
    differing = [f"{key} {getattr(painted, key)}" for key, value in asked.items() if getattr(painted, key) != value]
    if differing:
        raise DataError(f"contains another phantom ({', '.join(differing)})", where=dest, remedy=remedy)
    return painted


def _plan(patches: int, slides: int, seed: int) -> list[SlidePlan]:
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
    defects: list[Counter[DefectKind]] = [Counter() for _ in range(slides)]
    for kind, (of_all, fewest) in _DEFECTS.items():
        total = max(fewest, round(of_all * patches))
        for index in np.resize(rng.permutation(slides), total):
            defects[index][kind] += 1
    return [
        SlidePlan(
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


def _make_slides(plans: list[SlidePlan], folder: Path, workers: int) -> Generator[list[TruthRow], None, None]:
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


def _make_slide(plan: SlidePlan, folder: Path) -> list[TruthRow]:
    """Paint one section, cut its patches, plant its defects and write the files."""
    rng = np.random.default_rng(plan.seed)
    side_px = field_side_px(plan.patches)
    with threadpool_limits(1):  # the slides are the parallel part; threads within one only get in the way
        section = paint_section(rng, side_px=side_px, tumour_share=_NEST_SHARE * plan.positive_share)
    cutter = Cutter(plan, rng, section.rgb, section.tumour)
    for row, patch in cutter.cut_all():
        (folder / plan.part / f"{row.id}.tif").write_bytes(encode_tiff(patch))
    return cutter.rows


# --- after: tables and manifest ---------------------------------------------------------------------


def _summarise(seed: int, slides: int, rows: list[TruthRow]) -> PhantomSummary:
    assert len({row.id for row in rows}) == len(rows), "ids are unique"
    parts = Counter(row.part for row in rows)
    defects = Counter(row.defect for row in rows if row.defect)
    return PhantomSummary(
        seed=seed,
        slides=slides,
        patches=len(rows),
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
    write("attributes.csv", ["id", "tumour_fraction"], ((row["id"], row["tumour_fraction"]) for row in truth))
    write("truth.csv", list(truth[0]), (tuple(row.values()) for row in truth))
