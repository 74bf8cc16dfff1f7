"""The run folder: the one contract between fitting, comparing, reporting and deploying.

config.toml         every setting, resolved; written first: from then on the folder is this run's
split.csv           id, label, side, cluster: the slide, or what stands in for it
environment.json    versions, commit, machine, data hash, seed; with it the run is begun, and training starts
run.json            what the settings do not tell: the network's layers, how it began, what it was shown
history.csv         one row an epoch
checkpoint/         to resume
predictions.csv     id, label, probability of the validation set
scores.json         of those predictions
decision.json       what they decide: calibration maps, operating points, and what both are worth
model.safetensors   the weights of the best checkpoint
teacher.csv         id, label, probability of the patches that it learned from a teacher, if it has one
manifest.json       SHA-256 of the files above; written last, so a folder without it is unfinished

An ensemble has no network and no history of its own. In their place stand
blend.json          weights of its members, and what these score alone
members/NAME/       the members, each a whole run folder; the manifest holds the digests of theirs
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from sentinode.artefacts import RUN_SEAL, claim, tidy_finished
from sentinode.config.fit import Metric
from sentinode.config.run import OwnModel, RunConfig, TimmModel, Weighting
from sentinode.errors import RunError, SentinodeWarning
from sentinode.evaluation.clusters import ClusterKind
from sentinode.files import refuse_exported
from sentinode.fitting.checkpoint import count_weights, load_weights
from sentinode.inference.predictions import Predictions
from sentinode.models.backbones.backbone import weight_count
from sentinode.models.build import build
from sentinode.models.own import NONE, Recipe, Recipes
from sentinode.records import VERSION, Number, read_record, write_record
from sentinode.runs.decision import DECISION, Decision, open_decision
from sentinode.runs.environment import TeacherRecord, read_environment
from sentinode.runs.history import read_history
from sentinode.runs.run_record import RUN_RECORD, NetworkRecord, RunRecord, Seeded, probe_of
from sentinode.settings import is_folder_name, read_toml

if TYPE_CHECKING:
    import pandas as pd

CONFIG: Final = "config.toml"
ENVIRONMENT: Final = "environment.json"
SCORES: Final = "scores.json"
CONTENTS: Final = (
    CONFIG,
    "split.csv",
    ENVIRONMENT,
    RUN_RECORD,
    "history.csv",
    "predictions.csv",
    SCORES,
    DECISION,
    "model.safetensors",
)
MANIFEST: Final = RUN_SEAL
MEMBERS: Final = "members"
BLEND: Final = "blend.json"
TEACHER: Final = "teacher.csv"
SPLIT_COLUMNS: Final = "id,label,side,cluster"
_WEIGHTS: Final = "model.safetensors"
_PROBE: Final = 1e-3  # of logits: other processors sum in another order
_OF_A_NETWORK: Final = ("history.csv", _WEIGHTS)


@dataclass(frozen=True)
class Manifest:
    """manifest.json: the SHA-256 of each file of a finished run, and the names of its members, if any."""

    sha256: dict[str, str]
    members: tuple[str, ...] = ()
    sentinode_run: Literal[True] = True
    """What tells it from other programs' manifests."""

    def __post_init__(self) -> None:
        if not all(map(is_folder_name, self.members)):
            raise ValueError("a member's name is not a directory name")


class Scores(BaseModel, extra="allow"):
    """scores.json: each score of the validation set by its name; NaN where it lacks a class that the score needs."""

    version: int = VERSION
    __pydantic_extra__: dict[str, Number]


