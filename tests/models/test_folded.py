"""A folded network is the network in evaluation, with fewer operations."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from rounding import Rounding
from sentinode.models.batch_norm import KerasBatchNorm
from sentinode.models.folded import folded
from sentinode.models.notebook import notebook_network

pytestmark = pytest.mark.numeric


def drawn(network: nn.Sequential, *, falling: bool, seed: int = 1) -> nn.Sequential:
    """Batch norm as training may leave it, with factors of either sign."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network:
        if isinstance(layer, KerasBatchNorm):
            with torch.no_grad():
                layer.weight.uniform_(-1.0 if falling else 0.1, 2, generator=generator)
                layer.bias.normal_(generator=generator)
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.2, 2, generator=generator)
    return network.eval()


@pytest.mark.parametrize("norm", ["before", "after"])
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("size_px", [32, 40])
def test_the_notebooks_networks_give_the_same_logits(
    norm: Literal["before", "after"], falling: bool, size_px: int
) -> None:
    rounding = Rounding()
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        network = notebook_network(norm=norm, bn_momentum=0.9, input_size_px=size_px, generator=generator)
        exact = copy.deepcopy(drawn(network, falling=falling, seed=seed)).double()
        weights = copy.deepcopy(network.state_dict())
        merged = folded(network)
        images = torch.rand(9, 3, size_px, size_px, generator=generator)
        with torch.no_grad():
            rounding.add("logits", merged(images), network(images), exact(images.double()))
        assert isinstance(merged, nn.Sequential)
        assert not any(isinstance(layer, KerasBatchNorm) for layer in merged)
        kinds = [type(layer).__name__ for layer in merged]
        assert kinds.index("MaxPool2d") < kinds.index("ReLU")
        assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    rounding.check()


@pytest.mark.parametrize(
    "layers",
    [
        [nn.ReLU(), KerasBatchNorm(3, momentum=0.9), nn.MaxPool2d(2)],
        [nn.Conv2d(3, 3, 1), nn.ReLU(), KerasBatchNorm(3, momentum=0.9)],
        [nn.Conv2d(3, 3, 1), nn.ReLU(), KerasBatchNorm(3, momentum=0.9), nn.Conv2d(3, 3, 3, padding=1)],
        [nn.Conv2d(3, 3, 1), nn.ReLU(), KerasBatchNorm(3, momentum=0.9), nn.ReLU(), nn.MaxPool2d(2)],
        [nn.Conv2d(3, 3, 1), nn.ReLU(), KerasBatchNorm(3, momentum=0.9), nn.ReLU(), KerasBatchNorm(3, momentum=0.9)],
        [nn.Conv2d(3, 3, 1), nn.Dropout()],
    ],
)
def test_what_cannot_be_folded_stays_as_it_is(layers: list[nn.Module]) -> None:
    network = nn.Sequential(*layers)
    assert folded(network) is network
    assert folded(layers[0]) is layers[0]


def test_a_logit_does_not_depend_on_the_patches_beside_it() -> None:
    network = notebook_network(norm="before", bn_momentum=0.9, generator=torch.Generator().manual_seed(2))
    merged = folded(drawn(network, falling=True))
    images = torch.rand(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    together = merged(images)
    for size in (16, 32):
        assert torch.equal(torch.cat([merged(part) for part in images.split(size)]), together)
