"""The fused step against the layers in turn: outputs, gradients and moving averages, whatever the signs."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.models.fused import FusedSequential
from sentinode.models.notebook import notebook_network

Order = Literal["before", "after"]


def pair(norm: Order, *, dtype: torch.dtype, falling: bool = False) -> tuple[nn.Sequential, nn.Sequential]:
    """The notebook's network, fused, and its layers in turn, with equal weights."""
    fused = notebook_network(norm=norm, bn_momentum=0.9, generator=torch.Generator().manual_seed(3)).to(dtype)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4), dtype=dtype)
        if falling:
            fused[1 if norm == "before" else 2].weight[::3] *= -1
    return fused, nn.Sequential(*copy.deepcopy(list(fused)))


def step(network: nn.Sequential, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    logits = network(images).squeeze(1)
    labels = (torch.arange(len(images)) % 2).to(images.dtype)
    torch.autograd.backward(F.binary_cross_entropy_with_logits(logits, labels))
    assert images.grad is not None
    return logits.detach(), images.grad


@pytest.mark.parametrize("norm", ["before", "after"])
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_it_is_the_three_layers_in_turn(norm: Order, falling: bool, memory_format: torch.memory_format) -> None:
    fused, apart = pair(norm, dtype=torch.float64, falling=falling)
    images = torch.rand(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=memory_format)
    for _ in range(2):  # the second step meets moving averages that have moved
        (logits, of_images), (expected, of_images_expected) = step(fused, images), step(apart, images)
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(of_images, of_images_expected, rtol=1e-8, atol=1e-12)
    for (name, mine), theirs in zip(fused.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-11, msg=name)
    for (name, moved), expected in zip(fused.named_buffers(), apart.buffers(), strict=True):
        torch.testing.assert_close(moved, expected, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("norm", ["before", "after"])
def test_in_single_precision_it_differs_from_double_by_rounding(norm: Order) -> None:
    fused, apart = pair(norm, dtype=torch.float32)
    exact = copy.deepcopy(apart).double()
    images = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    (logits, _), (in_turn, _), (expected, _) = step(fused, images), step(apart, images), step(exact, images.double())
    off, in_turn_off = ((told.double() - expected).abs().max().item() for told in (logits, in_turn))
    assert off < 1e-5
    assert off < in_turn_off  # whose statistics of channels-last memory lose digits
    for mine, theirs in zip(fused.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-3, atol=1e-5)


def test_evaluation_runs_the_layers_themselves() -> None:
    fused, apart = pair("before", dtype=torch.float32)
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(fused.eval()(images), apart.eval()(images))
    assert list(fused.state_dict()) == list(apart.state_dict())


def test_only_norm_relu_and_pool_together_are_fused() -> None:
    network = FusedSequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    assert [len(block) for block in network._blocks(fuse=True)] == [1, 1, 1]
    fused, _ = pair("after", dtype=torch.float32)
    assert [len(block) for block in fused._blocks(fuse=True)] == [1, 3, 1, 3, 1, 1, 1, 1, 1]
    assert [len(block) for block in fused._blocks(fuse=False)] == [1] * 13
