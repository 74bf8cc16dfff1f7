"""Networks whose logit does not change when the patch is turned or mirrored: p4m group convolutions throughout.

Tissue has no upright. An ordinary network must learn every pattern in 8 positions, or be shown them by augmentation;
these have the symmetry in their weights (Cohen and Welling 2016; on this data: Veeling et al. 2018, Rotation
equivariant CNNs for digital pathology). So neither 8 views nor augmentation by symmetries changes anything for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.data.symmetry import SYMMETRIES, apply_symmetry
from sentinode.models.group_conv import GroupConv, GroupNormRelu, LiftingConv, by_feature, output_size_px

# For each of these, windows lie symmetrically at every layer of both designs.
INPUT_SIZES_PX: Final = (32, 48, 64, 96)

# Features a layer and dense blocks, by input size: as many blocks as the size allows, and about 119,000 parameters.
_DENSE: Final = {32: (15, 3), 48: (11, 4), 64: (11, 4), 96: (9, 5)}


def p4m_network(
    *,
    input_size_px: int,
    bn_momentum: float,
    generator: torch.Generator,
    design: Literal["plain", "dense"] = "plain",
) -> P4MNetwork:
    """A p4m-invariant network: (N, 3, s, s) float in [0, 1] -> (N, 1) logits.

    `design="plain"`: six layers, made for a CPU, 109 thousand parameters. `"dense"`: P4M-DenseNet after Veeling et
    al. 2018, 116 to 123 thousand; on a CPU a step takes 6 (32 pixels) to 40 (96) times as long. Weights are He-normal.
    With Adam, learning rates of about 1e-3 suit it; 4e-3 is too much, for one weight acts in 8 places at once.
    Raises ValueError for an input size other than 32, 48, 64 or 96.
    """
    if input_size_px not in INPUT_SIZES_PX:
        raise ValueError(
            f"a p4m network takes inputs of {', '.join(map(str, INPUT_SIZES_PX))} pixels, not {input_size_px}: "
            "at other sizes its windows would not lie symmetrically in the patch; change preprocess.size_px"
        )
    match design:
        case "plain":
            layers = _plain(input_size_px, bn_momentum, generator)
        case "dense":
            layers = _dense(input_size_px, bn_momentum, generator)
    return P4MNetwork(layers, input_size_px)


def _plain(size_px: int, momentum: float, generator: torch.Generator) -> list[nn.Module]:
    """Six convolutions of 8 to 24 features; two of them residual, and most weights where maps are small and cheap.

    From 64 pixels on the first layer takes every second place, and the second pooling's windows overlap.
    """

    def conv(inputs: int, outputs: int, padding_px: int = 0) -> list[nn.Module]:
        convolution = GroupConv(inputs, outputs, 3, padding_px=padding_px, generator=generator)
        return [convolution, GroupNormRelu(outputs, momentum=momentum)]

    kernel_px, stride, window_px = (6, 2, 3) if size_px >= 64 else (5, 1, 2)
    layers = [
        LiftingConv(3, 8, kernel_px, stride=stride, generator=generator),
        GroupNormRelu(8, momentum=momentum),
        nn.MaxPool2d(2),
        *conv(8, 12),
        nn.MaxPool2d(window_px, stride=2),
        *conv(12, 16, padding_px=1),
        Residual(*conv(16, 16, padding_px=1)),
        nn.MaxPool2d(2),
        *conv(16, 24, padding_px=1),
        Residual(*conv(24, 24, padding_px=1)),
    ]
    return [*layers, RingReadout(24, _size_after(layers, size_px), generator=generator)]


def _dense(size_px: int, momentum: float, generator: torch.Generator) -> list[nn.Module]:
    """P4M-DenseNet: a lifting layer, then blocks that add a layer's features each, with transitions between them.

    All convolutions are valid. Unlike in the paper, the readout weighs rings about the centre apart.
    """
    growth, blocks = _DENSE[size_px]
    layers: list[nn.Module] = [LiftingConv(3, growth, 3, generator=generator)]
    for block in range(1, blocks + 1):
        layers.append(DenseBlock(block * growth, growth, momentum=momentum, generator=generator))
        features = (block + 1) * growth
        layers.append(GroupNormRelu(features, momentum=momentum))
        if block < blocks:
            layers += [GroupConv(features, features, 1, generator=generator), nn.AvgPool2d(2)]
    return [*layers, RingReadout(features, _size_after(layers, size_px), generator=generator)]


def _size_after(layers: Iterable[nn.Module], size_px: int) -> int:
    """The side of the maps that the layers give for an input of this side; ValueError where windows lie askew."""
    for layer in layers:
        match layer:
            case LiftingConv() | GroupConv():
                size_px = output_size_px(
                    size_px, kernel_px=layer.kernel_px, stride=layer.stride, padding_px=layer.padding_px
                )
            case nn.MaxPool2d(kernel_size=int(kernel_px), stride=int(stride)):
                size_px = output_size_px(size_px, kernel_px=kernel_px, stride=stride)
            case nn.AvgPool2d(kernel_size=int(kernel_px), stride=int(stride)):
                size_px = output_size_px(size_px, kernel_px=kernel_px, stride=stride)
            case Residual() | DenseBlock():
                size_px = _size_after(layer.children(), size_px)
    return size_px


class P4MNetwork(nn.Sequential):
    """Layers in turn, for one input size: at others some window might lie askew, and the logit would turn with it."""

    def __init__(self, layers: list[nn.Module], input_size_px: int) -> None:
        super().__init__(*layers)
        self.input_size_px = input_size_px

    def forward(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1"]:
        if x.shape[-2:] != (self.input_size_px, self.input_size_px):
            raise ValueError(f"this network takes patches of {self.input_size_px} pixels, not {tuple(x.shape[-2:])}")
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self:
            x = layer(x)
        return x


class Residual(nn.Sequential):
    """The input plus what the layers make of it (He et al. 2016)."""

    def forward(self, x: Float[Tensor, "n c8 h w"]) -> Float[Tensor, "n c8 h w"]:
        y = x
        for layer in self:
            y = layer(y)
        return x + y


class DenseBlock(nn.Module):
    """Norm, ReLU and a valid 3 x 3 convolution, its features put after the input's, whose border is cut off."""

    def __init__(self, features: int, growth: int, *, momentum: float, generator: torch.Generator) -> None:
        super().__init__()
        self.norm_relu = GroupNormRelu(features, momentum=momentum)
        self.conv = GroupConv(features, growth, 3, generator=generator)

    def forward(self, x: Float[Tensor, "n c8 h w"]) -> Float[Tensor, "n d8 i j"]:
        return torch.cat([x[:, :, 1:-1, 1:-1], self.conv(self.norm_relu(x))], dim=1)


