"""The whole check of a data folder: tables, files and pixels, as one record for check.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from sentinode.audit.audit import Audit, AuditRecord, audit_patches
from sentinode.audit.explore import brightness_auc
from sentinode.config.run import Omission
from sentinode.data.cache import Unreadable
from sentinode.data.folder import PackedFolder
from sentinode.data.listing import DataFolder, Finding, FolderKind, Origin
from sentinode.session import Session

# Of the competition: patches by part, and the share of ids that need not be the SHA-1 of the pixels.
_MOST_PATCHES: Final = {"training": 220_025, "test": 57_458}
_STRANGE_IDS: Final = 0.01
CHECK: Final = "check.json"


Severity = Literal["error", "warning", "note"]
"""Fix it before training; it can make a score too good or too low; worth knowing."""
_KEPT_TOGETHER: Final = "the default split keeps them in one set"


def _leave_out(kind: Omission) -> str:
    return f"--set \"data.leave_out=['{kind}']\""  # quoted for any shell


_ADVICE: Final[dict[str, tuple[Severity, str]]] = {
    "patches": ("note", ""),
    "labelled negative": ("note", ""),
    "labelled positive": ("note", ""),
    "without a label": ("note", "nothing: they are not used for training"),
    "slides": ("note", "nothing: a split by slide keeps each in one set"),
    "patients": ("note", "nothing: a split keeps each in one set"),
    "identical duplicates": ("warning", f"keep one of each: {_leave_out('duplicate')}"),
    "rotated or flipped duplicates": ("note", f"nothing: {_KEPT_TOGETHER}"),
    "duplicates with another label": ("error", "look at the pairs and correct the wrong label"),
    "overlapping patches": ("note", f"nothing: {_KEPT_TOGETHER}"),
    "groups that share tissue": ("note", "do not split at random: --group-by auto"),
    "near-white patches": ("warning", f"leave them out: {_leave_out('blank')}"),
    "near-black patches": ("warning", f"leave them out: {_leave_out('blank')}"),
    "flat patches": ("warning", f"leave them out: {_leave_out('blank')}"),
    "ids that do not match the pixels' SHA-1": ("note", "nothing, if the patches come from another source"),
    "groups across training and test": ("warning", "do not trust scores on the test part"),
    "unusable images": ("error", f"replace them, or {_leave_out('unreadable')}"),
}
_NO_SLIDES: Final[tuple[Severity, str]] = (
    "warning",
    "give a table of slides, so that a split can keep them apart: --slides FILE.csv",
)
_OF_FINDINGS: Final[dict[str, tuple[Severity, str]]] = {
    "missing": ("error", f"complete the folder, or {_leave_out('missing')}"),
    "unlabelled": ("error", f"complete the table of labels, or {_leave_out('unlabelled')}"),
    "label": ("error", "correct the table of labels: 0 or 1"),
    "duplicate row": ("error", "remove the row from the table"),
    "extra file": ("note", "nothing: the files are not read"),
    "sample": ("warning", "compare the sample submission with the test part"),
    "table": ("warning", "check that the table belongs to these patches"),
}
"""By what a finding about tables and files is of."""


@dataclass(frozen=True)
class Counted:
    """What was counted, how often, and what it means; how grave it is, and what to do about it. "" where nothing is."""

    what: str
    count: int
    note: str
    severity: Severity | Literal[""]
    next_step: str


@dataclass(frozen=True)
class CheckRecord:
    """check.json: what of a `Check` is kept, and its page drawn from."""

    kind: FolderKind
    origin: Origin
    note: str
    parts: dict[str, int]
    """Patches of the training part and of the test part."""
    table: tuple[Counted, ...]
    brightness_auc: float | None
    findings: tuple[Finding, ...]
    unreadable: tuple[Unreadable, ...]
    audit: AuditRecord


@dataclass(frozen=True, eq=False)
class Check:
    """What is wrong, or worth knowing, in a data folder; nothing has been dropped or changed."""

    folder: DataFolder
    packed: PackedFolder
    audit: Audit
    brightness_auc: float | None = None
    """What the mean brightness of a labelled training patch alone scores: a number to beat."""

    @property
    def origin(self) -> Origin:
        """Whose patches these are. The competition's are known by their ids, the SHA-1 of their pixels, and number."""
        if self.folder.note:
            return "phantom"
        if self.folder.kind == "PatchCamelyon":
            return "PatchCamelyon"
        parts = self._parts()
        fits = all(count <= _MOST_PATCHES[part] for part, count in parts.items())
        own = len(self.audit.id_mismatches) <= _STRANGE_IDS * sum(parts.values())
        return "competition" if fits and own else "other"

    def _parts(self) -> dict[str, int]:
        test = self.packed.test
        return {"training": len(self.packed.training), "test": 0 if test is None else len(test)}

    def groups(self) -> np.ndarray:
        """For each training patch, the group of patches it shares tissue with; "" for none."""
        groups = self.audit.rows.groups[: len(self.packed.training)]
        return np.where(groups < 0, "", groups.astype(str))

    def across_parts(self) -> int:
        """Groups of patches that share tissue and lie in both parts: the test part has been seen."""
        training, test = np.split(self.audit.rows.groups, [len(self.packed.training)])
        return len(np.intersect1d(training[training >= 0], test))

    def table(self) -> list[Counted]:
        """Everything that was counted, with what it means and what to do."""
        rows = [(what, count, note if count else "") for what, count, note in self.audit.table()]
        if self.folder.groups_are_patients:
            rows.append(("patients", len(set(self.packed.everything.groups.tolist()) - {""}), ""))
        if self.packed.test is not None:
            note = "the test part shows tissue of the training part" if self.across_parts() else ""
            rows.append(("groups across training and test", self.across_parts(), note))
        unreadable = self.packed.unreadable
        rows.append(("unusable images", len(unreadable), unreadable[0].reason if unreadable else ""))
        counted = [Counted(*row, *self._advice(row[0], row[1])) for row in rows]
        for finding in self.folder.findings:
            first = f"first: {finding.examples[0]}" if finding.examples else ""
            counted.append(Counted(finding.what, finding.count, first, *_OF_FINDINGS[finding.kind]))
        return counted

    def _advice(self, what: str, count: int) -> tuple[Severity | Literal[""], str]:
        """How grave so many of these are, and what to do; slides are missed where a patch names none."""
        if what == "slides" and bool((self.packed.everything.slides == "").any()):
            return _NO_SLIDES
        return _ADVICE[what] if count else ("", "")

    def ids_to_show(self, count: int = 12) -> list[str]:
        """The first few patches of each kind that the check found, for its example grids."""
        audit = self.audit
        ids = [i for members in audit.blanks.values() for i in members[:count]]
        ids += [i for pair in audit.duplicates[: count // 2] for i in (pair.a, pair.b)]
        ids += [i for pair in audit.overlaps[: count // 2] for i in (pair.a, pair.b)]
        return list(dict.fromkeys(ids))

    def record(self) -> CheckRecord:
        return CheckRecord(
            self.folder.kind,
            self.origin,
            self.folder.note,
            self._parts(),
            tuple(self.table()),
            self.brightness_auc,
            self.folder.findings,
            tuple(self.packed.unreadable),
            self.audit.record(),
        )


def check_folder(folder: DataFolder, packed: PackedFolder, session: Session) -> Check:
    """Audit both parts together, so that tissue in both training and test part is found."""
    return Check(folder, packed, audit_patches(packed.everything, session), brightness_auc(packed.training))
