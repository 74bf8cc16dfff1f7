"""Pseudo-labels (Lee 2013): which unlabelled patches join training, under the labels that a teacher gives them.

A patch joins when the teacher is sure of it, and only the training set. Who shares tissue with a validation patch
stays out, for the validation set is to be as new to the network as without pseudo-labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from sentinode.config.run import PseudoConfig, RunConfig
from sentinode.data.patches import PatchTable
from sentinode.errors import ConfigError, RunError
from sentinode.inference.predictions import Predictions
from sentinode.models.own import NONE, Recipes
from sentinode.runs.decision import DECISION, Decision, open_decision
from sentinode.runs.environment import PseudoRecord, read_environment
from sentinode.runs.load import classifier_of, open_runs
from sentinode.runs.material import Material, Unlabelled
from sentinode.runs.run import ENVIRONMENT, MANIFEST, PSEUDO, Run, digest_of
from sentinode.session import Session
from sentinode.splits.split import Split, units_of


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


def pseudo_labels(material: Material, config: RunConfig, own: Recipes) -> PseudoLabels | None:
    """What joins the training set of a run of this config, which has a teacher; None where it has none.

    Raises ConfigError or RunError, in one line, where there is nothing to join or the teacher may not teach.
    """
    if config.pseudo is None:
        return None
    if material.unlabelled is None:
        raise ConfigError(
            "the data have no test part, so there are no unlabelled patches to join training",
            where="pseudo.run",
            remedy="Give a data folder with a test part, or train without pseudo-labels.",
        )
    teacher, split = Teacher.open(config.pseudo.run, own), material.split(config)
    teacher.require_blind_to(split, material.candidates)
    barred = barred_patches(material, material.unlabelled, split)
    joined, left_out = choose(teacher.say(material.unlabelled, material.session), barred, config.pseudo)
    record = PseudoRecord(
        teacher=str(teacher.folder),
        teacher_sha256=teacher.digest,
        calibration="temperature" if "temperature" in teacher.decision.calibrations else "none",
        confidence=config.pseudo.confidence,
        positive=int(joined.labels.sum()),
        negative=int((joined.labels == 0).sum()),
        left_out=left_out,
    )
    return PseudoLabels(joined, record)


def pseudo_labels_of(folder: Path, config: RunConfig) -> PseudoLabels | None:
    """What joined the run that was begun in the folder; raises RunError where its teacher is no longer the same."""
    if config.pseudo is None:
        return None
    found = read_environment(folder / ENVIRONMENT).get("pseudo_labels")
    record = None if found is None else PseudoRecord.model_validate(found)
    if record is None or Teacher.open(config.pseudo.run).digest != record.teacher_sha256:
        raise RunError(
            f"was started with another teacher than {config.pseudo.run} holds now",
            where=folder,
            remedy="Give the teacher that it was started with, or another folder.",
        )
    return PseudoLabels.read(folder, record)


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

    Tissue is shared by duplicates, also rotated and flipped, by overlaps, by given groups, and by chains of these.
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


@dataclass(frozen=True, eq=False)
class Teacher:
    """A run, or the runs that a study chose, and what their validation set decided."""

    folder: Path
    runs: Sequence[Run]
    decision: Decision

    @classmethod
    def open(cls, folder: Path, own: Recipes = NONE) -> Teacher:
        """Raises RunError where the folder is no finished run, ensemble or study."""
        return cls(folder, open_runs(folder, own), open_decision(folder))

    @property
    def digest(self) -> str:
        """SHA-256 over the runs' manifests, which seal all that they predict with, and over the decision."""
        sealed = [run.folder / MANIFEST for run in self.runs] + [self.folder / DECISION]
        return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sealed)).hexdigest()

    def say(self, part: Unlabelled, session: Session) -> Predictions:
        """Probabilities of the test part, each network's with its own preprocessing and views, blended and calibrated.

        Calibrated by the temperature, where one was fitted, so that a confidence of 0.95 means that 95 of 100 such
        labels are right where patches are like the validation set's. The isotonic map is not taken: it makes ties,
        and says 0 and 1 of whatever lies beyond its knots.
        """
        key = f"{self.digest} {session.device}"
        if key not in part.said:
            classifier = classifier_of(self.runs, session.device, folder=self.folder)
            part.said[key] = classifier.predictions(part.patches, session.progress)
        raw, calibration = part.said[key], self.decision.calibrations.get("temperature")
        said = raw.probabilities if calibration is None else calibration.apply(raw.probabilities)
        return Predictions(raw.ids, raw.labels, said)

    def require_blind_to(self, split: Split, labelled: PatchTable) -> None:
        """Raise RunError where the teacher learned from labels that are to score its pupil, or from their neighbours'.

        Neighbours are what the split keeps in one set. A teacher that was taught itself passes on what its own
        teachers knew; they were blind to its validation set.
        """
        ids = set(split.validation.tolist())
        networks = [network for run in self.runs for network in (run, *run.members)]
        trained = frozenset[str]().union(*(each.training_ids for each in networks))
        taught = [each for each in networks if each.pseudo_labels]
        beyond = {i for each in taught for i in ids - set(each.predictions.ids.tolist())}
        for seen, how in (
            (ids & trained, "was trained on"),
            (ids & _neighbours(trained, split, labelled), "was trained on slides or tissue of"),
            (beyond, "has teachers that may have been trained on"),
        ):
            if seen:
                raise RunError(
                    f"{how} {len(seen):,} of the {len(ids):,} patches that are to validate the run that it labels for",
                    where=self.folder,
                    remedy="Give a teacher of the same split, balance and sample.",
                )


def _neighbours(trained: frozenset[str], split: Split, labelled: PatchTable) -> set[str]:
    """Patches of the slides or groups, whichever the split keeps together, that the trained ones are of."""
    units = units_of(labelled, split.basis)
    known = np.isin(units, np.setdiff1d(units[np.isin(labelled.ids, list(trained))], [""]))
    return set(labelled.ids[known].tolist())
