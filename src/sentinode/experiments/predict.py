"""A finished run, or several, and any patches -> predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sentinode.data.patches import PatchSet
from sentinode.data.preprocess import prepare
from sentinode.errors import RunError
from sentinode.experiments.record import STUDY_CONFIG, Study
from sentinode.experiments.run import Run
from sentinode.inference.probabilities import Predictions, average, predict_probabilities
from sentinode.progress import Progress, of_step, silent


def open_runs(folder: Path) -> tuple[Run, ...]:
    """The run in a folder, or, for a study's folder, the runs of the variant that it chose."""
    return Study.open(folder).chosen.runs if (folder / STUDY_CONFIG).is_file() else (Run.open(folder),)


def predict(
    runs: Sequence[Run], patches: PatchSet, *, device: torch.device, progress: Progress = silent
) -> Predictions:
    """The mean probability of the runs for every patch, each run with its own preprocessing and views."""
    if not runs:
        raise RunError("no run was given to predict with", remedy="Give at least one.")
    return average(_predict_one(run, patches, device, progress) for run in runs)


def _predict_one(run: Run, patches: PatchSet, device: torch.device, progress: Progress) -> Predictions:
    prepared = prepare(
        patches, np.arange(len(patches)), run.config.preprocess, budget_mb=run.config.data.memory_budget_mb
    )
    probabilities = predict_probabilities(
        run.network(device),
        prepared,
        view_count=run.config.predict.views,
        batch_size=run.config.predict.batch_size,
        device=device,
        on_progress=of_step(progress, f"predict {run.name}"),
    )
    return Predictions(patches.ids, patches.labels, probabilities)
