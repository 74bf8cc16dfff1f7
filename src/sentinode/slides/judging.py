"""One slide: looked at first, so that what cannot be judged is told at once, then judged block by block, and written.

What looking at it found lies in the slide's folder until it is judged, so an interrupted slide is gone on with. A
finished one is not judged again, and what another model, file or setting left is never used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy import ndimage

import sentinode
from sentinode.artefacts import hold, write_atomically
from sentinode.engine.task import Needs
from sentinode.errors import DataError, RunError
from sentinode.inference.classifier import Classifier
from sentinode.models.own import NONE, Recipes
from sentinode.records import read_record, write_record
from sentinode.slides.guard import FEWEST, Look, Unlike, look_at
from sentinode.slides.heatmap import (
    CELL_PX,
    TRIED,
    Block,
    Grid,
    HeatMap,
    Parity,
    Sweep,
    judge_blocks,
    judge_places,
    parity_of,
    patches_around,
    patches_to_try,
    some_patches,
    without_tissue,
)
from sentinode.slides.lesions import Lesion, geojson, lesions_in
from sentinode.slides.outputs import (
    BEGUN,
    JOURNAL,
    SLIDE_MANIFEST,
    THUMBNAIL,
    TISSUE,
    Journal,
    Request,
    SlideRecord,
    forget,
    open_slide_record,
    write_places,
    write_results,
    write_thumbnail,
)
from sentinode.slides.reader import Plane, Slide, read_slide
from sentinode.slides.tissue import LEFT_OUT, OVERVIEW_UM_PER_PX, Reason, find_tissue

_SHOWN: Final = 0.0005  # a difference of probabilities that three decimals show
_TOLD_BY_NUCLEI: Final = 60  # patches that the spacing is estimated from


@dataclass(frozen=True)
class SlideEntry:
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
    folder: Path | None = None
    """Where other processes open it."""
    own: Recipes = NONE
    needs: Needs = field(default_factory=Needs)
    """What to judge a slide takes of a machine, where an engine has it done."""


@dataclass(frozen=True)
class SlideSettings:
    """How slides are judged, all of a cohort alike."""

    threshold: float
    threshold_rule: str
    calibration: str | None = None
    dense: bool = False
    """Whether networks that can go over blocks of a slide at once do so."""
    stride: int = CELL_PX
    """A cell's side, in pixels of the model's spacing."""
    spacing: float | None = None
    """For files that have none."""
    places: Path | None = None
    """A table x,y of centres, in pixels of level 0, that alone are judged; with a column `slide`, each slide's own."""


@dataclass(frozen=True)
class _Begun:
    """begun.json of a slide: what it is judged by, and what looking at it found."""

    request: Request
    tissue_mm2: float
    warnings: tuple[str, ...]


def open_entry(entry: SlideEntry, settings: SlideSettings) -> tuple[Slide, Literal["file", "given"], tuple[str, ...]]:
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


def prepare_slide(entry: SlideEntry, model: Model, settings: SlideSettings, folder: Path) -> int | None:
    """How many cells are to be judged, with what that needs in the slide's folder; None for a finished slide."""
    slide, spacing_from, warnings = open_entry(entry, settings)
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
            digest_of_table(settings.places),
            sentinode.__version__,
            settings.stride,
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
        reason = tissue.of_cells(plane, settings.stride)
        if settings.places is None and not (reason == Reason.JUDGED).any():
            raise without_tissue(entry.path)
        write_atomically(folder / TISSUE, lambda file: np.save(file, reason))
        write_record(folder / BEGUN, _Begun(request, tissue.area_mm2, warnings))
        return _cells_to_judge(entry, settings, reason)


