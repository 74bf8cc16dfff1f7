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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from sentinode.artefacts import STUDY_BEGUN, STUDY_SEAL
from sentinode.config.run import Value
from sentinode.data.listing import Origin, TableHead
from sentinode.errors import RunError
from sentinode.models.own import NONE, Recipes
from sentinode.records import plain, read_record, write_record
from sentinode.runs.decision import DECISION
from sentinode.runs.run import MANIFEST, Run, digest_of
from sentinode.runs.variant import Variant
from sentinode.settings import is_folder_name

STUDY_CONFIG: Final = STUDY_BEGUN
STUDY_RECORD: Final = STUDY_SEAL
STUDY_IDENTITY: Final = "identity.json"
STUDY_EVIDENCE: Final = "evidence.json"
STUDY_ERRORS: Final = "errors.json"

_SEALED: Final = (STUDY_CONFIG, STUDY_IDENTITY, "check.json", "explore.json", STUDY_EVIDENCE, DECISION, STUDY_ERRORS)
STUDY_EXPLANATION: Final = Path("explanation") / "explanation.json"
"""What the chosen variant looks at; a study of backbones or of few patches has none."""

StudyQuestion = Literal["compare", "tune", "leak"]


@dataclass(frozen=True)
class StudyIdentity:
    """identity.json: digests of what a study is of, by name, and what was asked; both must be equal to go on."""

    data: dict[str, str]
    questions: list[StudyQuestion]
    metrics: list[str]
    """Names of the user's own."""


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
    asked: dict[StudyQuestion, list[VariantRecord]]
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

    sha256: dict[str, str] = field(default_factory=dict)
    """Of the study's other records, and of the manifests of its runs."""
    record_sha256: str = ""
    """Of all that stands above."""

    def write(self, folder: Path) -> None:
        """Save the record, and seal with it the study's other records and its runs."""
        runs = sorted({run for asked in self.asked.values() for variant in asked for run in variant.runs})
        explained = [STUDY_EXPLANATION.as_posix()] if (folder / STUDY_EXPLANATION).is_file() else []
        names = [*_SEALED, *explained, *(f"runs/{name}/{MANIFEST}" for name in runs)]
        sealed = replace(self, sha256={name: digest_of(folder / name) for name in names})
        write_record(folder / STUDY_RECORD, replace(sealed, record_sha256=_digest(sealed)))

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
        record = read_record(folder / STUDY_RECORD, cls)
        if record.record_sha256 != _digest(replace(record, record_sha256="")):
            raise _changed(folder / STUDY_RECORD)
        sealed = record.sha256
        explained = [STUDY_EXPLANATION.as_posix()] if STUDY_EXPLANATION.as_posix() in sealed else []
        for name in [*_SEALED, *explained]:
            if not (sealed.get(name) and sealed[name] == digest_of(folder / name)):
                raise _changed(folder / name)
        for name in {run for asked in record.asked.values() for variant in asked for run in variant.runs}:
            seal = f"runs/{name}/{MANIFEST}"
            if not (is_folder_name(name) and sealed.get(seal) and sealed[seal] == digest_of(folder / seal)):
                raise _changed(folder / "runs" / name)
        return record


def _digest(record: StudyRecord) -> str:
    return hashlib.sha256(json.dumps(plain(record), sort_keys=True).encode()).hexdigest()


def _changed(path: Path) -> RunError:
    return RunError(
        "has changed since the study was finished", where=path, remedy="Restore it, or run the study again."
    )


def open_chosen(folder: Path, own: Recipes = NONE) -> Variant:
    """The variant that a finished study chose, with its runs; neither the other runs nor the evidence are read."""
    record = StudyRecord.read(folder)
    entry = next((each for asked in record.asked.values() for each in asked if each.name == record.chosen), None)
    if entry is None:
        raise RunError(f"has no variant {record.chosen!r}", where=folder / STUDY_RECORD, remedy="Run the study again.")
    return Variant(entry.name, entry.settings, tuple(Run.open(folder / "runs" / name, own) for name in entry.runs))