@dataclass(frozen=True)
class Blend:
    """blend.json, of an ensemble: the weights of its members and what these score alone, by their names.

    The weights are for use on new patches; the ensemble's own predictions of validation patches take weights that were
    fitted on other slides or groups.
    """

    rule: Weighting
    """How the weights came about: "equal" also where they were to be fitted and could not be.

    "fitted": those of least log loss on the validation set, none of them below 0, that sum to 1. The probability is
    sigmoid(sum of weight * logit), after each member's is kept 1e-7 away from 0 and 1.
    """
    weights: dict[str, float]
    """Fitted on all validation patches."""
    fold_weights: dict[str, list[float]]
    """Fitted without each part of the validation set in turn, for that part's own predictions; [] if not fitted."""
    scores: dict[str, dict[str, Number]]
    """On the validation set."""

    def __post_init__(self) -> None:
        if not (min(self.weights.values()) >= 0 and abs(sum(self.weights.values()) - 1) < 1e-6):
            raise ValueError("the weights do not sum to 1")


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, read from its folder, whose files were checked against their seal when it was opened."""

    folder: Path
    config: RunConfig
    record: RunRecord
    environment: dict[str, Any]
    scores: dict[str, float]
    members: tuple[Run, ...] = ()
    """The runs that an ensemble blends; none for a run of one network."""
    blend: Blend | None = None
    own: Recipes = NONE
    """What makes networks of a user's own, which no folder holds."""
    elsewhere: Predictions | None = None
    """Of other patches, as if it had been validated on them; None for a run as its folder has it."""

    @cached_property
    def predictions(self) -> Predictions:
        """Of the validation set; an ensemble's by weights that were fitted on other slides or groups."""
        return Predictions.read(self.folder / "predictions.csv") if self.elsewhere is None else self.elsewhere

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch; none for an ensemble, whose members have theirs."""
        import pandas as pd

        return pd.DataFrame() if self.members else read_history(self.folder / "history.csv")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def seed(self) -> int:
        return self.config.fit.seed

    @property
    def metric(self) -> Metric:
        """The score by which its checkpoint was kept."""
        return self.config.fit.metric

    @property
    def networks(self) -> tuple[Run, ...]:
        """The runs of single networks: an ensemble's members, or the run itself."""
        return self.members or (self,)

    @property
    def network_record(self) -> NetworkRecord:
        """How the run's one network came about; its members' have their own where it is an ensemble."""
        assert self.record.network is not None, f"{self.name} is an ensemble"
        return self.record.network

    @property
    def seeded(self) -> frozenset[Seeded]:
        """What of it, or of any of its members, the seed drew."""
        return frozenset(source for network in self.networks for source in network.network_record.seeded)

    @property
    def weights(self) -> tuple[float, ...]:
        """The members' weights, in their order."""
        return tuple(self.blend.weights[member.name] for member in self.members) if self.blend else ()

    @property
    def cluster_kind(self) -> ClusterKind:
        """What the clusters are: slides, or what stood in for them when the run was trained."""
        kind: ClusterKind = self.environment["clusters"]
        return kind

    @property
    def teacher(self) -> TeacherRecord | None:
        """What its teacher, if it has one, contributed; an ensemble's members have their own."""
        found = self.environment.get("teacher")
        return None if found is None else TeacherRecord.model_validate(found)

    @cached_property
    def _split(self) -> pd.DataFrame:
        from sentinode.data.tables import columns_of, read_table

        path = self.folder / "split.csv"
        table = read_table(path, purpose=SPLIT_COLUMNS)
        if not {"id", "side", "cluster"} <= set(table.columns):
            raise RunError(
                f"has the columns {columns_of(table)}", where=path, remedy="Restore it, or train the run again."
            )
        return table

    @cached_property
    def clusters_by_id(self) -> dict[str, str]:
        """The slide of each patch, or what stands in for it; "" for a patch on its own."""
        table = self._split
        return dict(zip(table["id"].tolist(), table["cluster"].tolist(), strict=True))

    @cached_property
    def training_ids(self) -> frozenset[str]:
        """The labelled patches that it, or any of its members, was trained on."""
        table = self._split
        return frozenset(table.loc[table["side"] == "training", "id"])

    @cached_property
    def taught_ids(self) -> frozenset[str]:
        """The patches that it, or any of its members, learned from a teacher."""
        tables = [network.folder / TEACHER for network in self.networks]
        return frozenset(i for path in tables if path.is_file() for i in Predictions.read(path).ids.tolist())

    @cached_property
    def weights_digest(self) -> str:
        """Equal for runs that are the same network, or the same networks blended alike, whatever their settings say."""
        if not self.members:
            return sealed(self.folder)[0][_WEIGHTS]
        blended = sorted(zip((member.weights_digest for member in self.members), self.weights, strict=True))
        return hashlib.sha256(repr(blended).encode()).hexdigest()

    @cached_property
    def decision(self) -> Decision:
        """Calibrations and operating points, from the validation set of this run alone."""
        return open_decision(self.folder)

    @classmethod
    def open(cls, folder: Path, own: Recipes = NONE) -> Run:
        """Read a run; raises RunError where it is unfinished or a file is missing, changed or foreign.

        own: what makes the user's own network of which it is, without which it cannot predict. Tables are read when
        they are asked for; each raises RunError where it is none.
        """
        verify(folder)
        members, blend = _open_members(folder, own)
        return cls(
            folder=folder,
            config=read_toml(folder / CONFIG, RunConfig),
            record=RunRecord.read(folder),
            environment=read_environment(folder / ENVIRONMENT),
            scores=read_record(folder / SCORES, Scores).model_extra or {},
            members=members,
            blend=blend,
            own=own,
        )

    def network(self, device: torch.device) -> nn.Module:
        """The trained network, ready to predict; raises RunError for an ensemble, which has several."""
        if self.members:
            raise RunError(
                "is an ensemble, which has no network of its own",
                where=self.folder,
                remedy="Take those of its members.",
            )
        weights, model = self.folder / _WEIGHTS, self.config.model
        if isinstance(model, OwnModel):
            return self._own_network(model, weights).to(device)
        if isinstance(model, TimmModel) and _least_weights(model) > count_weights(weights):
            raise RunError(
                f"holds fewer weights than {model.backbone!r} has", where=weights, remedy="Restore the run's own file."
            )
        network = build(
            model,
            input_size_px=self.config.preprocess.size_px,
            generator=torch.Generator().manual_seed(0),
            pretrained=False,
        )
        load_weights(weights, network)
        return network.to(device).eval()

    def require_networks(self) -> None:
        """Raise RunError where it, or one of its members, is of a user's own network that was not given."""
        for network in self.networks:
            if isinstance(network.config.model, OwnModel):
                network._recipe(network.config.model)

    def _recipe(self, model: OwnModel) -> Recipe:
        found, name = self.own.of_source(model) or self.own.called(model.name), model.name
        if found is None:
            given = "; another was given" if self.own.known else ""
            raise RunError(
                f"was trained with a network of your own, {name!r}, whose code no folder holds{given}",
                where=self.folder,
                remedy=f"Give it: network={name} in the call, --network module:{name} in the command.",
            )
        return found

    def _own_network(self, model: OwnModel, weights: Path) -> nn.Module:
        """The network as it was kept; raises RunError where what was given computes something else."""
        recipe, size_px = self._recipe(model), self.config.preprocess.size_px
        was, now = model.source_sha256[:12], recipe.source_sha256[:12]
        source = f"of source {now}, not {was}" if now != was else "of the same source, but not of all it imports"
        network = recipe.build(seed=0, input_size_px=size_px, initialised=False)
        told, remedy = f"the network {model.name!r} that was given ({source})", "Give what made it, as it was then."
        try:
            load_weights(weights, network)
        except RunError as error:
            raise RunError(f"{told} cannot be opened: {error.what}", where=weights, remedy=remedy) from error
        if not np.allclose(probe_of(network, size_px), self.network_record.probe, rtol=_PROBE, atol=_PROBE):
            raise RunError(f"{told} computes something else than the trained one", where=self.folder, remedy=remedy)
        if now != was:
            text = (
                f"{self.name}: the network {model.name!r} is of another source ({now}) than the run was trained with "
                f"({was}); of four made-up patches it computes the same"
            )
            warnings.warn(text, SentinodeWarning, stacklevel=2)
        return network.eval()