def choose_ways(entry: SlideEntry, cells: int, model: Model, settings: SlideSettings, folder: Path) -> None:
    """Have what is fastest here compute the networks, tried on patches of a slide that was looked at, `cells` in all.

    What goes over blocks of a slide at once, PyTorch does.
    """
    if settings.dense:
        return
    slide, _, _ = open_entry(entry, settings)
    with slide:
        plane = slide.plane(model.classifier.spacing_um_per_px)
        if settings.places is None:
            grid = Grid.of(plane, settings.stride)
            patches = patches_to_try(plane, grid, np.load(folder / TISSUE))
        else:
            patches, _ = patches_around(plane, places_of(entry.path, settings.places, entry.name)[:TRIED])
        model.classifier.expect(patches, cells)


def _cells_to_judge(entry: SlideEntry, settings: SlideSettings, reason: np.ndarray) -> int:
    return (
        len(places_of(entry.path, settings.places, entry.name))
        if settings.places
        else int((reason == Reason.JUDGED).sum())
    )


def judge_slide(
    entry: SlideEntry, model: Model, settings: SlideSettings, folder: Path, told: Callable[[int], None]
) -> SlideRecord:
    """Judge a slide that was looked at, and write its files; raises DataError where its pixels turn out to be bad."""
    begun = read_record(folder / BEGUN, _Begun)
    reason = np.load(folder / TISSUE)
    slide, _, _ = open_entry(entry, settings)
    with slide:
        plane = slide.plane(model.classifier.spacing_um_per_px)
        sweep = Sweep(plane, model.classifier, settings.stride, settings.dense)
        found = HeatMap.empty(sweep.grid, reason)
        if settings.places is not None:
            centres = places_of(entry.path, settings.places, entry.name)
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
        for block in judge_blocks(sweep, reason, done=done):
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


def judge_alone(
    entry: SlideEntry, model: Model, settings: SlideSettings, folder: Path, told: Callable[[int, int], None]
) -> None:
    """Look at a slide and judge it, its folder held, for other processes may judge slides beside it.

    `told` hears how many cells of how many are judged. What is finished is only checked. Raises DataError where the
    slide cannot be judged, RunError where another process judges it or the folder has results of something else.
    """
    if (folder / SLIDE_MANIFEST).exists():
        prepare_slide(entry, model, settings, folder)
        return
    with hold(folder):
        cells = prepare_slide(entry, model, settings, folder)
        if cells is not None:
            judge_slide(entry, model, settings, folder, lambda done: told(done, cells))


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
    told = [_dense_in_words(parity)] if settings.dense and parity is not None and parity.largest >= _SHOWN else []
    told += [
        f"{count:,} of {tissue:,} cells of tissue are left out: {word}" for word, count in left_out.items() if count
    ]
    return SlideRecord(
        slide=slide.path.name,
        model=model.classifier.name,
        computed_by=model.classifier.runtimes,
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


def places_of(slide: Path, places: Path, name: str = "") -> Float[np.ndarray, "n 2"]:
    """The centres, x and y, of a slide's places in a table; raises DataError where it has none.

    `name` is what the slide is called beside its file's name.
    """
    from sentinode.data.tables import SLIDE_COLUMNS, column_of, columns_of, read_table  # brings pandas along

    table = read_table(places, purpose="x,y in pixels of level 0")
    axes = [column_of(table, (axis,)) for axis in ("x", "y")]
    if None in axes:
        raise DataError(
            f"has the columns {columns_of(table)}", where=places, remedy="It must have the columns x and y."
        )
    of_slide = column_of(table, SLIDE_COLUMNS)
    if of_slide is not None:
        table = table[table[of_slide].str.strip().isin([slide.name, slide.stem, name or slide.name])]
    try:
        centres = table[axes].to_numpy().astype(np.float64)
    except ValueError as error:
        raise DataError(f"has a place that is no number ({error})", where=places, remedy="Fix it.") from error
    if not len(centres) or not np.isfinite(centres).all():
        raise DataError(f"has no places of {slide.name}", where=places, remedy="Add some.")
    return centres


def digest_of_table(path: Path | None) -> str | None:
    """What tells one table of places from another."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
