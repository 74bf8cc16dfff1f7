"""The study folder: what a study wrote down, and how a report reads it back.

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

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sentinode.config import Scalar, StudyConfig
from sentinode.data.artefacts import write_json
from sentinode.errors import RunError
from sentinode.experiments.comparison import Comparison, Variant
from sentinode.experiments.decision import Decision, open_decision
from sentinode.experiments.evidence import Evidence
from sentinode.experiments.run import Run
from sentinode.settings import parse_toml

STUDY_CONFIG: Final = "study.toml"
STUDY_RECORD: Final = "study.json"
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
    settings: dict[str, Scalar]
    runs: list[str]

    @classmethod
    def of(cls, variant: Variant) -> VariantRecord:
        return cls(variant.name, dict(variant.settings), [run.name for run in variant.runs])


@dataclass(frozen=True)
class StudyRecord:
    """The facts of a finished study that its runs do not hold themselves."""

    note: str
    data_kind: str
    preset: str
    patches: dict[str, int]
    """Patches by part: training, test."""
    classes: dict[str, ClassCounts]
    """By stage: all, balanced, sampled, training, validation."""
    slides_known: bool
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

    def write(self, folder: Path) -> None:
        write_json(folder / STUDY_RECORD, asdict(self))


@dataclass(frozen=True, eq=False)
class Study:
    """A finished study, read from its folder."""

    folder: Path
    config: StudyConfig
    record: StudyRecord
    comparisons: dict[Question, Comparison]
    check: dict[str, Any]
    explore: dict[str, Any]
    evidence: dict[Question, Evidence]
    decision: Decision
    """Calibration and operating points for the mean of the chosen variant's runs."""
    errors: dict[str, Any]
    """The review of the chosen variant's errors, as `explain` wrote it."""

    @property
    def comparison(self) -> Comparison | None:
        return self.comparisons.get("compare")

    @property
    def tuning(self) -> Comparison | None:
        return self.comparisons.get("tune")

    @property
    def leak(self) -> Comparison | None:
        return self.comparisons.get("leak")

    @property
    def variants(self) -> list[Variant]:
        """Of all questions; one that was asked about twice stands here twice."""
        return [variant for asked in self.comparisons.values() for variant in asked.variants]

    @property
    def chosen(self) -> Variant:
        return next(variant for variant in self.variants if variant.name == self.record.chosen)

    @classmethod
    def open(cls, folder: Path) -> Study:
        """Read a study; raises RunError where it is unfinished or one of its runs is not sound."""
        if not (folder / STUDY_RECORD).is_file():
            unfinished = (folder / STUDY_CONFIG).is_file()
            raise RunError(
                "is an unfinished study" if unfinished else "is no study: it has no study.json",
                where=folder,
                remedy="Finish it with --resume." if unfinished else "Give a folder that `study` wrote.",
            )
        try:
            fields = json.loads((folder / STUDY_RECORD).read_text(encoding="utf-8"))
            fields["classes"] = {stage: ClassCounts(**counts) for stage, counts in fields["classes"].items()}
            fields["asked"] = {
                question: [VariantRecord(**entry) for entry in entries] for question, entries in fields["asked"].items()
            }
            record = StudyRecord(**fields)
            check = json.loads((folder / "check.json").read_text(encoding="utf-8"))
            explore = json.loads((folder / "explore.json").read_text(encoding="utf-8"))
            weighed = json.loads((folder / STUDY_EVIDENCE).read_text(encoding="utf-8"))
            evidence = {question: Evidence.from_json(found) for question, found in weighed.items()}
            errors = json.loads((folder / STUDY_ERRORS).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"holds a damaged record ({error})", where=folder, remedy="Run the study again.") from error
        config = parse_toml(
            (folder / STUDY_CONFIG).read_text(encoding="utf-8"), StudyConfig, where=folder / STUDY_CONFIG
        )
        opened: dict[str, Run] = {}

        def variant(entry: VariantRecord) -> Variant:
            for name in entry.runs:
                if name not in opened:
                    opened[name] = Run.open(folder / "runs" / name)
            return Variant(entry.name, entry.settings, tuple(opened[name] for name in entry.runs))

        return cls(
            folder=folder,
            config=config,
            record=record,
            comparisons={
                question: Comparison(tuple(variant(entry) for entry in entries))
                for question, entries in record.asked.items()
            },
            check=check,
            explore=explore,
            evidence=evidence,
            decision=open_decision(folder),
            errors=errors,
        )
