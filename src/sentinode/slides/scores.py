"""Judged slides against their annotations: the scores of one cohort or two, and stages of patients, as one record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sentinode.errors import DataError
from sentinode.evaluation.bootstrap import Interval, PairedInterval
from sentinode.evaluation.froc import RATES, SLIDE_SCORES, SlideOutcome, kappa, official_froc, slide_replicates
from sentinode.records import Number, read_record
from sentinode.slides.camelyon import (
    STAGES,
    Annotation,
    Stage,
    detections,
    official_mask,
    official_outcome,
    outcome,
    read_annotations,
    stage_of,
    truth_of,
)
from sentinode.slides.cohort import COHORT_RECORD, CohortRecord
from sentinode.slides.lesions import Size, size_of
from sentinode.slides.outputs import open_heat_map, open_slide_record

_ANNOTATIONS: Final = (".xml", ".geojson", ".json")


@dataclass(frozen=True)
class ScoredSlide:
    """One slide beside its truth."""

    slide: str
    annotated: bool
    """Whether it has annotations; a slide without any counts as normal."""
    score: float
    """Its highest probability."""
    lesions: int
    """That are to be found."""
    found: int
    """Of these, how many have a detection above the operating point."""
    false_positives: int
    """Detections above the operating point that hit no lesion."""
    dice: Number
    truth_size: Size | None
    found_size: Size | None


@dataclass(frozen=True)
class Official:
    """By CAMELYON16's own rules, which have no intervals."""

    sensitivities: tuple[float, ...]
    """At `RATES` false positives a slide."""
    froc: float


@dataclass(frozen=True)
class Stages:
    """Of patients, from their slides: truth and what the heat maps say, and how far they agree."""

    patients: dict[str, tuple[Stage, Stage]]
    kappa: Number
    """With quadratic weights."""


@dataclass(frozen=True)
class SlideScores:
    """The scores of judged slides, and those of others on the same slides beside them."""

    model: str
    slides: tuple[ScoredSlide, ...]
    scores: dict[str, Interval]
    official: Official | None
    stages: Stages | None
    against: str | None
    differences: dict[str, PairedInterval]
    """This model minus the other, on the same drawn slides."""


def score_cohort(
    results: Path,
    truth: Path,
    *,
    official: bool = False,
    against: Path | None = None,
    patients: Mapping[str, str] | None = None,
    replicates: int = 2000,
) -> SlideScores:
    """Score the judged slides in `results` by the annotations in the directory `truth`, NAME.xml or NAME.geojson.

    A slide without annotations is normal. `against`: results of another model on the same slides. `patients`: of each
    slide, a lymph node, its patient. Raises DataError where no slide has annotations, or the slides are others.
    """
    record, outcomes, scored, by_rules = _outcomes(results, truth, official=official)
    variants, other = [outcomes], None
    if against is not None:
        other, beside, _, _ = _outcomes(against, truth, official=False)
        if [o.slide for o in beside] != [o.slide for o in outcomes]:
            raise DataError("holds other slides", where=against, remedy="Judge the same slides with both models.")
        variants.append(beside)
    found = slide_replicates(variants, replicates=replicates)
    at, mean = official_froc(by_rules) if official else (np.empty(0), 0.0)
    return SlideScores(
        record.model,
        tuple(scored),
        {name: found.interval(0, name) for name in SLIDE_SCORES},
        Official(tuple(at.tolist()), mean) if official else None,
        _stages(scored, patients) if patients else None,
        None if other is None else other.model,
        {} if other is None else {name: found.difference(0, 1, name) for name in SLIDE_SCORES},
    )


def rate_of(score: str) -> str:
    """What a score is called in a table."""
    named = {f"sensitivity_at_{rate:g}": f"sensitivity at {rate:g} false positives per slide" for rate in RATES}
    others = {"froc": "FROC score", "slide_auc": "AUC of slides", "cell_auc": "AUC of cells", "dice": "Dice"}
    return (named | others)[score]


def verdict(found: SlideScores, score: str) -> str:
    """What the difference to the other model says of one score, in a sentence."""
    of, what = found.differences[score], rate_of(score)
    on = f"on {len(found.slides)} slides"
    if math.isnan(of.low):
        return (
            f"Which model has the better {what} {on} is unknown: {of.reason or 'there are too few slides of a kind'}."
        )
    interval = f"{of.estimate:+.3f}, 95 % interval {of.low:+.3f} to {of.high:+.3f}"
    if of.low > 0:
        return f"{found.model} has a better {what} than {found.against} {on}: {interval}."
    if of.high < 0:
        return f"{found.model} has a worse {what} than {found.against} {on}: {interval}."
    return f"There is no evidence that {found.model} and {found.against} differ in {what} {on}: {interval}."


def _outcomes(
    results: Path, truth: Path, *, official: bool
) -> tuple[CohortRecord, list[SlideOutcome], list[ScoredSlide], list[SlideOutcome]]:
    record = read_record(results / COHORT_RECORD, CohortRecord)
    done = [row for row in record.rows if row.state == "done"]
    outcomes, scored, by_rules = [], [], []
    for row in done:
        slide, annotated = open_slide_record(results / row.folder), _annotations_of(truth, row.folder)
        heat_map = open_heat_map(results / row.folder, slide)
        known = None if annotated is None else truth_of(annotated, heat_map.grid)
        found = outcome(row.folder, heat_map, known, threshold=record.threshold)
        outcomes.append(found)
        scored.append(
            ScoredSlide(
                slide=row.folder,
                annotated=annotated is not None,
                score=found.score,
                lesions=len(found.lesions),
                found=int((found.lesions > record.threshold).sum()),
                false_positives=int((found.false_positives > record.threshold).sum()),
                dice=found.dice,
                truth_size=None if known is None else size_of(float(known.longest_um.max(initial=0.0))),
                found_size=slide.largest,
            )
        )
        if official:
            places, scores = detections(heat_map)
            centres = (places[:, ::-1] + 0.5) * np.array(slide.step)
            size = (slide.width_px, slide.height_px)
            mask = None if annotated is None else official_mask(annotated, size, slide.request.spacing[0])
            by_rules.append(official_outcome(row.folder, centres, scores, mask))
    if not any(slide.annotated for slide in scored):
        raise DataError(
            f"holds annotations of none of the {len(done)} judged slides",
            where=truth,
            remedy=f"Name them as the folders of the slides, such as {done[0].folder if done else 'slide'}.xml.",
        )
    return record, outcomes, scored, by_rules


def _annotations_of(truth: Path, name: str) -> list[Annotation] | None:
    for suffix in _ANNOTATIONS:
        path = truth / f"{name}{suffix}"
        if path.is_file():
            return read_annotations(path)
    return None


def _stages(scored: list[ScoredSlide], patients: Mapping[str, str]) -> Stages:
    of_patient: dict[str, list[ScoredSlide]] = {}
    for slide in scored:
        if slide.slide not in patients:
            raise DataError(f"names no patient of {slide.slide}", where="the patients", remedy="Add the slide.")
        of_patient.setdefault(patients[slide.slide], []).append(slide)
    found = {
        patient: (stage_of([s.truth_size for s in slides]), stage_of([s.found_size for s in slides]))
        for patient, slides in of_patient.items()
    }
    return Stages(found, kappa([a for a, _ in found.values()], [b for _, b in found.values()], STAGES))
