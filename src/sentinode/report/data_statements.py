"""What the records of a study say about its data, and where they fall silent, in sentences that stand alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from sentinode.config import RunConfig
from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.data.listing import Origin
from sentinode.experiments.pseudo import record_of
from sentinode.experiments.run import Run
from sentinode.experiments.study import Study
from sentinode.report.network_statements import augmentation_statement, inputs_statement

_SOURCES: Final[dict[Origin, str]] = {
    "competition": "of the competition Histopathologic Cancer Detection, as their ids say",
    "PatchCamelyon": "in the form of PatchCamelyon",
    "phantom": "painted by sentinode in the competition's layout",
    "other": "in the layout of the competition Histopathologic Cancer Detection, from another source",
}
_DISJOINT: Final = {
    "slide": "Slides: no slide has patches on both sides.",
    "patient": "Patients: no patient has patches on both sides.",
    "slide+group": "Slides where they are known; the other patches may be of a slide that is on both sides.",
    "group": "Tissue that was found to be shared; patches of one slide or patient may be on both sides.",
    "stain": "Clusters of stain and texture, which stand in for slides; a slide or patient may be on both sides.",
    "random": "Single patches only: patches of one slide or patient may be on both sides.",
    "file": "The sides come from a file; what it keeps apart is not in the records.",
}
_PLACES: Final = ("hospital", "centre", "center", "site", "institution", "laboratory", "scanner")
"""Names of attributes that tell where a patch was made."""


@dataclass(frozen=True)
class DataStatements:
    """Sentences about patches, labels and the split; what a model card and the checklists quote."""

    study: Study

    @cached_property
    def config(self) -> RunConfig:
        """The settings of the chosen variant's first run."""
        return self._first.config

    @cached_property
    def _first(self) -> Run:
        return self.study.chosen.runs[0]

    @property
    def synthetic(self) -> bool:
        """Whether the data carry the note of a phantom."""
        return bool(self.study.record.note)

    @property
    def no_people(self) -> str:
        return f"The data are synthetic, marked “{self.study.record.note}”: there are no patients, sites or observers."

    @property
    def source(self) -> str:
        record = self.study.record
        parts = ", ".join(f"{count:,} {part}" for part, count in record.patches.items())
        origin = self.no_people if self.synthetic else "Who collected them and when is not in the records."
        return f"Patches of {PATCH_SIZE_PX} × {PATCH_SIZE_PX} px {_SOURCES[record.origin]}: {parts}. {origin}"

    @property
    def people(self) -> str:
        if self.synthetic:
            return self.no_people
        if self._patients_known:
            return "The patient of each patch is known by name; the records hold nothing else about the patients."
        return "The records hold nothing about the patients behind the patches."

    @property
    def _patients_known(self) -> bool:
        return self._first.cluster_kind == "patient"

    @property
    def slides(self) -> str:
        named = many(sum(bool(slide["slide"]) for slide in self.study.check["audit"]["slides"]), "slide")
        match self._first.record.slides_known:
            case "all":
                return f"Patches are of {named} known by name."
            case "some":
                return f"A part of the patches is of {named} known by name; of the others the slide is not known."
            case "none":
                return "Which slide a patch is from is not known."

    @cached_property
    def _places(self) -> list[str]:
        """Attributes of the patches that tell where they were made, and by which scores were taken."""
        return [table["by"] for table in self.study.errors["subgroups"] if table["by"].lower() in _PLACES]

    @property
    def hospitals(self) -> str:
        """What is known of where patches were made; of a phantom there is nothing to know."""
        if self.synthetic:
            return "The data are synthetic: there are no hospitals."
        if self._places:
            return f"Where patches were made is known by {' and '.join(self._places)}; scores by it are in the report."
        return "Hospitals and scanners are not in the records."

    @property
    def factors(self) -> str:
        taken = f"scores were taken by {' and '.join(self._places)}" if self._places else "no score was taken by them"
        return f"Stain, scanner and hospital change how a patch looks; {taken}."

    @property
    def flow(self) -> str:
        stages = (
            f"{stage} {counts.negative:,} + {counts.positive:,}" for stage, counts in self.study.record.classes.items()
        )
        return f"Patches without + with tumour: {'; '.join(stages)}."

    @property
    def left_out(self) -> str:
        told = ", ".join(f"{reason} {count:,}" for reason, count in self.study.record.left_out.items() if count)
        return f"Left out: {told}." if told else "No patch was left out."

    @property
    def missing(self) -> str:
        check = self.study.check
        found = [f"{finding['what']} {finding['count']:,}" for finding in check["findings"] if finding["count"]]
        if check["unreadable"]:
            found.append(f"unusable images {len(check['unreadable']):,}")
        return f"The check found: {', '.join(found) or 'nothing missing'}. {self.left_out} Nothing is imputed."

    @property
    def quality(self) -> str:
        audit = self.study.check["audit"]
        blank = sum(map(len, audit["blanks"].values()))
        return (
            f"Every patch was checked: {many(audit['duplicates']['found'], 'duplicate')}, "
            f"{many(audit['overlaps']['found'], 'overlapping pair')} and {many(blank, 'blank patch', 'blank patches')} "
            "were found."
        )

    @property
    def outcome(self) -> str:
        return f"{label_rule(self.study.record.origin)} There is no time horizon.{self._pseudo}"

    @property
    def _pseudo(self) -> str:
        found = record_of(self._first)
        if found is None:
            return ""
        count = many(found["positive"] + found["negative"], "test patch", "test patches")
        return (
            f" In training alone, {count} ({found['positive']:,} positive) joined under labels that a network gave "
            f"them with a probability of at least {found['confidence']:g} (pseudo-labels)."
        )

    @property
    def inputs(self) -> str:
        return inputs_statement(self.study.chosen.runs)

    @property
    def augmentation(self) -> str:
        return augmentation_statement(self.study.chosen.runs)

    @property
    def balance(self) -> str:
        balance, per_class = self.config.balance, self._per_class
        done = [f"{balance.drop_negative_fraction:.0%} of the negatives dropped at random"] if balance else []
        done += [f"up to {per_class:,} patches drawn of each class"] if per_class else []
        counts = self.study.record.classes["sampled"]
        share = counts.positive / max(counts.positive + counts.negative, 1)
        return f"Against imbalance: {', '.join(done) or 'nothing'}; {share:.1%} of the patches used are positive."

    @property
    def _per_class(self) -> int | None:
        return self.config.sample.per_class if self.config.sample else None

    @property
    def balance_status(self) -> str:
        return "reported" if self.config.balance or self._per_class else "not applicable"

    @property
    def sample_size(self) -> str:
        counts = self.study.record.classes["sampled"]
        return (
            f"{counts.negative + counts.positive:,} labelled patches were used, as many as data and settings gave; no "
            "sample size was calculated."
        )

    @property
    def split(self) -> str:
        folds = self.study.config.split.folds
        crossed = f" Cross-validation over {folds} folds." if folds else ""
        return f"The split is {self.study.record.split_in_words}.{crossed}"

    @property
    def sides(self) -> str:
        if folds := self.study.config.split.folds:
            counts = self.study.record.classes["sampled"]
            total = counts.negative + counts.positive
            return f"Each of {folds} folds is validated on once: {total:,} patches ({counts.positive:,} positive)."
        training, validation = (self.study.record.classes[side] for side in ("training", "validation"))
        return (
            f"{training.negative + training.positive:,} patches to train ({training.positive:,} positive), "
            f"{validation.negative + validation.positive:,} to validate ({validation.positive:,} positive)."
        )

    @property
    def disjoint(self) -> str:
        basis = self.study.record.split_basis
        unknown = basis == "slide" and not self._patients_known
        return f"{_DISJOINT[basis]}{' Whether two slides are of one patient is not known.' if unknown else ''}"

    @property
    def disjoint_status(self) -> str:
        return "not known" if self.study.record.split_basis == "file" else "reported"

    @property
    def internal(self) -> str:
        return f"Every score is of held-out patches of the same data. {self.sides}"

    @property
    def external(self) -> str:
        rows = self.study.record.submission_rows
        predicted = f" {many(rows, 'test patch was', 'test patches were')} predicted, not scored." if rows else ""
        return f"No score is of other data.{predicted}"


def label_rule(origin: Origin) -> str:
    """What a label means; of patches from another source nobody knows."""
    if origin == "other":
        return "A patch is positive or negative by the label that came with it."
    return (
        f"A patch is positive when its centre square of {CENTRE_SIZE_PX} × {CENTRE_SIZE_PX} px holds at least one "
        "pixel of tumour, by the label that came with it; what lies outside the square does not count."
    )


def centre_square(origin: Origin) -> str:
    """What the white square on a patch is."""
    if origin == "other":
        return f"The white square marks the centre {CENTRE_SIZE_PX} × {CENTRE_SIZE_PX} pixels."
    return "The white square is the centre square, which decides the label."


def many(count: int, one: str, several: str = "") -> str:
    """Such as "1 run" and "6 runs"."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
