"""The residual networks: sizes, weights, and what each of the two designs makes of the patch's centre."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.behaviour import require_overfitting, require_weights_of_the_generator
from sentinode.config import ResidualModel
from sentinode.models.batch_norm import KerasBatchNorm
from sentinode.models.build import build
from sentinode.models.residual import (
    INPUT_SIZES_PX,
    CentreAndMean,
    PreActivationBlock,
    ResidualNetwork,
    residual_network,
)
from sentinode.models.summary import summarise

Centre = Literal["weighted", "crop"]
CENTRES: tuple[Centre, ...] = ("weighted", "crop")


def trunk_parameters(width: int) -> int:
    """The stem; of each block two convolutions, the shortcut and two norms; the last norm."""
    blocks = [(width * 2**k, width * 2 ** (k + 1)) for k in range(3)]
    return 27 * width + sum(9 * d * (c + d) + c * d + 2 * (c + d) for c, d in blocks) + 2 * 8 * width


def generator(seed: int = 25) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network_of(
    centre: Centre, size_px: int = 48, *, momentum: float = 0.5, width: int | None = None
) -> ResidualNetwork:
    return residual_network(
        input_size_px=size_px, centre=centre, bn_momentum=momentum, generator=generator(), width=width
    )


def patches(count: int, size_px: int) -> Tensor:
    """Noise around a colour of each patch's own."""
    colours = torch.rand(count, 3, 1, 1, generator=generator(1))
    return 0.5 * colours + 0.5 * torch.rand(count, 3, size_px, size_px, generator=generator(2))


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("size_px", INPUT_SIZES_PX)
def test_one_logit_a_patch_at_every_size(centre: Centre, size_px: int) -> None:
    network, x = network_of(centre, size_px), patches(2, size_px)
    side = {"weighted": size_px, "crop": size_px // 2}[centre]
    for stream in network.streams:
        maps = [m for m in stream.modules() if isinstance(m, PreActivationBlock)]
        shapes = {layer.name: layer.output_shape for layer in summarise(stream, (3, size_px, size_px)).layers}
        assert len(maps) == 3
        assert (8 * maps[0].conv_1.in_channels, side // 8, side // 8) in shapes.values()
        assert (maps[0].conv_1.in_channels, side, side) in shapes.values()  # the stem, at full resolution
    logits = network(x)
    assert logits.shape == (2, 1)
    assert logits.isfinite().all()
    assert network.train()(x[:1]).shape == (1, 1)  # a training pass may end in a batch of one


def test_parameter_counts() -> None:
    def count(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert count(network_of("weighted", 96)) == trunk_parameters(12) + 12**2 + 2 * 96 + 1 == 170_701
    assert count(network_of("crop", 96)) == 2 * trunk_parameters(16) + 2 * 128 + 1 == 605_089
    assert count(network_of("crop", 96, width=8)) == 2 * trunk_parameters(8) + 2 * 64 + 1


@pytest.mark.parametrize("centre", CENTRES)
def test_another_size_is_refused(centre: Centre) -> None:
    for size_px in (32, 50, 88, 112):
        with pytest.raises(ValueError, match=f"48, 64, 80, 96 pixels, not {size_px}"):
            network_of(centre, size_px)
    with pytest.raises(ValueError, match="takes patches of 48 pixels, not"):
        network_of(centre)(patches(1, 64))


@pytest.mark.parametrize("centre", CENTRES)
def test_the_generator_alone_decides_the_weights(centre: Centre) -> None:
    require_weights_of_the_generator(
        lambda generator: residual_network(input_size_px=48, centre=centre, bn_momentum=0.9, generator=generator)
    )


@pytest.mark.parametrize("centre", CENTRES)
def test_initial_weights_are_he_normal_and_the_momentum_is_every_norm_s(centre: Centre) -> None:
    network = network_of(centre, momentum=0.75)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.detach()
            fan_in = weight[0].numel()
            assert weight.var().item() == pytest.approx(2 / fan_in, rel=5 * (2 / weight.numel()) ** 0.5)
            assert weight.is_contiguous(memory_format=torch.channels_last)
            assert layer.bias is None
    assert {norm.momentum for norm in network.modules() if isinstance(norm, KerasBatchNorm)} == {0.75}


@pytest.mark.parametrize("size_px", INPUT_SIZES_PX)
def test_weights_begin_within_the_middle_third(size_px: int) -> None:
    """The labelled centre of a whole patch is its middle third; a place counts by the share that lies within."""
    size = size_px // 8
    weights = CentreAndMean(size).weights.detach()
    assert weights.sum().item() == pytest.approx(1)
    edges = torch.arange(size + 1) / size
    inside = (edges[1:].clamp(max=2 / 3) - edges[:-1].clamp(min=1 / 3)).clamp(min=0) * size
    mass = (weights * inside[:, None] * inside[None, :]).sum().item()
    assert mass > 0.75
    if size == 12:
        assert mass == pytest.approx(weights[4:8, 4:8].sum().item())
        assert mass > 0.85
    torch.testing.assert_close(weights, weights.flip(0))
    torch.testing.assert_close(weights, weights.T)


def test_pooling_is_the_weighted_and_the_plain_mean() -> None:
    pool, x = CentreAndMean(6), torch.rand(2, 3, 6, 6, generator=generator())
    with torch.no_grad():
        pool.scores.copy_(torch.rand(6, 6, generator=generator(1)))
    pooled = pool(x)
    weights = torch.exp(pool.scores) / torch.exp(pool.scores).sum()
    torch.testing.assert_close(pooled, torch.cat([torch.einsum("ncij,ij->nc", x, weights), x.mean((2, 3))], 1))


def test_with_weighted_pooling_the_centre_moves_the_logit_most() -> None:
    network, x = network_of("weighted", 96).eval(), patches(8, 96)
    with torch.no_grad():
        network.head.weight[:, network.head.in_features // 2 :] = 0  # the weighted mean alone

        def change(top: int, left: int) -> float:
            altered = x.clone()
            altered[:, :, top : top + 32, left : left + 32] = 0
            return (network(altered) - network(x)).abs().mean().item()

        at_corners = max(change(top, left) for top in (0, 64) for left in (0, 64))
        assert change(32, 32) > 10 * at_corners


def test_the_streams_of_the_crop_see_the_middle_as_it_is_and_all_of_it_smaller() -> None:
    network, x = network_of("crop", 96).eval(), patches(2, 96)
    middle, whole = network.streams
    assert torch.equal(middle[0](x), x[:, :, 24:72, 24:72])
    assert torch.equal(whole[0](x), F.avg_pool2d(x, 2))
    around = x.clone()
    around[:, :, :24] = 0
    fine = x.clone()
    fine[:, :, 40:42, 40:42] = x[:, :, 40:42, 40:42].flip(2)  # the same mean of the square
    with torch.no_grad():
        assert torch.equal(middle(around), middle(x))
        assert (whole(around) - whole(x)).abs().max() > 1e-3
        assert (middle(fine) - middle(x)).abs().max() > 1e-6
        torch.testing.assert_close(whole(fine), whole(x), rtol=0, atol=1e-6)
        swapped = torch.cat([whole(x), middle(x)], 1)
        assert not torch.allclose(network.head(swapped), network(x))


@pytest.mark.parametrize("centre", CENTRES)
def test_every_parameter_has_a_gradient(centre: Centre) -> None:
    network, labels = network_of(centre).train(), torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    torch.autograd.backward(F.binary_cross_entropy_with_logits(network(patches(4, 48)), labels))
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("centre", CENTRES)
def test_overfits_32_patches_with_random_labels(centre: Centre) -> None:
    require_overfitting(network_of(centre, width=8), patches(32, 48), steps=30)


@pytest.mark.parametrize("centre", CENTRES)
def test_the_settings_build_it(centre: Centre) -> None:
    config = ResidualModel(centre=centre, bn_momentum=0.6)
    network = build(config, input_size_px=64, generator=generator())
    assert isinstance(network, ResidualNetwork)
    assert len(network.streams) == {"weighted": 1, "crop": 2}[centre]
    assert {norm.momentum for norm in network.modules() if isinstance(norm, KerasBatchNorm)} == {0.6}
