"""Many slides, one model: every slide is attempted, a bad one leaves its reason, and what was done is never done again.

First all slides are looked at: opened, and searched for tissue on an overview. So what cannot be judged is told at
once, and how long the rest takes is known before it begins. Then they are judged, one after the other. Each slide has a
folder of its own in the results, and a row in `slides.csv`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy import ndimage

import sentinode
from sentinode.artefacts import write_atomically, write_text
from sentinode.errors import ConfigError, DataError, FailureError, RunError, SentinodeError, one_line
from sentinode.files import as_file_name
from sentinode.inference.classifier import Classifier
from sentinode.records import Number, read_record, write_record
from sentinode.session import Session
from sentinode.slides.guard import FEWEST, Look, Unlike, look_at
from sentinode.slides.heatmap import (
    CELL_PX,
    COMPARED,
    Block,
    Grid,
    HeatMap,
    Parity,
    judge_blocks,
    judge_places,
    parity_of,
    seconds_a_cell,
    some_patches,
    without_tissue,
)
from sentinode.slides.lesions import Lesion, Size, geojson, lesions_in
from sentinode.slides.outputs import (
    BEGUN,
    JOURNAL,
    LESIONS,
    SLIDE_MANIFEST,
    THUMBNAIL,
    TISSUE,
    Journal,
    Request,
    SlideRecord,
    forget,
    open_slide_record,
    require_tifffile,
    write_places,
    write_results,
    write_thumbnail,
)
from sentinode.slides.reader import SLIDE_SUFFIXES, Plane, Slide, read_slide, series_of
from sentinode.slides.tissue import LEFT_OUT, OVERVIEW_UM_PER_PX, Reason, find_tissue

_TOLD_BY_NUCLEI: Final = 60  # patches that the spacing is estimated from
COHORT_BEGUN: Final = "cohort.json"
COHORT_RECORD: Final = "slides.json"
SLIDES_TABLE: Final = "slides.csv"
QUPATH_SCRIPT: Final = "load_lesions.groovy"


@dataclass(frozen=True)
class Entry:
    """One slide of a cohort, and the name of its folder in the results."""

    path: Path
    name: str
    spacing: float | None = None
    """From the cohort's table: for a file that has none."""


@dataclass(frozen=True)
class Model:
    """The classifier, and what of it a slide's record names."""

    classifier: Classifier
    digest: str
    note: str


@dataclass(frozen=True)
class SlideSettings:
    """How slides are judged, all of a cohort alike."""

    threshold: float
    threshold_rule: str
    calibration: str | None = None
    dense: bool = False
    """Whether networks that can go over blocks of a slide at once do so."""
    spacing: float | None = None
    """For files that have none."""
    places: Path | None = None
    """A table x,y of centres, in pixels of level 0, that alone are judged; with a column `slide`, each slide's own."""


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

    @property
    def failed(self) -> tuple[SlideRow, ...]:
        return tuple(row for row in self.rows if row.state == "failed")


@dataclass(frozen=True)
class _Begun:
    """begun.json of a slide: what it is judged by, and what looking at it found."""

    request: Request
    tissue_mm2: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _CohortBegun:
    """cohort.json: what all slides are judged by."""

    model: str
    threshold: float
    calibration: str | None
    dense: bool
    spacing: float | None
    places: str | None
    sentinode: str


def cohort_of(sources: Sequence[Path | str]) -> list[Entry]:
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
                below = next((path for path in sorted(source.iterdir()) if path.is_dir() and _slides_in(path)), None)
                known = f"Known are {', '.join(SLIDE_SUFFIXES)}."
                raise DataError(
                    "holds no slides", where=source, remedy=f"Give {below}, which does." if below else known
                )
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
        entries.append(Entry(path, name, spacing))
    return entries


def _slides_in(folder: Path) -> list[Path]:
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SLIDE_SUFFIXES]
    whole: dict[object, Path] = {}
    for path in paths:
        if path.is_file() and not path.name.startswith("."):
            whole.setdefault(series_of(path) or path, path)
    return list(whole.values())


