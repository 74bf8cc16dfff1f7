"""A finished run, or several, and any patches -> predictions, and the threshold that calls them positive."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sentinode.data.patches import PatchSet
from sentinode.data.preprocess import Prepared, notices
from sentinode.errors import ConfigError, RunError, SentinodeWarning
from sentinode.evaluation.metrics import confusion
from sentinode.evaluation.threshold import OperatingPoint
from sentinode.experiments.blend import blended
from sentinode.experiments.comparison import Variant
from sentinode.experiments.decision import DECISION, open_decision
from sentinode.experiments.record import STUDY_CONFIG, open_chosen
from sentinode.experiments.run import Run
from sentinode.fitting.memory import keep_freed_memory
from sentinode.inference.probabilities import Predictions, average, predict_probabilities
from sentinode.models.own import NONE, Recipes
from sentinode.progress import Progress, of_step, silent


def open_runs(folder: Path, own: Recipes = NONE) -> tuple[Run, ...]:
    """The run in a folder, or, for a study's folder, the runs of the variant that it chose."""
    return open_chosen(folder, own).runs if (folder / STUDY_CONFIG).is_file() else (Run.open(folder, own),)


def operating_point(folder: Path, threshold: str | float) -> OperatingPoint:
    """The operating point of a run or study by name, or the one at a probability, with its validation rates.

    Raises ConfigError for a name that is not known or was not chosen, and for a number outside [0, 1].
    """
    try:
        asked = float(threshold)
    except ValueError:
        point = open_decision(folder).point(str(threshold), where=folder / DECISION)
        return replace(point, rule=f"{point.rule}; chosen on the validation set")
    if not 0 <= asked <= 1:
        raise ConfigError(f"{threshold} is not a probability", where="threshold", remedy="Give one between 0 and 1.")
    seen = Variant("", {}, open_runs(folder)).predictions
    counts = confusion(seen.labels, seen.probabilities, asked)
    return OperatingPoint("as given", asked, counts.sensitivity, counts.specificity)


def predict(
    runs: Sequence[Run], patches: PatchSet, *, device: torch.device, progress: Progress = silent
) -> Predictions:
    """The mean probability of the runs for every patch, each network with its own preprocessing and views.

    An ensemble's probability is the blend of its members'.
    """
    keep_freed_memory()
    if not runs:
        raise RunError("no run was given to predict with", remedy="Give at least one.")
    told: set[str] = set()  # a variant's runs have one preprocessing, and the same to say of it
    return average(_predict_one(run, patches, device, progress, told) for run in runs)


def _predict_one(run: Run, patches: PatchSet, device: torch.device, progress: Progress, told: set[str]) -> Predictions:
    if run.members:
        heard = [(each, weight) for each, weight in zip(run.members, run.weights, strict=True) if weight > 0]
        return blended(
            [_predict_one(each, patches, device, progress, told) for each, _ in heard], [weight for _, weight in heard]
        )
    prepared = Prepared(patches, np.arange(len(patches)), run.config.preprocess, None)  # looked at once, so not held
    probabilities = predict_probabilities(
        run.network(device),
        prepared,
        view_count=run.config.predict.views,
        batch_size=run.config.running.prediction_batch_size,
        device=device,
        precision=run.config.predict.precision,
        on_progress=of_step(progress, f"predict {run.name}"),
    )
    for notice in set(notices(prepared)) - told:  # by now all pixels were made, and what is to say is known
        warnings.warn(notice, SentinodeWarning, stacklevel=2)
        told.add(notice)
    return Predictions(patches.ids, patches.labels, probabilities)
