"""The study folder: what a study wrote down, and how a report reads it back.

study.toml        every setting
identity.json     digest of the data, and which questions were asked
check.json        the audit; check.html is its page
explore.json      colours by class and by slide
split.csv         id, label, side
runs/             a folder for each run
tune/             Optuna's journal
pictures/         <id>.png of patches that a page shows
evidence.json     intervals and verdicts
study.json        the record below, written when all runs are done
submission.csv, predictions-test.csv, report.html
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sentinode.config import Scalar, StudyConfig, parse_toml
from sentinode.data.artefacts import write_json
from sentinode.errors import RunError
from sentinode.experiments.compare import Comparison, Variant
from sentinode.experiments.evidence import Evidence
from sentinode.experiments.run import Run

STUDY_CONFIG: Final = "study.toml"
STUDY_RECORD: Final = "study.json"
STUDY_IDENTITY: Final = "identity.json"
STUDY_EVIDENCE: Final = "evidence.json"


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
    compared: list[VariantRecord]
    tuned: list[VariantRecord]
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
    comparison: Comparison | None
    tuning: Comparison | None
    check: dict[str, Any]
    explore: dict[str, Any]
    evidence: dict[str, Evidence]
    """Intervals and verdicts by question: "compare", "tune"."""

    @property
    def chosen(self) -> Variant:
        variants = [variant for asked in (self.comparison, self.tuning) if asked for variant in asked.variants]
        return next(variant for variant in variants if variant.name == self.record.chosen)

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
            for key in ("compared", "tuned"):
                fields[key] = [VariantRecord(**entry) for entry in fields[key]]
            record = StudyRecord(**fields)
            check = json.loads((folder / "check.json").read_text(encoding="utf-8"))
            explore = json.loads((folder / "explore.json").read_text(encoding="utf-8"))
            weighed = json.loads((folder / STUDY_EVIDENCE).read_text(encoding="utf-8"))
            evidence = {question: Evidence.from_json(found) for question, found in weighed.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"holds a damaged record ({error})", where=folder, remedy="Run the study again.") from error
        config = parse_toml(
            (folder / STUDY_CONFIG).read_text(encoding="utf-8"), StudyConfig, where=folder / STUDY_CONFIG
        )
        opened: dict[str, Run] = {}

        def variants(records: list[VariantRecord]) -> tuple[Variant, ...]:
            for name in (name for entry in records for name in entry.runs):
                if name not in opened:
                    opened[name] = Run.open(folder / "runs" / name)
            return tuple(
                Variant(entry.name, entry.settings, tuple(opened[name] for name in entry.runs)) for entry in records
            )

        compared, tuned = variants(record.compared), variants(record.tuned)
        return cls(
            folder=folder,
            config=config,
            record=record,
            comparison=Comparison(compared) if compared else None,
            tuning=Comparison(tuned) if tuned else None,
            check=check,
            explore=explore,
            evidence=evidence,
        )
