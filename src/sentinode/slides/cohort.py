"""Many slides, one model: every slide is attempted, a bad one leaves its reason, and what was done is never done again.

First all slides are looked at: opened, and searched for tissue on an overview. So what cannot be judged is told at
once, and how long the rest takes is known before it begins. Then they are judged, one after the other; an engine does
both, slide by slide, several at a time. Each slide has a folder of its own in the results, and a row in `slides.csv`.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np

import sentinode
from sentinode.artefacts import hold, put_first, write_text
from sentinode.errors import ConfigError, DataError, FailureError, SentinodeError, one_line
from sentinode.files import as_file_name
from sentinode.inference.network import RuntimeName
from sentinode.records import Number, read_record, write_record
from sentinode.session import Session
from sentinode.slides.heatmap import CELL_PX, COMPARED, Sweep, seconds_a_cell
from sentinode.slides.judging import (
    Model,
    SlideEntry,
    SlideSettings,
    choose_ways,
    digest_of_table,
    judge_alone,
    judge_slide,
    open_entry,
    prepare_slide,
)
from sentinode.slides.lesions import Size
from sentinode.slides.outputs import LESIONS, TISSUE, SlideRecord, open_slide_record, require_tifffile
from sentinode.slides.reader import SLIDE_SUFFIXES, series_of

COHORT_BEGUN: Final = "cohort.json"
COHORT_WAYS: Final = "runtimes.json"
COHORT_RECORD: Final = "slides.json"
SLIDES_TABLE: Final = "slides.csv"
QUPATH_SCRIPT: Final = "load_lesions.groovy"


@dataclass(frozen=True)
class SlideRow:
    """A slide's row of `slides.csv`."""

    slide: str
    folder: str
    state: Literal["done", "failed"]
    reason: str
    """Why it failed, in one line; "" for one that did not."""
    tissue_mm2: Number = math.nan
    judged_share: Number = math.nan
    """Of the cells of tissue."""
    max_probability: Number = math.nan
    lesions: int = 0
    tumour_mm2: float = 0.0
    longest_axis_um: float = 0.0
    largest: Size | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CohortRecord:
    """slides.json: every slide of a cohort, in the order given."""

    model: str
    note: str
    threshold: float
    threshold_rule: str
    rows: tuple[SlideRow, ...]
    stride: int = CELL_PX  # which 0.2.0 does not say
    """A cell's side in pixels of the model's spacing."""

    @property
    def failed(self) -> tuple[SlideRow, ...]:
        return tuple(row for row in self.rows if row.state == "failed")


@dataclass(frozen=True)
class _CohortBegun:
    """cohort.json: what all slides are judged by."""

    model: str
    threshold: float
    calibration: str | None
    dense: bool
    stride: int
    spacing: float | None
    places: str | None
    sentinode: str


@dataclass(frozen=True)
class _Ways:
    """runtimes.json: what computes each of the model's networks, on all slides alike."""

    ways: tuple[RuntimeName, ...]


def cohort_of(sources: Sequence[Path | str]) -> list[SlideEntry]:
    """The slides that files, directories and tables name, each once, in the order given.

    A table is a CSV with a column `slide`, paths relative to it, and perhaps `spacing` in um/px. A directory's slides
    are those directly in it; DICOM files of one series are one slide, which goes by the first of them. Raises DataError
    where nothing is named, or a table has no such column.
    """
    found: dict[Path, float | None] = {}
    for source in map(Path, sources):
        if source.suffix.lower() == ".csv":
            found |= _from_table(source)
        elif source.is_dir():
            files = _slides_in(source)
            if not files:
                below = {path: _slides_in(path) for path in sorted(source.iterdir()) if path.is_dir()}
                # Beside slides there may be masks, which are smaller pictures.
                sizes = {path: sum(file.stat().st_size for file in files) for path, files in below.items() if files}
                best = f"Give {max(sizes, key=sizes.__getitem__)}, which does." if sizes else ""
                known = f"Known are {', '.join(SLIDE_SUFFIXES)}."
                raise DataError("holds no slides", where=source, remedy=best or known)
            found |= dict.fromkeys(files)
        else:
            found[source] = None
    stems = Counter(path.stem.lower() for path in found)
    names: dict[str, None] = {}
    entries = []
    for path, spacing in found.items():
        # Two slides of one name: the suffix tells them apart, else a number does.
        name = base = path.stem if stems[path.stem.lower()] == 1 else path.name
        number = 1
        while name.lower() in names:
            number += 1
            name = f"{base}-{number}"
        names[name.lower()] = None
        entries.append(SlideEntry(path, name, spacing))
    return entries