class RingReadout(nn.Module):
    """Maps -> logit: the mean over each feature's 8 maps, then over each ring of places, then a linear layer.

    A ring is what the 8 symmetries make of one place, so its mean is invariant, and there is nothing more general
    that is linear and invariant. The label is about the centre: how much the rest counts is left to the weights.
    Input: (N, 8 C, s, s); output: (N, 1).
    """

    ring: Int[Tensor, "s s"]
    count: Int[Tensor, " rings"]

    def __init__(self, features: int, size_px: int, *, generator: torch.Generator) -> None:
        super().__init__()
        places = torch.arange(size_px**2).view(1, 1, size_px, size_px)
        least = torch.stack([apply_symmetry(places, g)[0, 0] for g in SYMMETRIES]).amin(0)
        _, ring, count = torch.unique(least, return_inverse=True, return_counts=True)
        self.register_buffer("ring", ring, persistent=False)
        self.register_buffer("count", count, persistent=False)
        self.weight = nn.Parameter(torch.empty(features, len(count)))
        nn.init.normal_(self.weight, std=self.weight.numel() ** -0.5, generator=generator)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "n c8 s s"]) -> Float[Tensor, "n 1"]:
        of_place = (self.weight / self.count)[:, self.ring]
        invariant = by_feature(x).mean(2)
        return F.linear(invariant.flatten(1), of_place.flatten()[None], self.bias)

    def extra_repr(self) -> str:
        features, rings = self.weight.shape
        return f"8 x {features} features, {rings} rings of {self.ring.shape[0]} x {self.ring.shape[1]} places"
