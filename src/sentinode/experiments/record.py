"""The study folder: what lies in it, and the record of what its runs do not hold.

study.toml        every setting
identity.json     digest of the data, and which questions were asked
check.json        the audit; check.html is its page
explore.json      colours by class and by slide
split.csv         id, label, side, cluster
runs/             a folder for each run
tune/             Optuna's journal
pictures/         <id>.png of patches that a page shows
evidence.json     intervals, curves with bands, and verdicts, by question
decision.json     calibration and operating points of the chosen variant
errors.json       its mistakes, disagreements and suspects, and its scores by subgroup
study.json        the record below, written when all runs are done
submission.csv, predictions-test.csv, report.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from sentinode.config import Value
from sentinode.data.artefacts import STUDY_BEGUN, STUDY_SEAL, write_json
from sentinode.data.listing import Origin
from sentinode.data.schema import TableHead
from sentinode.errors import RunError
from sentinode.experiments.comparison import Variant
from sentinode.experiments.run import Run

STUDY_CONFIG: Final = STUDY_BEGUN
STUDY_RECORD: Final = STUDY_SEAL
STUDY_IDENTITY: Final = "identity.json"
STUDY_EVIDENCE: Final = "evidence.json"
STUDY_ERRORS: Final = "errors.json"

Question = Literal["compare", "tune", "leak"]


@dataclass(frozen=True)
class ClassCounts:
    negative: int
    positive: int


@dataclass(frozen=True)
class VariantRecord:
    name: str
    settings: dict[str, Value]
    runs: list[str]

    @classmethod
    def of(cls, variant: Variant) -> VariantRecord:
        return cls(variant.name, dict(variant.settings), [run.name for run in variant.runs])


@dataclass(frozen=True)
class InputRange:
    """The lowest and the highest value, in [0, 1], that a network is given of a patch."""

    id: str
    lowest: float
    highest: float


@dataclass(frozen=True)
class StudyRecord:
    """The facts of a finished study that its runs do not hold themselves."""

    note: str
    data_kind: str
    origin: Origin
    """Whose patches they are."""
    preset: str
    patches: dict[str, int]
    """Patches by part: training, test."""
    classes: dict[str, ClassCounts]
    """By stage: all, balanced, sampled, training, validation."""
    split_basis: str
    split_in_words: str
    left_out: dict[str, int]
    notices: list[str]
    asked: dict[Question, list[VariantRecord]]
    """The variants and their runs by question."""
    tune_pruned: int
    chosen: str
    """The variant that the submission was made with: the highest validation mean, not a verdict."""
    submission_rows: int
    examples: dict[str, list[str]]
    """Ids of example patches by class: negative, positive."""
    tables: list[TableHead]
    """Heads of the competition's two tables, where the folder has them."""
    inputs: list[InputRange]
    """Of the first examples: what a network is given of them."""

    def write(self, folder: Path) -> None:
        write_json(folder / STUDY_RECORD, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> StudyRecord:
        """The record of a finished study; raises RunError where it is unfinished or its record damaged."""
        if not (folder / STUDY_RECORD).is_file():
            unfinished = (folder / STUDY_CONFIG).is_file()
            raise RunError(
                "is an unfinished study" if unfinished else "is no study: it has no study.json",
                where=folder,
                remedy="Finish it with --resume." if unfinished else "Give a folder that `study` wrote.",
            )
        with record_errors(folder):
            return TypeAdapter(cls).validate_json((folder / STUDY_RECORD).read_bytes())


@contextmanager
def record_errors(folder: Path) -> Iterator[None]:
    """Raise RunError where one of a study's files is missing or is not what was written."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{_place(error)}{error.errors()[0]['msg']}" if isinstance(error, ValidationError) else error
        raise RunError(f"holds a damaged record ({what})", where=folder, remedy="Run the study again.") from error


def _place(error: ValidationError) -> str:
    """Where in the record the first thing is that does not fit."""
    place = ".".join(map(str, error.errors()[0]["loc"]))
    return f"{place}: " if place else ""


def open_chosen(folder: Path) -> Variant:
    """The variant that a finished study chose, with its runs; neither the other runs nor the evidence are read."""
    record = StudyRecord.read(folder)
    entry = next((each for asked in record.asked.values() for each in asked if each.name == record.chosen), None)
    if entry is None:
        raise RunError(f"has no variant {record.chosen!r}", where=folder / STUDY_RECORD, remedy="Run the study again.")
    return Variant(entry.name, entry.settings, tuple(Run.open(folder / "runs" / name) for name in entry.runs))