def _slides_in(folder: Path) -> list[Path]:
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SLIDE_SUFFIXES]
    whole: dict[object, Path] = {}
    for path in paths:
        if path.is_file() and not path.name.startswith("."):
            whole.setdefault(series_of(path) or path, path)
    return list(whole.values())


def _from_table(path: Path) -> dict[Path, float | None]:
    from sentinode.data.tables import SLIDE_COLUMNS, column_of, columns_of, read_table

    table = read_table(path, purpose="slide,spacing")
    slide, spacing = column_of(table, SLIDE_COLUMNS), column_of(table, ("spacing", "spacing_um_per_px", "mpp"))
    if slide is None:
        raise DataError(
            f"has the columns {columns_of(table)}",
            where=path,
            remedy="It must have a column slide, of paths, and may have spacing, in um/px.",
        )
    found: dict[Path, float | None] = {}
    for name, told in zip(table[slide].str.strip(), table[spacing] if spacing else [""] * len(table), strict=True):
        try:
            found[path.parent / as_file_name(name)] = float(told) if told.strip() else None
        except ValueError as error:
            raise DataError(f"{told!r} is no spacing of {name}", where=path, remedy="Give um/px.") from error
    return found


def judge_cohort(
    entries: Sequence[SlideEntry],
    model: Model,
    settings: SlideSettings,
    out: Path,
    session: Session,
    *,
    beside: Sequence[SlideRow] = (),
) -> CohortRecord:
    """Judge every slide, and write the cohort's table, record and script behind the last; `out` is held by the caller.

    What lies in `out` from an interrupted command is gone on with. The rows `beside`, of slides that were judged
    before, stay in the table and the record, ahead of the others. Raises ConfigError where that was begun with another
    model or other settings, StorageError where nothing can be written; what is wrong with a slide is in its row.
    """
    require_tifffile()
    begin_cohort(out, model.digest, settings)
    if session.engine is not None:
        _settle_ways(_looked_at(entries, model, settings, out), model, settings, out)
    judged = _judge_here if session.engine is None else _judge_together
    rows = judged(entries, model, settings, out, session)
    record = CohortRecord(
        model.classifier.name,
        model.note,
        settings.threshold,
        settings.threshold_rule,
        (*beside, *(rows[entry] for entry in entries)),
        settings.stride,
    )
    _write_table(out / SLIDES_TABLE, record)
    write_text(out / QUPATH_SCRIPT, _qupath_script(record))
    write_record(out / COHORT_RECORD, record)
    return record


def judge_shard(
    entries: Sequence[SlideEntry], model: Model, settings: SlideSettings, out: Path, session: Session
) -> list[SlideRow]:
    """Judge some slides of a cohort that other processes judge other slides of; the folder `out` is not held.

    The cohort's table, record and script are left to `judge_cohort`, which finds what is finished. Raises ConfigError
    where the cohort was begun with another model or other settings.
    """
    require_tifffile()
    begin_cohort(out, model.digest, settings)
    _settle_ways(_looked_at(entries, model, settings, out), model, settings, out)
    if session.engine is not None:
        rows = _judge_together(entries, model, settings, out, session)
        return [rows[entry] for entry in entries]
    found = []
    for number, entry in enumerate(entries, 1):
        told = partial(session.progress, f"judge {entry.name}")
        try:
            judge_alone(entry, model, settings, out / entry.name, told)
            found.append(_row_of(entry, open_slide_record(out / entry.name)))
        except Exception as error:
            found.append(_failed(entry, error))
        session.progress("slides", number, len(entries))
    return found