def judge_cohort(
    entries: Sequence[Entry], model: Model, settings: SlideSettings, out: Path, session: Session
) -> CohortRecord:
    """Judge every slide, and write the cohort's table, record and script behind the last; `out` is held by the caller.

    What lies in `out` from an interrupted command is gone on with. Raises ConfigError where that was begun with another
    model or other settings, StorageError where nothing can be written; what is wrong with a slide is in its row.
    """
    require_tifffile()
    _begin(out, model, settings)
    rows: dict[Entry, SlideRow] = {}
    waiting: list[tuple[Entry, int]] = []
    for number, entry in enumerate(entries):
        try:
            cells = _look_at(entry, model, settings, out / entry.name)
            if cells is None:
                rows[entry] = _row_of(entry, open_slide_record(out / entry.name))
            else:
                waiting.append((entry, cells))
        except Exception as error:  # a batch is never lost to one slide, whatever is wrong with it
            rows[entry] = _failed(entry, error)
        session.progress("look at slides", number + 1, len(entries))
    total, done = sum(cells for _, cells in waiting), 0
    if waiting:
        _estimate(waiting, model, settings, out, session)
    for number, (entry, cells) in enumerate(waiting, 1):
        note = f"slide {number} of {len(waiting)}: {entry.name}"
        before = done

        def told(of_slide: int, before: int = before, note: str = note) -> None:
            session.progress("judge cells", before + of_slide, total, note)

        try:
            rows[entry] = _row_of(entry, _judge(entry, model, settings, out / entry.name, told))
        except Exception as error:
            rows[entry] = _failed(entry, error)
            told(cells)
        done += cells
    record = CohortRecord(
        model.classifier.name,
        model.note,
        settings.threshold,
        settings.threshold_rule,
        tuple(rows[entry] for entry in entries),
    )
    _write_table(out / SLIDES_TABLE, record)
    write_text(out / QUPATH_SCRIPT, _qupath_script(entries, record))
    write_record(out / COHORT_RECORD, record)
    return record


# --- one slide ---------------------------------------------------------------------------------------


def _open(entry: Entry, settings: SlideSettings) -> tuple[Slide, Literal["file", "given"], tuple[str, ...]]:
    """The slide with its spacing: the file's own, else the command's, else the table's."""
    slide = read_slide(entry.path)
    given = settings.spacing or entry.spacing
    if given is None:
        return slide, "file", ()
    own = slide.spacing
    if own is None:
        slide.close()
        return read_slide(entry.path, spacing=given), "given", ()
    differs = max(own) > 1.02 * given or min(own) < given / 1.02
    told = f"the spacing of {given:g} um/px that was given is not used: the file says {own[0]:g} x {own[1]:g}"
    return slide, "file", (told,) if differs else ()


def _look_at(entry: Entry, model: Model, settings: SlideSettings, folder: Path) -> int | None:
    """How many cells are to be judged, with what that needs in the slide's folder; None for a finished slide."""
    slide, spacing_from, warnings = _open(entry, settings)
    with slide:
        try:
            plane = slide.plane(model.classifier.spacing_um_per_px)
        except DataError:
            write_thumbnail(folder, slide)  # what was refused can be looked at
            raise
        request = Request(
            model.digest,
            slide.identity,
            slide.require_spacing(),
            spacing_from,
            settings.threshold,
            settings.calibration,
            settings.dense,
            _digest(settings.places),
            sentinode.__version__,
        )
        if (folder / SLIDE_MANIFEST).exists():
            if open_slide_record(folder).request == request:
                forget(folder)
                return None
            raise RunError(
                "holds the results of another file, or of another spacing",
                where=folder,
                remedy="Choose another --out, or remove that folder.",
            )
        if (folder / BEGUN).exists() and read_record(folder / BEGUN, _Begun).request == request:
            return _cells_to_judge(entry, settings, np.load(folder / TISSUE))
        forget(folder)
        overview = slide.overview(OVERVIEW_UM_PER_PX)
        write_thumbnail(folder, slide, overview)
        tissue = find_tissue(overview)
        reason = tissue.of_cells(plane, CELL_PX)
        if settings.places is None and not (reason == Reason.JUDGED).any():
            raise without_tissue(entry.path)
        write_atomically(folder / TISSUE, lambda file: np.save(file, reason))
        write_record(folder / BEGUN, _Begun(request, tissue.area_mm2, warnings))
        return _cells_to_judge(entry, settings, reason)


def _cells_to_judge(entry: Entry, settings: SlideSettings, reason: np.ndarray) -> int:
    return len(_places(entry, settings)) if settings.places else int((reason == Reason.JUDGED).sum())


