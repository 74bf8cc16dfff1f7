"""A data folder -> checked, packed material for runs: what every experiment starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentinode.audit.check import Check, check_folder
from sentinode.config import DataConfig, RunConfig
from sentinode.data.folder import LeftOut, open_folder, pack_folder, require_readable
from sentinode.data.patches import PatchSet
from sentinode.runs.material import Material, Unlabelled
from sentinode.runs.session import Session
from sentinode.splits.split import unite_groups


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
    dropped = _to_drop_of_training(check, config.data)
    for option, rows in dropped.items():
        left_out.append(LeftOut(option, int(rows.sum()), f"{option} patches were left out of training"))
    eligible = ~np.any([np.zeros(len(packed.training), dtype=bool), *dropped.values()], axis=0)
    unlabelled = None
    if packed.test is not None:
        usable = ~_to_drop_of_test(check, config.data)
        unlabelled = Unlabelled(
            packed.everything,
            len(packed.training),
            usable,
            check.audit.groups,
            check.audit.rows.pixel_digests[len(packed.training) :],
        )
    material = Material(
        packed.training,
        groups,
        patients_known=folder.groups_are_patients and bool(np.all(packed.training.groups != "")),
        eligible=eligible,
        unlabelled=unlabelled,
        pixel_digests=check.audit.rows.pixel_digests[: len(packed.training)],
        notices=_contradictions(check) if "duplicate" in config.data.leave_out else (),
        note=folder.note,
        origin=check.origin,
        cache_root=session.cache_root,
        progress=session.progress,
    )
    return Gathered(check, material, packed.test, folder.sample_ids, tuple(left_out))


def _to_drop_of_training(check: Check, config: DataConfig) -> dict[str, np.ndarray]:
    """Which rows of the training part each option leaves out, as the check found them.

    Of patches that equal each other one stays, whatever stands in the test part: the first that has a label.
    """
    count, labels = len(check.packed.training), check.packed.training.labels
    first_copies, blank = check.audit.rows.first_copies[:count], check.audit.rows.blank[:count]
    dropped: dict[str, np.ndarray] = {}
    if "blank" in config.leave_out:
        dropped["blank"] = blank
    if "duplicate" in config.leave_out:
        labelled_first = np.lexsort((labels < 0, first_copies))
        _, kept = np.unique(first_copies[labelled_first], return_index=True)
        dropped["duplicate"] = ~np.isin(np.arange(count), labelled_first[kept])
    return dropped


def _to_drop_of_test(check: Check, config: DataConfig) -> np.ndarray:
    """Which rows of the test part the options leave out: duplicates are those that equal any earlier patch."""
    rows, first = check.audit.rows, len(check.packed.training)
    copied = rows.first_copies < np.arange(len(rows.first_copies))
    dropped = (rows.blank & ("blank" in config.leave_out)) | (copied & ("duplicate" in config.leave_out))
    return np.asarray(dropped[first:])


def _contradictions(check: Check) -> tuple[str, ...]:
    """What is to be said where copies that are left out have another label than the one that stays."""
    training = check.packed.training
    copies = check.audit.rows.first_copies[: len(training)]
    negative, positive = (set(copies[training.labels == label].tolist()) for label in (0, 1))
    count = len(negative & positive)
    if not count:
        return ()
    sets = "set of duplicates has" if count == 1 else "sets of duplicates have"
    return (f"{count:,} {sets} both labels: the first labelled copy stays, with its own label",)