def claim_run(folder: Path) -> AbstractContextManager[None]:
    """Hold a run's folder, alone, to fill it or to go on with it; a finished run's is only read. Raises as `claim`."""
    if not is_finished(folder):
        return claim(folder, begun=CONFIG)
    tidy_finished(folder)
    return nullcontext()


def is_run(folder: Path) -> bool:
    """Whether the folder is a run's, finished or begun."""
    return is_finished(folder) or all((folder / name).is_file() for name in (CONFIG, ENVIRONMENT))


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def contents(members: Sequence[str] = (), *, taught: bool = False) -> tuple[str, ...]:
    """The sealed files of a run's folder, or of an ensemble's with these members; `taught`: by a teacher."""
    joined = (TEACHER,) if taught else ()
    if not members:
        return (*CONTENTS, *joined)
    shared = (name for name in CONTENTS if name not in _OF_A_NETWORK)
    return (*shared, *joined, BLEND, *(f"{MEMBERS}/{name}/{MANIFEST}" for name in members))


def write_manifest(folder: Path, members: Sequence[str] = ()) -> None:
    """Seal a run folder."""
    taught = (folder / TEACHER).is_file()
    digests = {name: digest_of(folder / name) for name in contents(members, taught=taught)}
    write_record(folder / MANIFEST, Manifest(digests, tuple(members)))


