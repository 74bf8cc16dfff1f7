"""ModelConfig -> network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from sentinode.config.fit import FitAll, FitConfig, FitHead, FitStages
from sentinode.config.run import ModelConfig, OwnModel, RunConfig, TimmModel
from sentinode.errors import ConfigError
from sentinode.models.backbones.backbone import Backbone, PretrainedWeights, backbone
from sentinode.models.notebook import notebook_network
from sentinode.models.own import NONE, Recipes
from sentinode.models.p4m import p4m_network


def build(
    config: ModelConfig,
    *,
    input_size_px: int,
    generator: torch.Generator,
    pretrained: bool = True,
    own: Recipes = NONE,
) -> nn.Module:
    """A new network, (N, 3, s, s) in [0, 1] -> (N, 1) logits, its weights drawn from the generator.

    pretrained: whether a backbone gets the weights that the config names; not where a run's own are read afterwards.
    own: what makes a user's own network, of which the generator's first seed decides the weights. Raises ConfigError
    where the network does not take inputs of that size, or a user's own is not at hand.
    """
    match config.architecture:
        case "notebook":
            return notebook_network(
                norm=config.norm,
                bn_momentum=config.bn_momentum,
                input_size_px=input_size_px,
                generator=generator,
            )
        case "p4m":
            try:
                return p4m_network(input_size_px=input_size_px, bn_momentum=config.bn_momentum, generator=generator)
            except ValueError as error:
                raise ConfigError(str(error), where="preprocess.size_px", remedy="Change this setting.") from error
        case "timm":
            return backbone(
                config.backbone,
                pretrained=_weights(config) if pretrained else False,
                generator=generator,
                features=config.features.kind,
                skipped_maps=config.features.skipped_maps,
                cut_maps=config.features.cut_maps,
                stem_stride=config.stem_stride,
                resize_px=config.resize_px,
            )
        case "own":
            return own.to_train(config).build(seed=generator.initial_seed(), input_size_px=input_size_px)


def require_sound(configs: Iterable[RunConfig], own: Recipes) -> None:
    """Try every network of a user's own on two patches; ConfigError where one is not at hand or cannot be trained."""
    for config in configs:
        for network in config.members().values() or [config]:
            if isinstance(network.model, OwnModel):
                own.to_train(network.model).require_sound(network.preprocess.size_px)


def freeze(network: nn.Module, config: FitConfig) -> None:
    """Fix the stages of a backbone that the settings keep from training; ConfigError where there are not so many."""
    if isinstance(network, Backbone):
        match config:
            case FitAll():
                network.freeze(0)
            case FitStages(frozen_stages=count):
                network.freeze(count)
            case FitHead():
                network.freeze(network.body_stages)


def _weights(config: TimmModel) -> PretrainedWeights:
    match config.pretrained:
        case "auto":
            return True
        case "none":
            return False
        case place:
            return place
