"""run.json: what a run really did, so that a page can say it without building a network or reading a sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import nn

from sentinode.config.run import RunConfig
from sentinode.data.images import SPACING_UM_PER_PX
from sentinode.data.listing import Origin
from sentinode.models.backbones.backbone import Backbone
from sentinode.models.own import OwnNetwork
from sentinode.models.summary import InitialWeights, Summary, summarise
from sentinode.records import Number, read_record, write_record
from sentinode.splits.split import Basis

if TYPE_CHECKING:
    from sentinode.runs.material import (
        Material,  # it clusters stains and reads tables: a finished run does neither
    )

RUN_RECORD: Final = "run.json"

SlidesKnown = Literal["all", "some", "none"]
Seeded = Literal["initial weights", "order of batches", "augmentation"]


@dataclass(frozen=True)
class Preprocessing:
    """What became of each patch before a network saw it, of both sets."""

    crop_px: int
    size_px: int
    resize: Literal["none", "nearest", "area"]
    """"none" where the crop has the size already."""
    stain: Literal["none", "macenko"]
    unnormalised: int
    """Patches of both sets whose stains were left as they are."""
    enlarged_px: int | None
    """Side that a backbone enlarges its input to; None where it takes it as it is."""


@dataclass(frozen=True)
class Augmentation:
    """What was varied at random in training; nothing where a head was fitted to the patches as they are."""

    zoom: float = 0.0
    symmetries: Literal["none", "flips", "all"] = "none"
    stain_jitter: float = 0.0

    @property
    def ran(self) -> bool:
        return self != Augmentation()


@dataclass(frozen=True)
class NetworkRecord:
    """How one network came about."""

    summary: Summary
    initial: InitialWeights
    preprocessing: Preprocessing
    augmentation: Augmentation
    seeded: tuple[Seeded, ...]
    """What the run's seed decided; nothing where another seed would give the same network."""
    probe: tuple[float, ...] = ()
    """The logits of a user's own network for the patches of `probe_of`: by these it is recognised."""


@dataclass(frozen=True)
class OwnScore:
    """A score of the user's own on the validation set, with its 95 % interval; NaN is undefined, or unknown."""

    value: Number
    low: Number
    high: Number
    reason: str | None
    """Why the interval is unknown, if it is."""


@dataclass(frozen=True)
class RunRecord:
    """The facts of a finished run that its settings do not tell; `network` is None for an ensemble."""

    origin: Origin
    slides_known: SlidesKnown
    split_basis: Basis
    training: int
    """Labelled patches of the training set."""
    validation: int
    network: NetworkRecord | None
    own_scores: dict[str, OwnScore] = field(default_factory=dict)
    """Scores of the user's own, of the validation set, by name."""
    spacing_um_per_px: float = SPACING_UM_PER_PX
    """Of the patches: whole slides are judged at it."""

    def write(self, folder: Path) -> None:
        write_record(folder / RUN_RECORD, self)

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """The record in a run's folder; raises RunError where it is none."""
        return read_record(folder / RUN_RECORD, cls)


def record_of_run(
    material: Material, config: RunConfig, network: nn.Module, result: nn.Module, *, unnormalised: int
) -> RunRecord:
    """The record of a run of one network, as it was trained and as it is kept (`result`).

    So many of its patches kept their own stains.
    """
    split, known = material.split(config), material.candidates.slides != ""
    prepare, size_px = config.preprocess, config.preprocess.size_px
    backbone = network if isinstance(network, Backbone) else None
    own = network if isinstance(network, OwnNetwork) else None
    of_its_own = backbone or own
    initial = of_its_own.initial if of_its_own else InitialWeights()
    augmentation = augmentation_of(config)
    return RunRecord(
        origin=material.origin,
        slides_known="all" if known.all() else "some" if known.any() else "none",
        split_basis=split.basis,
        training=len(split.training),
        validation=len(split.validation),
        network=NetworkRecord(
            summary=summarise(own.network if own else network, (3, size_px, size_px)),
            initial=initial,
            preprocessing=Preprocessing(
                crop_px=prepare.crop_px,
                size_px=size_px,
                resize=prepare.resize if size_px < prepare.crop_px else "none",
                stain=prepare.stain,
                unnormalised=unnormalised,
                enlarged_px=backbone.resize_px if backbone and backbone.resize_px != size_px else None,
            ),
            augmentation=augmentation,
            seeded=seeded_by(config, initial, augmentation),
            probe=probe_of(result, size_px) if own else (),
        ),
    )


def probe_of(network: nn.Module, size_px: int) -> tuple[float, ...]:
    """A network's logits of four made-up patches, in evaluation mode: two of noise, a black and a white one."""
    noise = torch.rand(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    patches = torch.cat([noise, torch.zeros_like(noise[:1]), torch.ones_like(noise[:1])])
    with torch.no_grad():
        return tuple(network.eval()(patches.to(next(network.parameters()).device)).flatten().tolist())


def augmentation_of(config: RunConfig) -> Augmentation:
    """What training with these settings varies."""
    augment = config.fit.augmentation
    if augment is None:
        return Augmentation()
    return Augmentation(
        zoom=augment.zoom_across_centre, symmetries=augment.symmetries, stain_jitter=augment.stain_jitter
    )


def seeded_by(config: RunConfig, initial: InitialWeights, augmentation: Augmentation) -> tuple[Seeded, ...]:
    """What the seed decides. A head is fitted to copies that are the same under every seed, in no order, from zero."""
    drawn: tuple[Seeded, ...] = () if initial.pretrained or initial.fixed else ("initial weights",)
    if config.fit.train == "head":
        return drawn
    return (*drawn, "order of batches", *(("augmentation",) if augmentation.ran else ()))
