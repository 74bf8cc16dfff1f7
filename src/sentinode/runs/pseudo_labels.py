"""Pseudo-labels (Lee 2013): which unlabelled patches join training, under the labels that a teacher gives them.

A patch joins when the teacher is sure of it, and only the training side. Who shares tissue with a validation patch
stays out, for the validation side is to be as new to the network as without pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from sentinode.config import PseudoConfig
from sentinode.errors import ConfigError, RunError
from sentinode.inference.predictions import Predictions
from sentinode.runs.environment import PseudoRecord
from sentinode.runs.material import Material, Unlabelled
from sentinode.runs.run import PSEUDO, Run, digest_of
from sentinode.splits.split import Split


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """The patches that join, with their labels and the teacher's calibrated probabilities; and how they came about."""

    joined: Predictions
    record: PseudoRecord

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.joined.ids.tolist())

    @property
    def notice(self) -> str:
        return notice_of(self.record)

    def write(self, folder: Path) -> PseudoLabels:
        """Save the patches as pseudo.csv; returns the same with the digest of that in its record."""
        self.joined.write(folder / PSEUDO)
        sealed = self.record.model_copy(update={"table_sha256": digest_of(folder / PSEUDO)})
        return replace(self, record=sealed)

    @classmethod
    def read(cls, folder: Path, record: PseudoRecord) -> PseudoLabels:
        """What was written; raises RunError where the table is missing or was changed since."""
        if digest_of(folder / PSEUDO) != record.table_sha256:
            raise RunError(
                "is not the table that the run was begun with",
                where=folder / PSEUDO,
                remedy="Restore it, or train the run anew in another folder.",
            )
        return cls(Predictions.read(folder / PSEUDO), record)


def record_of(run: Run) -> PseudoRecord | None:
    """How pseudo-labels joined the training of a run, or of its members, the first that has any; None without."""
    return next((found for each in (run, *run.members) if (found := each.pseudo_labels)), None)


def notice_of(record: PseudoRecord) -> str:
    """What a reader of the run's scores has to know."""
    positive, negative = record.positive, record.negative
    return (
        f"training saw the pixels of {positive + negative:,} unlabelled test patches, under labels that "
        f"“{Path(record.teacher).name}” gave them ({positive:,} positive): scores on these patches do not show how "
        "the model does on new slides"
    )


def barred_patches(material: Material, unlabelled: Unlabelled, split: Split) -> dict[str, Bool[np.ndarray, " m"]]:
    """Which patches of the test part may not join, whatever the teacher says of them, by the reason.

    Tissue is shared by duplicates, also turned and mirrored, by overlaps, by given groups, and by chains of these.
    """
    ids, patches = unlabelled.patches.ids, material.patches
    validation = patches.rows_of(split.validation)
    tissue = np.setdiff1d(unlabelled.tissue[validation], [""])
    barred = {
        "left out by data.leave_out": ~unlabelled.usable,
        "are in the training part, too": np.isin(ids, patches.ids),
        "share tissue with the validation set": np.isin(unlabelled.tissue[unlabelled.first :], tissue),
    }
    if split.basis in ("slide", "patient", "slide+group"):
        known = np.setdiff1d(patches.slides[validation], [""])
        barred["lie on a slide of the validation set"] = np.isin(unlabelled.patches.slides, known)
    return barred


def choose(
    said: Predictions, barred: Mapping[str, Bool[np.ndarray, " n"]], config: PseudoConfig
) -> tuple[Predictions, dict[str, int]]:
    """The patches that join under hard labels, and how many do not, by the first reason that holds.

    Raises ConfigError unless both classes join: patches of one class alone would only shift what the network expects.
    """
    left_out: dict[str, int] = {}
    open_to = np.ones(len(said), dtype=bool)
    for reason, rows in barred.items():
        left_out[reason] = int((open_to & rows).sum())
        open_to &= ~rows
    positive = open_to & (said.probabilities >= config.confidence)
    negative = open_to & (said.probabilities <= 1 - config.confidence)
    left_out["not confident"] = int((open_to & ~positive & ~negative).sum())
    _require_both_classes(said.probabilities[open_to], int(positive.sum()), int(negative.sum()), config)
    chosen = [_surest(np.flatnonzero(rows), said.probabilities, config.most) for rows in (negative, positive)]
    rows = np.sort(np.concatenate(chosen))
    left_out["beyond pseudo.most"] = int((positive | negative).sum()) - len(rows)
    labels = positive[rows].astype(np.int8)
    return Predictions(said.ids[rows], labels, said.probabilities[rows]), {k: n for k, n in left_out.items() if n}


def _surest(
    rows: Int[np.ndarray, " k"], probabilities: Float[np.ndarray, " n"], most: int | None
) -> Int[np.ndarray, " j"]:
    """The rows farthest from 0.5, of equals the first."""
    return rows[np.argsort(-np.abs(probabilities[rows] - 0.5), kind="stable")][:most]


def _require_both_classes(open_to: Float[np.ndarray, " k"], positive: int, negative: int, config: PseudoConfig) -> None:
    if positive and negative:
        return
    sure = positive + negative
    only = f"only {'positives' if positive else 'negatives'} ({sure:,})" if sure else "no patch"
    extremes = f", whose probabilities are {open_to.min():.3f} to {open_to.max():.3f}" if len(open_to) else ""
    raise ConfigError(
        f"the teacher is confident ({config.confidence:g}) of {only} of {len(open_to):,} test patches that may join"
        + extremes,
        where="pseudo.confidence",
        remedy="Lower it, give a more confident teacher, or train without pseudo-labels.",
    )