def _judge_here(
    entries: Sequence[SlideEntry], model: Model, settings: SlideSettings, out: Path, session: Session
) -> dict[SlideEntry, SlideRow]:
    """All slides are looked at, so that it is known how much there is to do; then they are judged, one by one."""
    rows: dict[SlideEntry, SlideRow] = {}
    waiting: list[tuple[SlideEntry, int]] = []
    for number, entry in enumerate(entries):
        try:
            cells = prepare_slide(entry, model, settings, out / entry.name)
            if cells is None:
                rows[entry] = _row_of(entry, open_slide_record(out / entry.name))
            else:
                waiting.append((entry, cells))
        except Exception as error:  # a batch is never lost to one slide, whatever is wrong with it
            rows[entry] = _failed(entry, error)
        session.progress("look at slides", number + 1, len(entries))
    total, done = sum(cells for _, cells in waiting), 0
    if waiting:
        _settle_ways([(max(waiting, key=lambda pair: pair[1])[0], total)], model, settings, out)
        _estimate(waiting, model, settings, out, session)
    for number, (entry, cells) in enumerate(waiting, 1):
        note = f"slide {number} of {len(waiting)}: {entry.name}"
        before = done

        def told(of_slide: int, before: int = before, note: str = note) -> None:
            session.progress("judge cells", before + of_slide, total, note)

        try:
            rows[entry] = _row_of(entry, judge_slide(entry, model, settings, out / entry.name, told))
        except Exception as error:
            rows[entry] = _failed(entry, error)
            told(cells)
        done += cells
    return rows


def _judge_together(
    entries: Sequence[SlideEntry], model: Model, settings: SlideSettings, out: Path, session: Session
) -> dict[SlideEntry, SlideRow]:
    """The session's engine has each slide looked at and judged in one go, for looking takes its time too."""
    from sentinode.slides.slide_tasks import judge_together  # here: one process does without

    rows: dict[SlideEntry, SlideRow] = {}
    for entry, outcome in judge_together(entries, model, settings, out, session).items():
        if outcome.failure is None:
            rows[entry] = _row_of(entry, open_slide_record(out / entry.name))
        else:
            rows[entry] = SlideRow(str(entry.path), entry.name, "failed", outcome.failure.reason)
    return rows


def begin_cohort(out: Path, model_digest: str, settings: SlideSettings) -> None:
    """Write cohort.json; where it is there, raise ConfigError if another model or other settings began it."""
    asked = _CohortBegun(
        model_digest,
        settings.threshold,
        settings.calibration,
        settings.dense,
        settings.stride,
        settings.spacing,
        digest_of_table(settings.places),
        sentinode.__version__,
    )
    if not (out / COHORT_BEGUN).exists():
        write_record(out / COHORT_BEGUN, asked)
        return
    before = read_record(out / COHORT_BEGUN, _CohortBegun)
    differing = [name for name, value in vars(asked).items() if getattr(before, name) != value]
    if differing:
        raise ConfigError(
            f"was begun with another {', '.join(differing)}",
            where=out,
            remedy="Give the same again, or choose another --out: results of two kinds are never mixed.",
        )


def _looked_at(
    entries: Sequence[SlideEntry], model: Model, settings: SlideSettings, out: Path
) -> Iterator[tuple[SlideEntry, int]]:
    """The slides that can be judged, each with the cells that all would have if all were as large."""
    for entry in entries:
        with suppress(SentinodeError):
            with hold(out / entry.name):
                cells = prepare_slide(entry, model, settings, out / entry.name)
            if cells is not None:
                yield entry, cells * len(entries)


