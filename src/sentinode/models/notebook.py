"""The notebook's two small networks: batch norm before, or after, the activation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sentinode.models.batch_norm import KerasBatchNorm


def notebook_network(
    *,
    norm: Literal["before", "after"],
    bn_momentum: float,
    generator: torch.Generator,
    input_size_px: int = 32,
) -> nn.Sequential:
    """Conv 32 - Conv 64 - Dense 128 - Dense 1, each hidden layer with batch norm and ReLU.

    `norm="before"`: layer - BN - ReLU - pool; `"after"`: layer - ReLU - BN - pool. 53,313 parameters,
    52,865 of them trainable. Weights are Glorot-uniform, biases zero (Keras's defaults).
    Input: (N, 3, 32, 32) float in [0, 1]; output: (N, 1) logits. Another input size of 17 or more
    only changes the number of inputs of the dense layer, 256 for the notebook's 32.
    """

    def after_conv_and_pool(size: int) -> int:
        return (size - 2) // 3

    flat = 64 * after_conv_and_pool(after_conv_and_pool(input_size_px)) ** 2
    if not flat:
        raise ValueError(f"the notebook's network needs an input of at least 17 pixels, not {input_size_px}")

    def normalised(channels: int) -> list[nn.Module]:
        norm_layer, relu = KerasBatchNorm(channels, momentum=bn_momentum), nn.ReLU()
        return [norm_layer, relu] if norm == "before" else [relu, norm_layer]

    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), *normalised(32), nn.MaxPool2d(3),
        nn.Conv2d(32, 64, 3), *normalised(64), nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(flat, 128), *normalised(128),
        nn.Linear(128, 1),
    )  # fmt: skip
    initialise_like_keras(network, generator)
    return network.to(memory_format=torch.channels_last)


def initialise_like_keras(module: nn.Module, generator: torch.Generator) -> None:
    """Glorot-uniform weights (Glorot and Bengio 2010, eq. 16) and zero biases, in the order of the layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if isinstance(layer.bias, Tensor):
                nn.init.zeros_(layer.bias)
