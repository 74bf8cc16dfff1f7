"""A finished study, read back from its folder: what a report is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinode.config import StudyConfig
from sentinode.experiments.comparison import Comparison, Variant
from sentinode.experiments.decision import Decision, open_decision
from sentinode.experiments.evidence import Evidence
from sentinode.experiments.record import (
    ANY_RECORD,
    STUDY_CONFIG,
    STUDY_ERRORS,
    STUDY_EVIDENCE,
    Question,
    StudyRecord,
    VariantRecord,
    record_errors,
)
from sentinode.experiments.run import Run
from sentinode.files import read_record
from sentinode.settings import read_toml


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
        record = StudyRecord.read(folder)
        with record_errors(folder):
            check = read_record(folder / "check.json", ANY_RECORD)
            explore = read_record(folder / "explore.json", ANY_RECORD)
            weighed: dict[Any, Any] = read_record(folder / STUDY_EVIDENCE, ANY_RECORD)
            evidence = {question: Evidence.from_json(found) for question, found in weighed.items()}
            errors = read_record(folder / STUDY_ERRORS, ANY_RECORD)
        config = read_toml(folder / STUDY_CONFIG, StudyConfig)
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