def _settle_ways(looked_at: Iterable[tuple[SlideEntry, int]], model: Model, settings: SlideSettings, out: Path) -> None:
    """Have the networks computed on all slides alike: as on those before, else as is fastest on the first given.

    Raises ConfigError where that can no longer be had here.
    """
    path = out / COHORT_WAYS
    if not path.is_file():
        for entry, cells in looked_at:
            with suppress(SentinodeError):
                choose_ways(entry, cells, model, settings, out / entry.name)
                break
        put_first(path, lambda draft: write_record(draft, _Ways(model.classifier.ways)))
    try:
        model.classifier.compute_by(read_record(path, _Ways).ways)
    except FailureError as error:
        raise ConfigError(
            f"was begun with what cannot be had here: {error.what}",
            where=out,
            remedy="Install it, or choose another --out: results of two kinds are never mixed.",
        ) from error


def _estimate(
    waiting: Sequence[tuple[SlideEntry, int]], model: Model, settings: SlideSettings, out: Path, session: Session
) -> None:
    """Say how long judging will take, measured on a block of the slide with the most cells."""
    cells = sum(count for _, count in waiting)
    again = sum(min(count, COMPARED) for _, count in waiting)  # for parity
    entry, _ = max(waiting, key=lambda pair: pair[1])
    try:
        slide, _, _ = open_entry(entry, settings)
        with slide:
            plane = slide.plane(model.classifier.spacing_um_per_px)
            sweep = Sweep(plane, model.classifier, settings.stride, settings.dense)
            seconds = (cells + again) * seconds_a_cell(sweep, np.load(out / entry.name / TISSUE))
    except (SentinodeError, ValueError):  # of no cells of tissue, where places alone are judged
        return
    told = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    session.notify(f"{cells:,} cells in {len(waiting)} of the slides, {cells / seconds:,.0f} per second: about {told}")


def _failed(entry: SlideEntry, error: Exception) -> SlideRow:
    """The row of a slide that cannot be judged; what would fail every other slide too is raised."""
    if isinstance(error, FailureError):
        raise error
    bug = f"{type(error).__name__}: {error}. This is a bug in sentinode: please report it."
    told = str(error) if isinstance(error, SentinodeError) else one_line(bug)
    return SlideRow(str(entry.path), entry.name, "failed", told)


def _row_of(entry: SlideEntry, record: SlideRecord) -> SlideRow:
    return SlideRow(
        str(entry.path),
        entry.name,
        "done",
        "",
        tissue_mm2=record.tissue_mm2,
        judged_share=record.judged_share,
        max_probability=record.max_probability,
        lesions=len(record.lesions),
        tumour_mm2=math.fsum(lesion.area_mm2 for lesion in record.lesions),
        longest_axis_um=max((lesion.longest_axis_um for lesion in record.lesions), default=0.0),
        largest=record.largest,
        warnings=record.warnings,
    )


def _write_table(path: Path, record: CohortRecord) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(SlideRow))
    for row in record.rows:
        writer.writerow(_as_text(value) for value in vars(row).values())
    write_text(path, text.getvalue())


def _as_text(value: object) -> str:
    match value:
        case float():
            return "" if math.isnan(value) else f"{value:.6g}"
        case tuple():
            return "; ".join(value)
        case _:
            return "" if value is None else str(value)


def _qupath_script(record: CohortRecord) -> str:
    """A script that puts each slide's lesions onto the image of the same file name in a project of QuPath's."""
    folders = {Path(row.slide).name: row.folder for row in record.rows if row.state == "done"}
    pairs = ",\n".join(f"    {_groovy(name)}: {_groovy(folder)}" for name, folder in folders.items())
    return (
        "// In QuPath: open a project with these slides, open this script in Automate > Script editor, and choose\n"
        "// Run > Run for project.\n"
        f"def folders = [\n{pairs}\n]\n"
        "def folder = folders[getProjectEntry().getImageName()]\n"
        "if (folder != null) {\n"
        "    def results = getQuPath().getScriptEditor().getCurrentFile().getParentFile()\n"
        f"    importObjectsFromFile(new File(results, folder + '/{LESIONS}').getPath())\n"
        "}\n"
    )


def _groovy(text: str) -> str:
    """A string of Groovy's in single quotes, which hold no code."""
    return "'" + "".join(c if c.isalnum() or c in " ._-" else f"\\u{ord(c):04x}" for c in text if ord(c) < 65536) + "'"