def sealed(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What a finished run's manifest says: the SHA-256 of each file, and the names of the members, if any."""
    manifest = read_record(folder / MANIFEST, Manifest)
    names = contents(manifest.members, taught=TEACHER in manifest.sha256)
    try:
        return {name: manifest.sha256[name] for name in names}, list(manifest.members)
    except KeyError as error:
        raise RunError(f"has no digest of {error}", where=folder / MANIFEST, remedy="Train the run again.") from error


def verify(folder: Path) -> None:
    """Raise RunError unless the folder is a finished run whose files are the ones that it was sealed with.

    Of an ensemble's members only the manifests are looked at; `Run.open` verifies the members, too.
    """
    refuse_exported(folder)
    if not folder.is_dir():
        raise RunError("is not a directory", where=folder, remedy="Give the folder of a finished run.")
    if not is_finished(folder):
        if is_run(folder):
            raise RunError(
                "is an unfinished run",
                where=folder,
                remedy="Give the command that began it again (with --resume, where it was `train`).",
            )
        raise RunError(
            "is not a run: it has no manifest.json", where=folder, remedy="Give a folder that `train` or `study` wrote."
        )
    for name, digest in sealed(folder)[0].items():
        if not (folder / name).is_file():
            raise RunError("is missing", where=folder / name, remedy="Restore it, or train the run again.")
        if digest_of(folder / name) != digest:
            raise RunError(
                "has changed since the run was finished",
                where=folder / name,
                remedy="Restore it, or train the run again.",
            )


def _open_members(folder: Path, own: Recipes) -> tuple[tuple[Run, ...], Blend | None]:
    names = sealed(folder)[1]
    if not names:
        return (), None
    blend = read_record(folder / BLEND, Blend)
    if set(blend.weights) != set(names):
        raise RunError(
            "has weights for other members than the manifest lists", where=folder / BLEND, remedy="Restore it."
        )
    members = tuple(Run.open(folder / MEMBERS / name, own) for name in names)
    for member in members:
        if member.members:
            raise RunError(
                "is an ensemble in an ensemble", where=member.folder, remedy="Combine runs of one network each."
            )
    return members, blend


def _least_weights(model: TimmModel) -> int:
    """Of a run of that backbone."""
    return weight_count(model.backbone, model.features.kind, model.features.cut_maps)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; "" where none can be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
