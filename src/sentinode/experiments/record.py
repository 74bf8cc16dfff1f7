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
study.json        the record below, written when all runs are done, with the SHA-256 of the other records and the runs
submission.csv, predictions-test.csv, report.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from sentinode.config import Value
from sentinode.data.artefacts import STUDY_BEGUN, STUDY_SEAL, null_for_nan, write_json
from sentinode.data.listing import Origin
from sentinode.data.schema import TableHead
from sentinode.errors import RunError
from sentinode.experiments.comparison import Variant
from sentinode.experiments.decision import DECISION
from sentinode.experiments.run import MANIFEST, Run, digest_of
from sentinode.files import read_record
from sentinode.models.own import NONE, Recipes
from sentinode.settings import is_folder_name

STUDY_CONFIG: Final = STUDY_BEGUN
STUDY_RECORD: Final = STUDY_SEAL
STUDY_IDENTITY: Final = "identity.json"
STUDY_EVIDENCE: Final = "evidence.json"
STUDY_ERRORS: Final = "errors.json"

_SEALED: Final = (STUDY_CONFIG, STUDY_IDENTITY, "check.json", "explore.json", STUDY_EVIDENCE, DECISION, STUDY_ERRORS)
ANY_RECORD: Final = TypeAdapter(dict[str, Any])
_OWN_DIGEST: Final = "record_sha256"

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
        """Save the record, and seal with it the study's other records and its runs."""
        runs = sorted({run for asked in self.asked.values() for variant in asked for run in variant.runs})
        names = [*_SEALED, *(f"runs/{name}/{MANIFEST}" for name in runs)]
        content = {**asdict(self), "sha256": {name: digest_of(folder / name) for name in names}}
        write_json(folder / STUDY_RECORD, {**content, _OWN_DIGEST: _digest_of_record(content)})

    @classmethod
    def read(cls, folder: Path) -> StudyRecord:
        """The record of a finished study; raises RunError where it is unfinished or its record damaged."""
        if not (folder / STUDY_RECORD).is_file():
            unfinished = (folder / STUDY_CONFIG).is_file()
            raise RunError(
                "is an unfinished study" if unfinished else "is not a study: it has no study.json",
                where=folder,
                remedy="Finish it with --resume." if unfinished else "Give a folder that `study` wrote.",
            )
        with record_errors(folder):
            content = read_record(folder / STUDY_RECORD, ANY_RECORD)
            if content.pop(_OWN_DIGEST, None) != _digest_of_record(content):
                raise _changed(folder / STUDY_RECORD)
            sealed = TypeAdapter(dict[str, str]).validate_python(content.pop("sha256"))
            record = TypeAdapter(cls).validate_python(content)
        for name in _SEALED:
            if not (sealed.get(name) and sealed[name] == digest_of(folder / name)):
                raise _changed(folder / name)
        for name in {run for asked in record.asked.values() for variant in asked for run in variant.runs}:
            seal = f"runs/{name}/{MANIFEST}"
            if not (is_folder_name(name) and sealed.get(seal) and sealed[seal] == digest_of(folder / seal)):
                raise _changed(folder / "runs" / name)
        return record


def _digest_of_record(content: dict[str, Any]) -> str:
    text = json.dumps(null_for_nan(content), sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _changed(path: Path) -> RunError:
    return RunError(
        "has changed since the study was finished", where=path, remedy="Restore it, or run the study again."
    )


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


def open_chosen(folder: Path, own: Recipes = NONE) -> Variant:
    """The variant that a finished study chose, with its runs; neither the other runs nor the evidence are read."""
    record = StudyRecord.read(folder)
    entry = next((each for asked in record.asked.values() for each in asked if each.name == record.chosen), None)
    if entry is None:
        raise RunError(f"has no variant {record.chosen!r}", where=folder / STUDY_RECORD, remedy="Run the study again.")
    return Variant(entry.name, entry.settings, tuple(Run.open(folder / "runs" / name, own) for name in entry.runs))
