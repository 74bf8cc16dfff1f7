"""A finished run that labels patches for another to train on: what it says of them, and when it may not teach."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sentinode.config import RunConfig
from sentinode.data.patches import PatchTable
from sentinode.errors import ConfigError, RunError
from sentinode.inference.predictions import Predictions
from sentinode.models.own import NONE, Recipes
from sentinode.progress import Progress
from sentinode.runs.decision import DECISION, Decision, open_decision
from sentinode.runs.environment import PseudoRecord, read_environment
from sentinode.runs.load import classifier_of, open_runs
from sentinode.runs.material import Material, Unlabelled
from sentinode.runs.pseudo_labels import PseudoLabels, barred_patches, choose
from sentinode.runs.run import ENVIRONMENT, MANIFEST, Run
from sentinode.splits.split import Split, units_of


@dataclass(frozen=True, eq=False)
class Teacher:
    """A run, or the runs that a study chose, and what their validation side decided."""

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

    def say(self, part: Unlabelled, device: torch.device, progress: Progress) -> Predictions:
        """Probabilities of the test part, each network's with its own preprocessing and views, blended and calibrated.

        Calibrated by the temperature, where one was fitted, so that a confidence of 0.95 means that 95 of 100 such
        labels are right where patches are like the validation side's. The isotonic map is not taken: it makes ties,
        and says 0 and 1 of whatever lies beyond its knots.
        """
        key = f"{self.digest} {device}"
        if key not in part.said:
            classifier = classifier_of(self.runs, device, folder=self.folder)
            part.said[key] = classifier.predictions(part.patches, progress)
        raw, calibration = part.said[key], self.decision.calibrations.get("temperature")
        said = raw.probabilities if calibration is None else calibration.apply(raw.probabilities)
        return Predictions(raw.ids, raw.labels, said)

    def require_blind_to(self, split: Split, labelled: PatchTable) -> None:
        """Raise RunError where the teacher learned from labels that are to score its pupil, or from their neighbours'.

        Neighbours are what the split keeps on one side. A teacher that was taught itself passes on what its own
        teachers knew; they were blind to its validation side.
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


def pseudo_labels(
    material: Material, config: RunConfig, device: torch.device, progress: Progress, own: Recipes
) -> PseudoLabels | None:
    """What joins the training side of a run of this config, which has a teacher; None where it has none.

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
    joined, left_out = choose(teacher.say(material.unlabelled, device, progress), barred, config.pseudo)
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
