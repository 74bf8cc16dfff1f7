"""A finished study, read back from its folder: what a report is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sentinode.audit.check import CHECK, CheckRecord
from sentinode.audit.explore import EXPLORED, Explored
from sentinode.config.study import StudyConfig
from sentinode.records import read_record
from sentinode.runs.decision import Decision, open_decision
from sentinode.runs.evaluate import SeenBefore
from sentinode.runs.run import Run
from sentinode.runs.study_record import (
    STUDY_CONFIG,
    STUDY_ERRORS,
    STUDY_EVIDENCE,
    StudyQuestion,
    StudyRecord,
    VariantRecord,
)
from sentinode.runs.variant import Variant
from sentinode.settings import read_toml
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import Evidence
from sentinode.studies.given import GivenRun
from sentinode.studies.review_record import Review
from sentinode.studies.tables import GivenTable


@dataclass(frozen=True)
class EvidenceRecord:
    """evidence.json: of each question that was asked; what was compared, of runs or tables that were given.

    labels, note, seen: of labelled patches, where these were compared on such: who labelled them, what they are, and
    how many the runs know.
    """

    compare: Evidence | None = None
    tune: Evidence | None = None
    leak: Evidence | None = None
    given: tuple[GivenRun, ...] = ()
    labels: str | None = None
    note: str = ""
    seen: SeenBefore | None = None
    tables: tuple[GivenTable, ...] = ()
    slides_unknown: int = 0
    """Of tables: how many patches count as one slide, for nothing tells theirs."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError("answers no question")

    @property
    def questions(self) -> dict[StudyQuestion, Evidence]:
        asked: dict[StudyQuestion, Evidence | None] = {"compare": self.compare, "tune": self.tune, "leak": self.leak}
        return {question: found for question, found in asked.items() if found}


@dataclass(frozen=True, eq=False)
class FinishedStudy:
    """A finished study, read from its folder."""

    folder: Path
    config: StudyConfig
    record: StudyRecord
    comparisons: dict[StudyQuestion, Comparison]
    check: CheckRecord
    explore: Explored
    evidence: dict[StudyQuestion, Evidence]
    decision: Decision
    """Calibration and operating points for the mean of the chosen variant's runs."""
    errors: Review
    """Of the chosen variant's errors."""

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
    def open(cls, folder: Path, opened: Mapping[str, Run] | None = None) -> Self:
        """Read a study; raises RunError where it is unfinished or one of its runs is not sound.

        `opened` are those of its runs, by name, that are open already and need not be checked again.
        """
        record = StudyRecord.read(folder)
        weighed = read_record(folder / STUDY_EVIDENCE, EvidenceRecord)
        config = read_toml(folder / STUDY_CONFIG, StudyConfig)
        runs = dict(opened or {})

        def variant(entry: VariantRecord) -> Variant:
            for name in entry.runs:
                if name not in runs:
                    runs[name] = Run.open(folder / "runs" / name)
            return Variant(entry.name, entry.settings, tuple(runs[name] for name in entry.runs))

        return cls(
            folder=folder,
            config=config,
            record=record,
            comparisons={
                question: Comparison(tuple(variant(entry) for entry in entries))
                for question, entries in record.asked.items()
            },
            check=read_record(folder / CHECK, CheckRecord),
            explore=read_record(folder / EXPLORED, Explored),
            evidence=weighed.questions,
            decision=open_decision(folder),
            errors=read_record(folder / STUDY_ERRORS, Review),
        )
