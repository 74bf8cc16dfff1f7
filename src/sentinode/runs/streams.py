"""Both sides' batches, as one run sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from sentinode.config import FitHead, RunConfig
from sentinode.fitting.epochs import steps_in_epoch
from sentinode.inputs.batches import BatchStream, derive_seed
from sentinode.inputs.preprocess import notices as preprocessing_notices
from sentinode.runs.material import Material
from sentinode.runs.pseudo_labels import PseudoLabels

_VALIDATION_BATCH: Final = 512


@dataclass(frozen=True)
class Streams:
    """Both sides' batches, as one run sees them, and the pseudo-labels that stand among those of the training side."""

    training: BatchStream
    validation: BatchStream
    notices: tuple[str, ...]
    pseudo: PseudoLabels | None


def open_streams(material: Material, config: RunConfig, pseudo: PseudoLabels | None = None) -> Streams:
    split = material.split(config)
    prepared = material.prepared(config, pseudo.ids if pseudo else ())
    labels = material.labels_by_id
    sides = [np.array([labels[i] for i in ids.tolist()]) for ids in (split.training, split.validation)]
    if pseudo:
        sides[0] = np.append(sides[0], pseudo.joined.labels)
    fit = config.fit
    # A head is fitted to all patches at once.
    batch_size, steps, validation_steps, fraction = (
        (len(sides[0]), None, None, None)
        if isinstance(fit, FitHead)
        else (fit.batch_size, fit.steps_per_epoch, fit.validation_steps, fit.epoch_fraction)
    )
    training = BatchStream(prepared[0], sides[0], batch_size=batch_size, seed=fit.seed, shuffle=True)
    # Some of the validation side, another part each epoch, as the notebook has it; or all of it, quickly.
    partial = validation_steps is not None or fraction is not None
    validation = BatchStream(
        prepared[1],
        sides[1],
        batch_size=batch_size if partial else _VALIDATION_BATCH,
        seed=derive_seed(fit.seed, 1),
        shuffle=partial,
    )
    notices = [
        f"{name} {asked} clipped to {possible}: one pass over the {len(stream):,} patches of the {side} set"
        for name, side, stream, asked in (
            ("fit.steps_per_epoch", "training", training, steps),
            ("fit.validation_steps", "validation", validation, validation_steps),
        )
        if asked is not None and (possible := steps_in_epoch(stream, asked)) < asked
    ]
    return Streams(training, validation, (*notices, *preprocessing_notices(*prepared)), pseudo)
