"""The whole check of a data folder: tables, files and pixels, as one record for check.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from sentinode.data.audit import Audit, audit_patches
from sentinode.data.ingest import PackedFolder
from sentinode.data.listing import DataFolder, Origin
from sentinode.progress import Progress, silent

# Of the competition: patches by part, and the share of ids that need not be the SHA-1 of the pixels.
_MOST_PATCHES: Final = {"training": 220_025, "test": 57_458}
_STRANGE_IDS: Final = 0.01


@dataclass(frozen=True, eq=False)
class Check:
    """What is wrong, or worth knowing, in a data folder; nothing has been dropped or changed."""

    folder: DataFolder
    packed: PackedFolder
    audit: Audit

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

    def table(self) -> list[tuple[str, int, str]]:
        """What was counted, how often, and what it means."""
        rows = [(what, count, note if count else "") for what, count, note in self.audit.table()]
        if self.packed.test is not None:
            note = "the test part shows tissue of the training part" if self.across_parts() else ""
            rows.append(("groups across training and test", self.across_parts(), note))
        unreadable = self.packed.unreadable
        rows.append(("unusable images", len(unreadable), unreadable[0].reason if unreadable else ""))
        for finding in self.folder.findings:
            first = f"first: {finding.examples[0]}" if finding.examples else ""
            rows.append((finding.what, finding.count, first))
        return rows

    def ids_to_show(self, count: int = 12) -> list[str]:
        """The first few patches of each kind that the check found, for its example grids."""
        audit = self.audit
        ids = [i for members in audit.blanks.values() for i in members[:count]]
        ids += [i for pair in audit.duplicates[: count // 2] for i in (pair.a, pair.b)]
        ids += [i for pair in audit.overlaps[: count // 2] for i in (pair.a, pair.b)]
        return list(dict.fromkeys(ids))

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.folder.kind,
            "origin": self.origin,
            "note": self.folder.note,
            "parts": self._parts(),
            "table": [{"what": what, "count": count, "note": note} for what, count, note in self.table()],
            "findings": [asdict(finding) for finding in self.folder.findings],
            "unreadable": [asdict(entry) for entry in self.packed.unreadable],
            "audit": self.audit.to_json(),
        }


def check_folder(folder: DataFolder, packed: PackedFolder, *, workers: int = 2, progress: Progress = silent) -> Check:
    """Audit both parts together, so that tissue on both sides of training and test is found."""
    everything = packed.everything
    audit = audit_patches(
        everything.ids, everything.labels, everything.slides, everything.pixels, workers=workers, on_progress=progress
    )
    return Check(folder, packed, audit)
