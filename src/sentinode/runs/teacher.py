"""What a run learns from a teacher, which is a finished run, ensemble or study.

With hard labels (pseudo-labels, Lee 2013) unlabelled patches join training when the teacher is sure of them. With soft
labels (distillation, Hinton et al. 2015) the target of each training patch is the teacher's probability, and unlabelled
patches join with theirs. Only the training set changes. Who shares tissue with a validation patch stays out, for the
validation set is to be as new to the network as without a teacher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from sentinode.artefacts import write_atomically
from sentinode.audit.audit import pixel_digests
from sentinode.config.run import HardLabels, RunConfig, SoftLabels
from sentinode.data.cache import kept_array
from sentinode.data.patches import PatchSet, PatchTable
from sentinode.errors import ConfigError, RunError
from sentinode.inference.predictions import Predictions
from sentinode.models.own import NONE, Recipes
from sentinode.runs.decision import DECISION, Decision, open_decision
from sentinode.runs.environment import TeacherRecord, read_environment
from sentinode.runs.load import classifier_of, open_runs
from sentinode.runs.material import Material, Unlabelled
from sentinode.runs.run import ENVIRONMENT, MANIFEST, TEACHER, Run, digest_of, is_finished
from sentinode.session import Session
from sentinode.splits.split import Split, units_of


@dataclass(frozen=True, eq=False)
class TeacherPredictions:
    """A teacher's calibrated predictions: of training patches, under soft labels, and of unlabelled ones that join."""

    labelled: Predictions
    """In the order of the training set, with their own labels; none under hard labels."""
    joined: Predictions
    """Unlabelled patches, with the label that the teacher gives them."""
    record: TeacherRecord

    @property
    def notice(self) -> str:
        return notice_of(self.record)

    def targets(self, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
        """What is learned of each training patch with these labels, then of each that joined: in [0, 1]."""
        share = self.record.share
        if share is None:
            return np.append(labels, self.joined.labels).astype(np.float64)
        mixed = share * self.labelled.probabilities + (1 - share) * labels
        return np.append(mixed, self.joined.probabilities)

    def write(self, folder: Path) -> TeacherPredictions:
        """Save the patches as teacher.csv; returns the same with the digest of that in its record."""
        both = (self.labelled, self.joined)
        ids, labels, probabilities = (
            np.concatenate([getattr(part, name) for part in both]) for name in ("ids", "labels", "probabilities")
        )
        Predictions(ids, labels, probabilities).write(folder / TEACHER)
        sealed = self.record.model_copy(update={"table_sha256": digest_of(folder / TEACHER)})
        return replace(self, record=sealed)

    @classmethod
    def read(cls, folder: Path, record: TeacherRecord) -> TeacherPredictions:
        """What was written; raises RunError where the table is missing or was changed since."""
        if digest_of(folder / TEACHER) != record.table_sha256:
            raise RunError(
                "is not the table that the run was begun with",
                where=folder / TEACHER,
                remedy="Restore it, or train the run anew in another folder.",
            )
        both = Predictions.read(folder / TEACHER)
        at = len(both) - record.joined
        return cls(_rows(both, slice(0, at)), _rows(both, slice(at, None)), record)


def teacher_predictions(material: Material, config: RunConfig, own: Recipes) -> TeacherPredictions | None:
    """What the teacher of a run of this config predicts; None where it has no teacher.

    Raises ConfigError or RunError, in one line, where there is nothing to learn or the teacher may not teach.
    """
    if config.teacher is None:
        return None
    part, session = material.unlabelled, material.session
    if part is None and isinstance(config.teacher, HardLabels):
        raise ConfigError(
            "the data have no test part, so there are no unlabelled patches to join training",
            where="teacher.run",
            remedy="Give a data folder with a test part, or train without pseudo-labels.",
        )
    teacher, split = Teacher.open(config.teacher.run, own), material.split(config)
    teacher.require_blind_to(split, material.candidates)
    labelled, joined, left_out = _NOTHING, _NOTHING, dict[str, int]()
    if isinstance(config.teacher, SoftLabels):
        rows = material.patches.rows_of(split.training)
        labelled = teacher.predict(material.patches.some(rows, session.cache_root), session)
    if part is not None and (isinstance(config.teacher, HardLabels) or config.teacher.unlabelled):
        barred = barred_patches(material, part, split)
        joined, left_out = choose(teacher.predict(part.patches, session), barred, config.teacher)
    record = TeacherRecord(
        teacher=str(teacher.folder),
        teacher_sha256=teacher.digest,
        calibration="temperature" if "temperature" in teacher.decision.calibrations else "none",
        confidence=config.teacher.confidence if isinstance(config.teacher, HardLabels) else None,
        share=config.teacher.share if isinstance(config.teacher, SoftLabels) else None,
        positive=int(joined.labels.sum()),
        negative=int((joined.labels == 0).sum()),
        left_out=left_out,
    )
    return TeacherPredictions(labelled, joined, record)


def read_teacher_predictions(folder: Path, config: RunConfig) -> TeacherPredictions | None:
    """What the teacher predicted for the run that was begun in the folder.

    Raises RunError where its teacher is no longer the same.
    """
    if config.teacher is None:
        return None
    found = read_environment(folder / ENVIRONMENT).get("teacher")
    record = None if found is None else TeacherRecord.model_validate(found)
    if record is None or Teacher.open(config.teacher.run).digest != record.teacher_sha256:
        raise RunError(
            f"was started with another teacher than {config.teacher.run} holds now",
            where=folder,
            remedy="Give the teacher that it was started with, or another folder.",
        )
    return TeacherPredictions.read(folder, record)


def record_of(run: Run) -> TeacherRecord | None:
    """What the teacher of a run, or of its members, predicted, the first that has one; None without."""
    return next((found for each in (run, *run.members) if (found := each.teacher)), None)


def notice_of(record: TeacherRecord) -> str:
    """What a reader of the run's scores has to know."""
    name = Path(record.teacher).name
    learned = "" if record.share is None else f"the network learned probabilities that “{name}” predicted"
    if not record.joined:
        return learned
    given = "labels" if record.share is None else "probabilities"
    seen = (
        f"training saw the pixels of {record.joined:,} unlabelled test patches, under {given} that “{name}” gave them "
        f"({record.positive:,} positive): scores on these patches do not show how the model does on new slides"
    )
    return f"{learned}; {seen}" if learned else seen


def barred_patches(material: Material, unlabelled: Unlabelled, split: Split) -> dict[str, Bool[np.ndarray, " m"]]:
    """Which patches of the test part may not join, whatever the teacher predicts, by the reason.

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
    predicted: Predictions, barred: Mapping[str, Bool[np.ndarray, " n"]], config: HardLabels | SoftLabels
) -> tuple[Predictions, dict[str, int]]:
    """The patches that join, with the label that is likelier, and how many do not, by the first reason that holds.

    Under soft labels all do that may. Under hard ones raises ConfigError unless both classes join: patches of one class
    alone would only shift what the network expects.
    """
    left_out: dict[str, int] = {}
    open_to = np.ones(len(predicted), dtype=bool)
    for reason, rows in barred.items():
        left_out[reason] = int((open_to & rows).sum())
        open_to &= ~rows
    if isinstance(config, HardLabels):
        positive = open_to & (predicted.probabilities >= config.confidence)
        negative = open_to & (predicted.probabilities <= 1 - config.confidence)
        left_out["not confident"] = int((open_to & ~positive & ~negative).sum())
        _require_both_classes(predicted.probabilities[open_to], int(positive.sum()), int(negative.sum()), config)
        chosen = [_surest(np.flatnonzero(rows), predicted.probabilities, config.most) for rows in (negative, positive)]
        rows = np.sort(np.concatenate(chosen))
        left_out["beyond teacher.most"] = int((positive | negative).sum()) - len(rows)
    else:
        rows = np.flatnonzero(open_to)
    labels = (predicted.probabilities[rows] >= 0.5).astype(np.int8)
    return Predictions(predicted.ids[rows], labels, predicted.probabilities[rows]), {
        k: n for k, n in left_out.items() if n
    }


def _surest(
    rows: Int[np.ndarray, " k"], probabilities: Float[np.ndarray, " n"], most: int | None
) -> Int[np.ndarray, " j"]:
    """The rows farthest from 0.5, of equals the first."""
    return rows[np.argsort(-np.abs(probabilities[rows] - 0.5), kind="stable")][:most]


def _require_both_classes(open_to: Float[np.ndarray, " k"], positive: int, negative: int, config: HardLabels) -> None:
    if positive and negative:
        return
    sure = positive + negative
    only = f"only {'positives' if positive else 'negatives'} ({sure:,})" if sure else "no patch"
    extremes = f", whose probabilities are {open_to.min():.3f} to {open_to.max():.3f}" if len(open_to) else ""
    raise ConfigError(
        f"the teacher is confident ({config.confidence:g}) of {only} of {len(open_to):,} test patches that may join"
        + extremes,
        where="teacher.confidence",
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

    def predict(self, patches: PatchSet, session: Session) -> Predictions:
        """Probabilities of patches, each network's with its own preprocessing and views, blended and calibrated.

        Calibrated by the temperature, where one was fitted, so that a confidence of 0.95 means that 95 of 100 such
        labels are right where patches are like the validation set's. The isotonic map is not taken: it makes ties,
        and gives 0 or 1 to whatever lies beyond its knots. Its predictions are kept in the cache, for every
        seed of a student asks for the same.
        """
        digest = hashlib.sha256(f"{self.digest} {session.device} ".encode() + pixel_digests(patches.pixels).tobytes())
        path = session.cache_root / "teachers" / f"{digest.hexdigest()[:20]}.npy"
        raw = kept_array(path, (len(patches),))
        if raw is None:
            classifier = classifier_of(self.runs, session.device, folder=self.folder)
            raw = predicted = classifier.predictions(patches, session.progress).probabilities
            write_atomically(path, lambda file: np.save(file, predicted, allow_pickle=False))
        calibration = self.decision.calibrations.get("temperature")
        return Predictions(patches.ids, patches.labels, raw if calibration is None else calibration.apply(raw))

    def require_blind_to(self, split: Split, labelled: PatchTable) -> None:
        """Raise RunError where the teacher learned from labels that are to score its student, or their neighbours'.

        Neighbours are what the split keeps in one set. A teacher that was taught itself passes on what its own
        teachers knew; they were blind to its validation set.
        """
        ids = set(split.validation.tolist())
        networks = [network for run in self.runs for network in (run, *run.members)]
        trained = frozenset[str]().union(*(each.training_ids for each in networks))
        taught = [each for each in networks if each.teacher]
        beyond = {i for each in taught for i in ids - set(each.predictions.ids.tolist())}
        for seen, how in (
            (ids & trained, "was trained on"),
            (ids & _neighbours(trained, split, labelled), "was trained on slides or tissue of"),
            (beyond, "has teachers that may have been trained on"),
        ):
            if seen:
                raise RunError(
                    f"{how} {len(seen):,} of the {len(ids):,} patches that are to validate its student",
                    where=self.folder,
                    remedy="Give a teacher of the same split, balance and sample.",
                )


def student_beside(folder: Path) -> Path:
    """The student that the run, ensemble or study in a folder taught by its probabilities, of the folders beside it.

    Raises RunError where there is none, or more than one.
    """
    digest, students = Teacher.open(folder).digest, []
    for other in sorted(folder.resolve().parent.iterdir()):
        if is_finished(other) and (other / TEACHER).is_file():
            found = Run.open(other).teacher
            if found is not None and found.share is not None and found.teacher_sha256 == digest:
                students.append(other)
    if len(students) == 1:
        return students[0]
    if students:
        told = f"has the students {', '.join(student.name for student in students)}"
        raise RunError(told, where=folder, remedy="Give one of them in its place, without --fast.")
    raise RunError(
        "has no student beside it",
        where=folder,
        remedy=f"Train one: sentinode distill {folder} DATA --out {folder.with_name(folder.name + '-fast')}",
    )


def _neighbours(trained: frozenset[str], split: Split, labelled: PatchTable) -> set[str]:
    """Patches of the slides or groups, whichever the split keeps together, that the trained ones are of."""
    units = units_of(labelled, split.basis)
    known = np.isin(units, np.setdiff1d(units[np.isin(labelled.ids, list(trained))], [""]))
    return set(labelled.ids[known].tolist())


def _rows(predictions: Predictions, rows: slice) -> Predictions:
    return Predictions(predictions.ids[rows], predictions.labels[rows], predictions.probabilities[rows])


_NOTHING = Predictions(np.array([], dtype=str), np.array([], dtype=np.int8), np.array([]))