def _judge(
    entry: Entry, model: Model, settings: SlideSettings, folder: Path, told: Callable[[int], None]
) -> SlideRecord:
    """Judge a slide that was looked at, and write its files; raises DataError where its pixels turn out to be bad."""
    begun = read_record(folder / BEGUN, _Begun)
    reason = np.load(folder / TISSUE)
    slide, _, _ = _open(entry, settings)
    with slide:
        plane = slide.plane(model.classifier.spacing_um_per_px)
        found = HeatMap.empty(Grid.of(plane), reason)
        if settings.places is not None:
            centres = _places(entry, settings)
            probability, disagreement = judge_places(plane, model.classifier, centres)
            probability = _calibrated(probability, model, settings)
            record = _record(slide, plane, found, begun, model, settings, probability, [], None, None)
            corners = centres - np.array(found.grid.step) / 2
            write_places(folder, record, corners, probability, disagreement)
            return record
        journal, done, count = Journal(folder / JOURNAL), set[int](), 0
        for block in journal.blocks():
            done.add(block.number)
            found.put(block)
            count += _asked_in(block, reason)
        told(count)
        for block in judge_blocks(plane, model.classifier, reason, dense=settings.dense, done=done):
            journal.append(block)
            found.put(block)
            count += _asked_in(block, reason)
            told(count)
        if model.note:  # a model of phantoms knows no real tissue
            found.unlike[...] = Unlike.NOTHING
        patches, places = some_patches(found, plane)
        parity = parity_of(found, model.classifier, patches, places, settings.threshold)
        look = None if model.note else _look_at_slide(found, patches, places)
        # The operating point holds for the probability before any calibration.
        above = np.nan_to_num(found.probability, nan=-1.0) > settings.threshold
        found.probability[...] = _calibrated(found.probability, model, settings)
        lesions = lesions_in(found, above)
        record = _record(slide, plane, found, begun, model, settings, found.probability, lesions, parity, look)
        with Image.open(folder / THUMBNAIL) as picture:
            write_results(folder, found, record, picture.convert("RGB"))
        return record


def _look_at_slide(
    found: HeatMap, patches: UInt8[np.ndarray, "n 96 96 3"], places: Int[np.ndarray, "n 2"]
) -> Look | None:
    """What is to be said of the cells within tissue, for its rim is unlike patches; None for too few of them."""
    within = ndimage.binary_erosion(found.reason == Reason.JUDGED, np.ones((3, 3), bool), iterations=2)
    inner = np.flatnonzero(within[places[:, 0], places[:, 1]])
    some = inner[np.linspace(0, max(len(inner) - 1, 0), min(_TOLD_BY_NUCLEI, len(inner))).round().astype(np.int64)]
    return look_at(found.unlike[within], patches[some]) if len(some) >= FEWEST else None


def _asked_in(block: Block, reason: UInt8[np.ndarray, "rows columns"]) -> int:
    return int((reason[block.rows, block.columns] == Reason.JUDGED).sum())


def _calibrated(probability: np.ndarray, model: Model, settings: SlideSettings) -> np.ndarray:
    if settings.calibration is None:
        return probability
    known = ~np.isnan(probability)
    calibrated = np.full_like(probability, np.nan)
    calibrated[known] = model.classifier.calibration(settings.calibration).apply(probability[known].astype(np.float64))
    return calibrated


def _record(
    slide: Slide,
    plane: Plane,
    found: HeatMap,
    begun: _Begun,
    model: Model,
    settings: SlideSettings,
    probability: np.ndarray,
    lesions: list[Lesion],
    parity: Parity | None,
    look: Look | None,
) -> SlideRecord:
    left_out = {reason.word: int((found.reason == reason).sum()) for reason in LEFT_OUT}
    judged = int((found.reason == Reason.JUDGED).sum())
    known = probability[~np.isnan(probability)].astype(np.float64)
    tissue = judged + sum(left_out.values())
    told = [_dense_in_words(parity)] if settings.dense and parity is not None else []
    told += [
        f"{count:,} of {tissue:,} cells of tissue are left out: {word}" for word, count in left_out.items() if count
    ]
    return SlideRecord(
        slide=slide.path.name,
        model=model.classifier.name,
        request=begun.request,
        judged_spacing=plane.spacing,
        level=plane.level,
        width_px=slide.levels[0].width,
        height_px=slide.levels[0].height,
        rows=found.grid.rows,
        columns=found.grid.columns,
        step=found.grid.step,
        step_um=found.grid.step_um,
        tissue_mm2=begun.tissue_mm2,
        tissue_cells=tissue,
        judged_cells=judged,
        left_out=left_out,
        threshold_rule=settings.threshold_rule,
        networks_disagree=model.classifier.networks > 1,
        parity=parity,
        look=look,
        max_probability=float(known.max()) if len(known) else math.nan,
        mean_probability=float(known.mean()) if len(known) else math.nan,
        lesions=tuple(lesions),
        lesions_not_drawn=geojson(lesions)[1],
        note=model.note,
        warnings=(*begun.warnings, *(look.warnings(plane.spacing[0]) if look else ()), *told),
    )


