"""A finished run, ensemble or study's choice, from its folder -> a `Classifier`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sentinode.config.run import ModelConfig, OwnModel, TimmModel
from sentinode.device import Precision, compute_exactly
from sentinode.fitting.memory import keep_freed_memory
from sentinode.inference.classifier import Card, Classifier, TrainedRun
from sentinode.inference.runtimes import Fastest, RuntimeCache
from sentinode.inference.trained import TrainedNetwork
from sentinode.models.own import NONE, Recipes
from sentinode.runs.decision import DECISION, open_decision
from sentinode.runs.run import MANIFEST, Run, digest_of
from sentinode.runs.study_record import STUDY_CONFIG, STUDY_RECORD, open_chosen
from sentinode.runs.variant import Variant
from sentinode.session import Session
from sentinode.settings import override


def runtime_cache_of(session: Session) -> RuntimeCache | None:
    """Where a session keeps which runtime is the fastest; None where it asks for PyTorch."""
    return RuntimeCache(lambda: session.cache_root, session.notify) if session.runtime == "fastest" else None


def open_runs(folder: Path, own: Recipes = NONE) -> tuple[Run, ...]:
    """The run in a folder, or, for a study's folder, the runs of the variant that it chose."""
    return open_chosen(folder, own).runs if (folder / STUDY_CONFIG).is_file() else (Run.open(folder, own),)


def classifier_of(
    runs: Sequence[Run],
    device: torch.device,
    *,
    folder: Path | None = None,
    precision: Precision | None = None,
    fastest: RuntimeCache | None = None,
) -> Classifier:
    """The mean probability of runs that are open; `folder` is that of the study that chose them, if one did.

    `precision`: that of all networks, in place of what their settings say. `fastest`: where it is kept what computes
    them fastest; without it PyTorch does, as for all that a resumed command must compute again to the last bit.
    """
    keep_freed_memory()
    compute_exactly(device)
    home = runs[0].folder if folder is None else folder
    decision = open_decision(home)
    return Classifier(
        home.resolve().name,
        [_trained(run, device, precision, fastest) for run in runs],
        calibrations=decision.calibrations,
        operating_points=decision.points,
        undecided=decision.not_fitted,
        decided_in=home / DECISION,
        spacing_um_per_px=runs[0].record.spacing_um_per_px,
        validation=lambda: Variant("", {}, tuple(runs)).predictions,
        card=lambda: _card(home.resolve().name, runs, study=(home / STUDY_CONFIG).is_file()),
    )


def digest_of_model(folder: Path) -> str:
    """Of the manifest, which holds those of all other files; of a study, of the record that names its choice."""
    return digest_of(folder / MANIFEST) or digest_of(folder / STUDY_RECORD)


def _trained(run: Run, device: torch.device, precision: Precision | None, cache: RuntimeCache | None) -> TrainedRun:
    """The networks that have a say, an ensemble's with their weights."""

    def network(of: Run) -> TrainedNetwork:
        config = of.config if precision is None else override(of.config, {"predict.precision": precision})
        module = of.network(device)
        fastest = None if cache is None else Fastest(of.folder.resolve().name, module, of.weights_digest, cache)
        return TrainedNetwork(module, config, device, fastest)

    if not run.members:
        return TrainedRun((network(run),), folder=run.folder, own=run.own)
    heard = [(member, weight) for member, weight in zip(run.members, run.weights, strict=True) if weight > 0]
    return TrainedRun(
        tuple(network(member) for member, _ in heard),
        np.array([weight for _, weight in heard]),
        run.folder,
        run.own,
    )


def _architecture(model: ModelConfig) -> str:
    match model:
        case TimmModel():
            return model.backbone
        case OwnModel():
            return model.name
        case _:
            return model.architecture


def _card(name: str, runs: Sequence[Run], *, study: bool) -> Card:
    from sentinode.runs.evaluate import validation_intervals  # here: intervals take SciPy

    networks = [network for run in runs for network in run.networks]
    models = [network.config.model for network in networks]
    intervals, first = validation_intervals(runs), runs[0]
    return Card(
        name=name,
        kind="study" if study else "ensemble" if first.members else "run",
        architectures=tuple(dict.fromkeys(_architecture(model) for model in models)),
        networks=len(networks),
        data=str(first.environment.get("data_note", "")),
        origin=first.record.origin,
        training_patches=len(frozenset[str]().union(*(run.training_ids for run in runs))),
        validation_patches=len(frozenset[str]().union(*(run.predictions.ids.tolist() for run in runs))),
        split=str(first.environment["split"]),
        clusters=intervals.clusters,
        cluster_kind=intervals.cluster_kind,
        scores=intervals.scores,
        notices=tuple(dict.fromkeys(notice for run in runs for notice in run.environment["notices"])),
    )
