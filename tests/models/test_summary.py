"""The summary table against shapes and counts worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sentinode.models.backbones.backbone import backbone
from sentinode.models.notebook import notebook_network
from sentinode.models.summary import LayerSummary, summarise


def network() -> nn.Sequential:
    return notebook_network(norm="before", bn_momentum=0.99, generator=torch.Generator().manual_seed(25))


def test_shapes_and_counts_of_the_notebook_network() -> None:
    summary = summarise(network(), (3, 32, 32))
    rows = [(layer.kind, layer.output_shape, layer.parameters) for layer in summary.layers]
    assert rows == [
        ("Conv2d", (32, 30, 30), 3 * 3 * 3 * 32 + 32),  # 896
        ("KerasBatchNorm", (32, 30, 30), 4 * 32),
        ("ReLU", (32, 30, 30), 0),
        ("MaxPool2d", (32, 10, 10), 0),
        ("Conv2d", (64, 8, 8), 18_496),  # 3 * 3 * 32 * 64 + 64
        ("KerasBatchNorm", (64, 8, 8), 256),
        ("ReLU", (64, 8, 8), 0),
        ("MaxPool2d", (64, 2, 2), 0),
        ("Flatten", (256,), 0),
        ("Linear", (128,), 32_896),  # 256 * 128 + 128
        ("KerasBatchNorm", (128,), 512),
        ("ReLU", (128,), 0),
        ("Linear", (1,), 129),
    ]
    assert (summary.total, summary.trainable, summary.non_trainable) == (53_313, 52_865, 448)


def test_the_network_is_left_as_it_was() -> None:
    summarised = network()
    summarised.train()
    summarised[1].eval()  # a mixture of modes is put back as well
    modes = [module.training for module in summarised.modules()]
    state = {name: tensor.clone() for name, tensor in summarised.state_dict().items()}
    summarise(summarised, (3, 32, 32))
    assert [module.training for module in summarised.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in summarised.state_dict().items())
    assert not any(module._forward_hooks for module in summarised.modules())


def test_modes_and_hooks_are_put_back_when_the_shape_does_not_fit() -> None:
    summarised = network()
    with pytest.raises(RuntimeError):
        summarise(summarised, (1, 32, 32))
    assert all(module.training and not module._forward_hooks for module in summarised.modules())


def test_frozen_weights_are_not_trainable() -> None:
    frozen = network()
    frozen[0].requires_grad_(False)
    summary = summarise(frozen, (3, 32, 32))
    assert (summary.total, summary.non_trainable) == (53_313, 448 + 896)


def test_a_batch_counter_is_no_parameter_and_an_uncalled_layer_has_no_shape() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.unused = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            normalised: torch.Tensor = self.norm(x)
            return normalised

    summary = summarise(Odd(), (3, 4, 4))
    assert summary.layers == (
        LayerSummary("norm", "BatchNorm2d", (3, 4, 4), 12),
        LayerSummary("unused", "Linear", None, 6),
    )


def test_a_deep_network_is_told_block_by_block_and_nothing_is_lost() -> None:
    network = backbone("tf_efficientnet_lite0", pretrained=False, generator=torch.Generator().manual_seed(1))
    summary = summarise(network, (3, 96, 96))
    assert len(summary.layers) <= 40
    assert sum(layer.parameters for layer in summary.layers) == summary.total
    shapes = {layer.name: layer.output_shape for layer in summary.layers}
    assert shapes["body.blocks.6.0"] == (320, 3, 3)
    assert not any(layer.kind == "Identity" for layer in summary.layers)