def _dense_in_words(parity: Parity) -> str:
    """How far the numbers of a dense heat map are to be trusted."""
    return (
        f"judged dense: at {parity.places} places the probability differs from `predict`'s by {parity.mean:.3f} in the "
        f"mean and {parity.largest:.3f} at most, and {parity.moved} lie on the other side of the operating point"
    )


def _places(entry: Entry, settings: SlideSettings) -> Float[np.ndarray, "n 2"]:
    """The centres, x and y, of this slide's places."""
    from sentinode.data.tables import SLIDE_COLUMNS, column_of, columns_of, read_table  # brings pandas along

    assert settings.places is not None
    table = read_table(settings.places, purpose="x,y in pixels of level 0")
    names = [column_of(table, (name,)) for name in ("x", "y")]
    if None in names:
        raise DataError(
            f"has the columns {columns_of(table)}", where=settings.places, remedy="It must have the columns x and y."
        )
    of_slide = column_of(table, SLIDE_COLUMNS)
    if of_slide is not None:
        table = table[table[of_slide].str.strip().isin([entry.path.name, entry.path.stem, entry.name])]
    try:
        centres = table[names].to_numpy().astype(np.float64)
    except ValueError as error:
        raise DataError(f"has a place that is no number ({error})", where=settings.places, remedy="Fix it.") from error
    if not len(centres) or not np.isfinite(centres).all():
        raise DataError(f"has no places of {entry.path.name}", where=settings.places, remedy="Add some.")
    return centres


# --- the cohort --------------------------------------------------------------------------------------


def _begin(out: Path, model: Model, settings: SlideSettings) -> None:
    """Write cohort.json, or compare it with what is asked for now."""
    asked = _CohortBegun(
        model.digest,
        settings.threshold,
        settings.calibration,
        settings.dense,
        settings.spacing,
        _digest(settings.places),
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


def _estimate(
    waiting: Sequence[tuple[Entry, int]], model: Model, settings: SlideSettings, out: Path, session: Session
) -> None:
    """Say how long judging will take, measured on a block of the slide with the most cells."""
    cells = sum(count for _, count in waiting)
    again = sum(min(count, COMPARED) for _, count in waiting)  # for parity
    entry, _ = max(waiting, key=lambda pair: pair[1])
    try:
        slide, _, _ = _open(entry, settings)
        with slide:
            plane = slide.plane(model.classifier.spacing_um_per_px)
            seconds = (cells + again) * seconds_a_cell(
                plane, model.classifier, np.load(out / entry.name / TISSUE), dense=settings.dense
            )
    except (SentinodeError, ValueError):  # of no cells of tissue, where places alone are judged
        return
    told = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    session.notify(f"{cells:,} cells in {len(waiting)} of the slides, {cells / seconds:,.0f} per second: about {told}")


def _failed(entry: Entry, error: Exception) -> SlideRow:
    """The row of a slide that cannot be judged; what would fail every other slide too is raised."""
    if isinstance(error, FailureError):
        raise error
    bug = f"{type(error).__name__}: {error}. This is a bug in sentinode: please report it."
    told = str(error) if isinstance(error, SentinodeError) else one_line(bug)
    return SlideRow(str(entry.path), entry.name, "failed", told)


def _row_of(entry: Entry, record: SlideRecord) -> SlideRow:
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


def _qupath_script(entries: Sequence[Entry], record: CohortRecord) -> str:
    """A script that puts each slide's lesions onto the image of the same file name in a project of QuPath's."""
    done = {row.folder for row in record.rows if row.state == "done"}
    folders = {entry.path.name: entry.name for entry in entries if entry.name in done}
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


def _digest(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
