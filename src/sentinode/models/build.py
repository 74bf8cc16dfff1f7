"""ModelConfig -> network."""

from __future__ import annotations

import torch
from torch import nn

from sentinode.config import ModelConfig
from sentinode.models.notebook import notebook_network
from sentinode.models.residual import residual_network


def build(config: ModelConfig, *, input_size_px: int, generator: torch.Generator) -> nn.Module:
    """A new network, (N, 3, s, s) in [0, 1] -> (N, 1) logits, its weights drawn from the generator."""
    match config.architecture:
        case "notebook":
            return notebook_network(
                norm=config.norm,
                bn_momentum=config.bn_momentum,
                input_size_px=input_size_px,
                generator=generator,
            )
        case "residual":
            return residual_network(
                centre=config.centre,
                bn_momentum=config.bn_momentum,
                input_size_px=input_size_px,
                generator=generator,
            )
