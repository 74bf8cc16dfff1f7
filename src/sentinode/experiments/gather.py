"""A data folder -> checked, packed material for runs: what every experiment starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentinode.config import DataConfig, RunConfig
from sentinode.data.check import Check, check_folder
from sentinode.data.ingest import LeftOut, open_folder, pack_folder, require_readable
from sentinode.data.patches import PatchSet
from sentinode.data.split import unite_groups
from sentinode.experiments.material import Material, Unlabelled
from sentinode.experiments.session import Session


@dataclass(frozen=True, eq=False)
class Gathered:
    """A data folder after its check: material of the training part, and the test part's patches."""

    check: Check
    material: Material
    test: PatchSet | None
    sample_ids: np.ndarray
    left_out: tuple[LeftOut, ...]


def gather(root: Path, config: RunConfig, session: Session) -> Gathered:
    """Open, pack and check a data folder; raises DataError on what no option leaves out."""
    folder, left_out = open_folder(root, config.data)
    packed = pack_folder(
        folder, session.cache_root, workers=session.workers, progress=session.progress, notify=session.notify
    )
    left_out += require_readable(packed, config.data)
    check = check_folder(folder, packed, workers=session.workers, progress=session.progress)
    groups = unite_groups(packed.training.groups, check.groups())
    dropped = _rows_to_drop(check, config.data, packed.training.ids)
    for option, rows in dropped.items():
        left_out.append(LeftOut(option, int(rows.sum()), f"{option} patches were left out of training"))
    eligible = ~np.any([np.zeros(len(packed.training), dtype=bool), *dropped.values()], axis=0)
    unlabelled = None
    if packed.test is not None:
        unwanted = _rows_to_drop(check, config.data, packed.test.ids).values()
        usable = ~np.any([np.zeros(len(packed.test), dtype=bool), *unwanted], axis=0)
        unlabelled = Unlabelled(
            packed.everything,
            len(packed.training),
            usable,
            check.audit.groups,
            check.audit.pixel_digests[len(packed.training) :],
        )
    material = Material(
        packed.training,
        groups,
        patients_known=folder.groups_are_patients and bool(np.all(packed.training.groups != "")),
        eligible=eligible,
        unlabelled=unlabelled,
        pixel_digests=check.audit.pixel_digests[: len(packed.training)],
        note=folder.note,
        origin=check.origin,
        cache_root=session.cache_root,
        progress=session.progress,
    )
    return Gathered(check, material, packed.test, folder.sample_ids, tuple(left_out))


def _rows_to_drop(check: Check, config: DataConfig, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Which of a part's patches the options leave out, found by the check."""
    audit = check.audit
    kinds: dict[str, list[str]] = {}
    if "blank" in config.leave_out:
        kinds["blank"] = [i for members in audit.blanks.values() for i in members]
    if "duplicate" in config.leave_out:
        kinds["duplicate"] = [pair.b for pair in audit.duplicates]
    return {option: np.isin(ids, members) for option, members in kinds.items()}
