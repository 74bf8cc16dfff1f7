"""The written-out chain against autograd through the layers in turn: outputs, gradients, moving averages."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rounding import Rounding
from sentinode.fitting.chain import Chain
from sentinode.models.batch_norm import KerasBatchNorm
from sentinode.models.notebook import notebook_network

Order = Literal["before", "after"]


pytestmark = pytest.mark.numeric

SEEDS = range(4)  # three batches of each: 12 cases for every comparison


def network(norm: Order, *, size_px: int = 32, falling: bool = False, seed: int = 3) -> nn.Sequential:
    """The notebook's network in training, all its parameters off their first values."""
    generator = torch.Generator().manual_seed(seed)
    made = notebook_network(norm=norm, bn_momentum=0.9, input_size_px=size_px, generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        if falling:
            made[1 if norm == "before" else 2].weight[::3] *= -1
    return made.train()


def by_autograd(layers: nn.Sequential, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    layers.zero_grad()
    logits = layers(images).squeeze(1)
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    torch.autograd.backward(losses.mean())
    return logits.detach(), losses.detach()


def batch(count: int, size_px: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, size_px, size_px, generator=torch.Generator().manual_seed(100 * seed + count))
    return images, (torch.arange(count) % 2).float()


@pytest.mark.parametrize("norm", ["before", "after"])
@pytest.mark.parametrize("falling", [False, True])
def test_it_is_as_near_to_the_truth_as_autograd_through_the_layers(norm: Order, falling: bool) -> None:
    """Autograd computes on contiguous memory: its statistics of channels-last memory lose three digits."""
    rounding = Rounding()
    for seed in SEEDS:
        written_out = network(norm, falling=falling, seed=seed)
        in_turn = copy.deepcopy(written_out).to(memory_format=torch.contiguous_format)
        exact = copy.deepcopy(written_out).double()
        chain = Chain.of(written_out)
        assert chain is not None
        for count in (32, 32, 7):  # the second step meets moving averages that have moved, the third another shape
            images, labels = batch(count, seed=seed)
            logits, losses = chain.step(images, labels)
            expected_logits, expected_losses = by_autograd(exact, images.double(), labels.double())
            their_logits, their_losses = by_autograd(in_turn, images, labels)
            rounding.add("logits", logits, their_logits, expected_logits)
            rounding.add("losses", losses, their_losses, expected_losses)
            largest = max(parameter.grad.abs().max().item() for parameter in exact.parameters())
            for mine, theirs, truth in zip(*(of.parameters() for of in (written_out, in_turn, exact)), strict=True):
                # Together, as parts of the largest: a bias before batch norm has no gradient but rounding.
                rounding.add("gradients", mine.grad, theirs.grad, truth.grad, scale=largest)
        for name, moved in written_out.named_buffers():
            rounding.add(name, moved, in_turn.get_buffer(name), exact.get_buffer(name))
    rounding.check()


@pytest.mark.parametrize("size_px", [17, 48, 96])
def test_other_sizes_of_input(size_px: int) -> None:
    rounding = Rounding()
    for seed in SEEDS:
        written_out = network("before", size_px=size_px, seed=seed)
        in_turn, exact = copy.deepcopy(written_out), copy.deepcopy(written_out).double()
        chain = Chain.of(written_out)
        assert chain is not None
        images, labels = batch(5, size_px, seed)
        expected, _ = by_autograd(exact, images.double(), labels.double())
        rounding.add("logits", chain.step(images, labels)[0], by_autograd(in_turn, images, labels)[0], expected)
    rounding.check()


def test_equal_values_in_a_window_give_back_to_the_first_as_in_pytorch() -> None:
    """White background makes them common."""
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 1), KerasBatchNorm(32, momentum=0.9), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 32), KerasBatchNorm(32, momentum=0.9), nn.ReLU(), nn.Linear(32, 1),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    in_turn, exact = copy.deepcopy(layers), copy.deepcopy(layers).double()
    chain = Chain.of(layers)
    assert chain is not None
    rounding = Rounding()
    for grey in (0.25, 0.5, 0.75, 0.9):
        images, labels = torch.ones(4, 3, 4, 4), torch.tensor([0.0, 1.0, 1.0, 0.0])
        images[1] = grey
        chain.step(images, labels)
        by_autograd(in_turn, images, labels)
        by_autograd(exact, images.double(), labels.double())
        largest = max(parameter.grad.abs().max().item() for parameter in exact.parameters())
        for mine, theirs, truth in zip(*(of.parameters() for of in (layers, in_turn, exact)), strict=True):
            rounding.add("gradients", mine.grad, theirs.grad, truth.grad, scale=largest)
    rounding.check()


def test_a_patch_alone_is_normalised_to_nothing_as_in_keras() -> None:
    written_out = network("before")
    chain = Chain.of(written_out)
    assert chain is not None
    logits, _ = chain.step(*batch(1))
    assert torch.isfinite(logits).all()


def test_a_weight_that_is_no_number_shows_in_the_loss() -> None:
    for norm in ("before", "after"):
        written_out = network(norm)
        with torch.no_grad():
            written_out[0].weight[0, 0, 0, 0] = torch.nan
        chain = Chain.of(written_out)
        assert chain is not None
        _, losses = chain.step(*batch(4))
        assert not torch.isfinite(losses).any()


def test_losses_do_not_overflow() -> None:
    written_out = network("before")
    with torch.no_grad():
        written_out[-1].weight *= 1000
    chain = Chain.of(written_out)
    assert chain is not None
    _, labels = images_and_labels = batch(16)
    told, losses = chain.step(*images_and_labels)
    assert told.abs().max() > 200
    rounding = Rounding()
    their, exact = (
        F.binary_cross_entropy_with_logits(told.to(dtype), labels.to(dtype), reduction="none")
        for dtype in (torch.float32, torch.float64)
    )
    for ours in zip(losses, their, exact, strict=True):
        rounding.add("losses", *ours)
    rounding.check()


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        (0, nn.Conv2d(3, 32, 3, bias=False)),
        (0, nn.Conv2d(3, 32, 3, padding_mode="reflect", padding=1)),
        (0, nn.Conv2d(3, 32, 3).requires_grad_(False)),
        (0, nn.Conv2d(3, 36, 3)),
        (2, nn.Dropout()),
        (3, nn.MaxPool2d(3, stride=2)),
        (-1, nn.Linear(128, 2)),
    ],
)
def test_what_is_not_written_out_is_left_to_autograd(place: int, layer: nn.Module) -> None:
    layers = list(network("before"))
    assert Chain.of(nn.Sequential(*layers)) is not None
    assert Chain.of(nn.Sequential(*layers[:4])) is None
    assert Chain.of(nn.Sequential(*layers).double()) is None
    layers[place] = layer
    assert Chain.of(nn.Sequential(*layers).float()) is None
    assert Chain.of(layers[0]) is None
