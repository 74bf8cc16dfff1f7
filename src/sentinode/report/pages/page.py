"""A folder of results -> one self-contained HTML page: no script, no request, pictures and figures inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import sentinode
from sentinode.artefacts import claim_file, refuse_full, write_text
from sentinode.errors import RunError
from sentinode.records import read_record
from sentinode.report.figures.style import NEGATIVE, POSITIVE
from sentinode.report.shown import gathered, keep_tables
from sentinode.runs.run import Run, is_run
from sentinode.runs.study_record import STUDY_CONFIG, STUDY_EVIDENCE, STUDY_RECORD

# Each page is imported where it is written: those with figures and tests take seconds, and others need none of it.
if TYPE_CHECKING:
    from sentinode.explain.explanation import Explanation
    from sentinode.inference.predictions import Predictions
    from sentinode.runs.evaluate import Evaluation
    from sentinode.studies.comparison import Comparison
    from sentinode.studies.study import EvidenceRecord, FinishedStudy
    from sentinode.studies.tables import PredictedRun

REPORT: Final = "report.html"
CHECK_PAGE: Final = "check.html"


def write_report(folder: Path, *, files: Path | None = None) -> list[Path]:
    """Write the pages of whatever the folder holds, from a study to an explanation; raises RunError.

    A new folder `files` gets each of their figures as SVG, PDF and PNG, each of their tables as CSV and LaTeX.
    """
    if files is None:
        return _write_report(folder)
    refuse_full(files)
    with gathered() as shown:
        pages = _write_report(folder)
    shown.write(files)
    return pages


def _write_report(folder: Path) -> list[Path]:
    from sentinode.audit.check import CHECK
    from sentinode.explain.explanation import EXPLANATION, Explanation
    from sentinode.runs.evaluate import SCORES, open_evaluation
    from sentinode.slides.cohort import COHORT_RECORD
    from sentinode.studies.study import FinishedStudy

    if (folder / STUDY_RECORD).is_file() or (folder / STUDY_CONFIG).is_file():
        return [write_study_page(FinishedStudy.open(folder)), write_check_page(folder)]
    if is_run(folder):
        return [write_run_page(Run.open(folder))]
    if (folder / CHECK).is_file():
        return [write_check_page(folder)]
    if (folder / STUDY_EVIDENCE).is_file():
        return [_write_page_of_given(folder)]
    if (folder / COHORT_RECORD).is_file():
        return [write_slides_page(folder)]
    if (folder / EXPLANATION).is_file():
        return [write_explanation_page(folder, read_record(folder / EXPLANATION, Explanation))]
    if (folder / SCORES).is_file():
        return [write_evaluation_page(folder, *open_evaluation(folder))]
    raise RunError(
        "contains no study, run or check",
        where=folder,
        remedy="Give a folder that `study`, `compare`, `tune`, `train`, `evaluate`, `explain`, `slides` or "
        "`check --out` wrote.",
    )


def write_study_page(study: FinishedStudy) -> Path:
    """Write report.html into the folder of a finished study."""
    from sentinode.report.pages.study import study_context

    return _write(study.folder / REPORT, "study.html", study_context(study))


def write_run_page(run: Run) -> Path:
    """Write report.html into the folder of a finished run."""
    from sentinode.report.pages.run import run_context

    return _write(run.folder / REPORT, "run.html", run_context(run))


def write_comparison_page(folder: Path, comparison: Comparison, record: EvidenceRecord) -> Path:
    """Write report.html of finished runs that were compared."""
    from sentinode.report.pages.comparison import comparison_context

    assert record.compare is not None
    return _write(folder / REPORT, "runs.html", comparison_context(comparison, record.compare))


def write_scored_comparison_page(
    folder: Path, comparison: Comparison, runs: Sequence[Run], record: EvidenceRecord
) -> Path:
    """Write report.html of finished runs that were compared on labelled patches."""
    from sentinode.report.pages.comparison import scored_comparison_context

    return _write(folder / REPORT, "scored.html", scored_comparison_context(comparison, runs, record))


def write_tables_page(folder: Path, comparison: Comparison[PredictedRun], record: EvidenceRecord) -> Path:
    """Write report.html of tables of predictions that were compared."""
    from sentinode.report.pages.comparison import tables_context

    return _write(folder / REPORT, "scored.html", tables_context(comparison, record))


def _write_page_of_given(folder: Path) -> Path:
    """From evidence.json and what it names, runs or tables; raises RunError where they are not what they were."""
    from sentinode.studies.given import on_other_patches, pair_given, reopen_given
    from sentinode.studies.study import EvidenceRecord
    from sentinode.studies.tables import pair_tables, reopen_tables

    record = read_record(folder / STUDY_EVIDENCE, EvidenceRecord)
    if record.compare is not None and record.tables:
        return write_tables_page(folder, pair_tables(reopen_tables(record.tables, folder)), record)
    if record.compare is None or not record.given:
        raise RunError("names no runs", where=folder / STUDY_EVIDENCE, remedy="Compare them again, with another --out.")
    runs, said = reopen_given(record.given, folder)
    if record.seen is None:
        return write_comparison_page(folder, pair_given(runs), record)
    return write_scored_comparison_page(folder, pair_given(on_other_patches(runs, said)), runs, record)


def write_evaluation_page(folder: Path, found: Evaluation, predictions: Predictions) -> Path:
    """Write report.html of a model that was scored on labelled patches."""
    from sentinode.report.pages.evaluation import evaluation_context

    return _write(folder / REPORT, "evaluation.html", evaluation_context(folder, found, predictions))


def write_explanation_page(folder: Path, found: Explanation) -> Path:
    """Write report.html of what a model looks at."""
    from sentinode.report.pages.explanation import explanation_context

    return _write(folder / REPORT, "explanation.html", explanation_context(folder, found))


def write_slides_page(folder: Path) -> Path:
    """Write report.html of slides that were judged; raises RunError where their record is not there."""
    from sentinode.report.pages.slides import slides_context
    from sentinode.slides.cohort import COHORT_RECORD, CohortRecord

    return _write(
        folder / REPORT, "slides.html", slides_context(folder, read_record(folder / COHORT_RECORD, CohortRecord))
    )


def write_check_page(folder: Path) -> Path:
    """Write check.html of the check.json, and the explore.json if any, in a folder; raises RunError."""
    from sentinode.audit.check import CHECK, CheckRecord
    from sentinode.audit.explore import EXPLORED, Explored
    from sentinode.report.pages.check import check_context

    check = read_record(folder / CHECK, CheckRecord)
    explored = read_record(folder / EXPLORED, Explored) if (folder / EXPLORED).is_file() else None
    return _write(folder / CHECK_PAGE, "check.html", check_context(folder, check, explored))


@cache
def _templates() -> Environment:
    """Kept, for compiling the templates takes longer than filling them in."""
    return Environment(
        loader=PackageLoader("sentinode.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _write(path: Path, template: str, context: dict[str, Any]) -> Path:
    keep_tables(context)
    css = resources.files("sentinode.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    page = (
        _templates()
        .get_template(template)
        .render(
            context,
            css=Markup(css),
            note_in_css=_css_string(context["note"]),
            negative=NEGATIVE,
            positive=POSITIVE,
            version=sentinode.__version__,
        )
    )
    with claim_file(path, of_finished=True):
        write_text(path, page)
    return path


def _css_string(text: str) -> Markup:
    """A quoted CSS string in which no character can end the string or the style element."""
    return Markup('"' + "".join(c if c.isalnum() or c in " .,:-" else f"\\{ord(c):x} " for c in text) + '"')
