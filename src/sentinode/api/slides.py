"""What a user can ask of whole slides: heat maps, lesions and a page for one slide or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sentinode.artefacts import claim, claim_file, refuse_full
from sentinode.engine.shard import Shard
from sentinode.engine.task import Needs
from sentinode.errors import ConfigError, DataError, RunError
from sentinode.inference.classifier import Classifier
from sentinode.models.own import Given, Recipes
from sentinode.records import read_record, write_record
from sentinode.runs.load import classifier_of, digest_of_model, open_runs, runtime_cache_of
from sentinode.session import Session
from sentinode.slides.cohort import (
    COHORT_BEGUN,
    COHORT_RECORD,
    CohortRecord,
    SlideRow,
    cohort_of,
    judge_cohort,
    judge_shard,
)
from sentinode.slides.heatmap import CELL_PX, require_stride
from sentinode.slides.judging import Model, SlideEntry, SlideSettings
from sentinode.slides.scores import SlideScores, score_cohort

_DEFAULT_POINT = "youden"
_DEFAULT_THRESHOLD = 0.5


def judge_slides(
    model: Path | str,
    sources: Path | str | Sequence[Path | str],
    out: Path | str,
    session: Session | None = None,
    *,
    resume: bool = False,
    spacing: float | None = None,
    at: Path | str | None = None,
    threshold: str | float | None = None,
    calibrate: str | None = None,
    stride: int = CELL_PX,
    dense: bool = False,
    fast: bool = False,
    network: Given | None = None,
    shard: Shard | None = None,
    settings: Mapping[str, Any] | None = None,
) -> CohortRecord:
    """Judge every cell of tissue of whole slides with a run, ensemble or study's choice; write and return the results.

    `sources` are slides, directories of slides and tables with a column `slide` (`slides.cohort.cohort_of`), or one of
    them. The folder `out` gets a folder for each slide, slides.csv, slides.json and report.html. With `resume`, what an
    interrupted command left is gone on with. `spacing`, in um/px of level 0, is for files that have none. `at` is a
    table x,y of centres, in pixels of level 0, which alone are judged. `threshold` is as for `Classifier.threshold`;
    without it, the operating point "youden" is used, or 0.5 where the model has none. `calibrate` is as for `predict`.
    `stride`, 32, 16 or 8, is a cell's side in pixels of the model's spacing: half of it takes four times as long.
    `dense`: networks that can go over blocks of a slide at once do so, which is faster and not quite the same; each
    slide's record says how far off it is. `fast`: the model's student judges in its place, the run that `distill` left
    in a folder beside the model's. With `shard` a share of the slides is judged, and the record, which is not written
    then, has these alone; several shards may fill `out` at once, and a call with `resume` ends the work. `settings`:
    `running.cpus`, `running.gpus` and `running.memory_mb`, what a slide takes of a machine if a session's engine has it
    judged, where that is not what the run's settings say.

    A slide that cannot be judged has the reason in its row, and the others their results. Raises ConfigError where
    `out` was begun with another model or other settings, or none of the networks can be dense, RunError where `fast`
    finds no student, or several.
    """
    from sentinode.report.pages.page import write_slides_page

    session = session or Session()
    require_stride(stride)
    if at is not None and stride != CELL_PX:
        raise ConfigError("is for heat maps; single places have no cells", where="stride", remedy="Leave it out.")
    model, out, at = Path(model), Path(out), None if at is None else Path(at)
    if fast:
        from sentinode.runs.teacher import student_beside  # here: a model alone does without

        model = student_beside(model)
        session.notify(f"{model} judges, a student of the model that was given")
    entries = cohort_of([sources] if isinstance(sources, Path | str) else sources)
    if (out / COHORT_BEGUN).exists() and not resume and shard is None:
        raise RunError("contains results of slides", where=out, remedy="Add --resume, or choose another folder.")
    refuse_full(out, COHORT_BEGUN)
    with claim(out, begun=COHORT_BEGUN) if shard is None else nullcontext():
        judge = model_of(model, session, network=network, settings=settings)
        classifier = judge.classifier
        above, rule = _operating_point(classifier, threshold, session)
        if calibrate is not None:
            classifier.calibration(calibrate)  # refused before the first slide is opened
        if dense and not classifier.can_be_dense(stride):
            raise ConfigError(
                f"none of its networks shares anything between patches that are {stride} pixels apart",
                where=model,
                remedy="Leave --dense out; docs/slides.md names the networks that can.",
            )
        how = SlideSettings(above, rule, calibrate, dense, stride, spacing, at)
        if shard is not None:
            rows = judge_shard(shard.part(entries), judge, how, out, session)
            return CohortRecord(classifier.name, judge.note, above, rule, tuple(rows), stride)
        record = judge_cohort(entries, judge, how, out, session)
        write_slides_page(out)
    return record


def model_of(
    folder: Path, session: Session, *, network: Given | None = None, settings: Mapping[str, Any] | None = None
) -> Model:
    """A finished run, ensemble or study's choice as what judges slides.

    `settings` are as for `judge_slides`.
    """
    own = Recipes.of(network)
    runs = open_runs(folder, own)
    classifier = classifier_of(runs, session.device, folder=folder, fastest=runtime_cache_of(session))
    needs = Needs()
    if session.engine is not None:
        from sentinode.runs.tasks import needs_of  # here: one process does without, and begins sooner

        needs = needs_of(runs[0].config, session, settings)
    note = str(runs[0].environment.get("data_note", ""))
    return Model(classifier, digest_of_model(folder), note, folder, own, needs)


def usual_settings(classifier: Classifier, session: Session) -> SlideSettings:
    """How `judge_slides` judges where nothing else is asked for."""
    return SlideSettings(*_operating_point(classifier, None, session))


def judge_one_more(entry: SlideEntry, model: Model, settings: SlideSettings, out: Path, session: Session) -> SlideRow:
    """Judge a slide in a cohort's folder, which the caller holds; table, record and page keep the others' rows."""
    from sentinode.report.pages.page import write_slides_page

    before = read_record(out / COHORT_RECORD, CohortRecord).rows if (out / COHORT_RECORD).is_file() else ()
    others = [row for row in before if row.folder != entry.name]
    record = judge_cohort([entry], model, settings, out, session, beside=others)
    write_slides_page(out)
    return record.rows[-1]


def _operating_point(classifier: Classifier, asked: str | float | None, session: Session) -> tuple[float, str]:
    """The threshold, and its rule in words."""
    if asked is None:
        try:
            return classifier.threshold(_DEFAULT_POINT), _DEFAULT_POINT
        except ConfigError as error:
            session.notify(f"{error.what}; lesions are cells above {_DEFAULT_THRESHOLD:g}")
            return _DEFAULT_THRESHOLD, "default"
    above = classifier.threshold(asked)
    return above, str(asked) if str(asked) in classifier.operating_points else "as given"


def score_slides(
    results: Path | str,
    truth: Path | str,
    *,
    official: bool = False,
    against: Path | str | None = None,
    patients: Path | str | None = None,
    out: Path | str | None = None,
) -> SlideScores:
    """Score judged slides by annotations: FROC, AUC of slides and of cells, Dice, with intervals over slides.

    `results` is a folder that `judge_slides` wrote, `truth` a directory of NAME.xml (ASAP) or NAME.geojson; a slide
    without annotations is normal. `official` adds CAMELYON16's own rules, `against` the differences to another
    model's results on the same slides, `patients`, a table slide,patient, the stages of patients. `out` is a file for
    the record.
    """
    named = None if patients is None else _patients(Path(patients))
    other = None if against is None else Path(against)
    found = score_cohort(Path(results), Path(truth), official=official, against=other, patients=named)
    if out is not None:
        with claim_file(Path(out)):
            write_record(Path(out), found)
    return found


def _patients(path: Path) -> dict[str, str]:
    from sentinode.data.tables import PATIENT_COLUMNS, SLIDE_COLUMNS, column_of, columns_of, read_table

    table = read_table(path, purpose="slide,patient")
    slide, patient = column_of(table, SLIDE_COLUMNS), column_of(table, PATIENT_COLUMNS)
    if slide is None or patient is None:
        raise DataError(
            f"has the columns {columns_of(table)}", where=path, remedy="It must have the columns slide and patient."
        )
    return dict(zip(table[slide], table[patient], strict=True))
