"""Small residual networks for patches of which the centre is labelled, after He et al. 2016.

Two ways to keep what the centre shows at full resolution, and its surroundings beside it: one map of the whole patch,
pooled under learned weights that begin at the centre; or a stream for the centre, and one for the patch made smaller.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.models.batch_norm import KerasBatchNorm

INPUT_SIZES_PX: Final = (48, 64, 80, 96)

_STRIDE: Final = 8  # of the last maps, in pixels of a stream's input
_WIDTHS: Final = {"weighted": 12, "crop": 16}  # features of the first layer
_SPREAD: Final = 1 / 12  # of the first weights, of the side: two standard deviations reach the border of the centre


def residual_network(
    *,
    input_size_px: int,
    centre: Literal["weighted", "crop"],
    bn_momentum: float,
    generator: torch.Generator,
    width: int | None = None,
) -> ResidualNetwork:
    """A residual network: (N, 3, s, s) float in [0, 1] -> (N, 1) logits.

    `centre="weighted"`: the whole patch at full resolution; the last maps, of s / 8 places a side, are averaged under
    learned weights, at first a Gaussian about the centre, and plainly. `"crop"`: two streams of equal design, of the
    middle s / 2 square at full resolution and of the patch shrunk to s / 2, their averaged features side by side.
    `width`: features of the first layer, doubled by each of three blocks (default: 12 for weighted, 16 for crop).
    Convolutions are He-normal (He et al. 2015), the last layer is Glorot-uniform.
    Raises ValueError for an input size other than 48, 64, 80 or 96.
    """
    if input_size_px not in INPUT_SIZES_PX:
        raise ValueError(
            f"a residual network takes inputs of {', '.join(map(str, INPUT_SIZES_PX))} pixels, not {input_size_px}: "
            "change preprocess.size_px"
        )
    width = width or _WIDTHS[centre]
    streams: list[nn.Module]
    match centre:
        case "weighted":
            streams = [nn.Sequential(_trunk(width, bn_momentum, pooled=True), CentreAndMean(input_size_px // _STRIDE))]
        case "crop":
            streams = [
                nn.Sequential(view, _trunk(width, bn_momentum, pooled=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
                for view in (MiddleHalf(), nn.AvgPool2d(2))
            ]
    network = ResidualNetwork(streams, nn.Linear(2 * 8 * width, 1), input_size_px)
    _initialise(network, generator)
    return network.to(memory_format=torch.channels_last)


def _trunk(width: int, momentum: float, *, pooled: bool) -> nn.Sequential:
    """Maps of `width` features at full resolution, then of 2, 4 and 8 times as many at half, a quarter, an eighth.

    `pooled`: of each 2 x 2 places the largest value goes on, before any norm: at full resolution of a whole patch
    norm and ReLU would cost as much as all convolutions. Otherwise the first block takes every second place.
    """
    return nn.Sequential(
        _convolution(3, width),
        *([nn.MaxPool2d(2)] if pooled else []),
        PreActivationBlock(width, 2 * width, stride=1 if pooled else 2, momentum=momentum),
        PreActivationBlock(2 * width, 4 * width, stride=2, momentum=momentum),
        PreActivationBlock(4 * width, 8 * width, stride=2, momentum=momentum),
        KerasBatchNorm(8 * width, momentum=momentum),
        nn.ReLU(),
    )


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """3 x 3, padded to keep the size, or to halve it; without bias, for a norm follows."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class ResidualNetwork(nn.Module):
    """Streams that make features of a patch of one size, and a linear layer over all of them."""

    def __init__(self, streams: list[nn.Module], head: nn.Linear, input_size_px: int) -> None:
        super().__init__()
        self.streams, self.head, self.input_size_px = nn.ModuleList(streams), head, input_size_px

    def forward(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1"]:
        if x.shape[-2:] != (self.input_size_px, self.input_size_px):
            raise ValueError(f"this network takes patches of {self.input_size_px} pixels, not {tuple(x.shape[-2:])}")
        x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(torch.cat([stream(x) for stream in self.streams], dim=1))
        return logits


class PreActivationBlock(nn.Module):
    """Norm, ReLU, convolution, twice, beside a shortcut (He et al. 2016, Identity mappings in deep residual networks).

    With a stride of 2 the first convolution takes every second place. The shortcut, from behind the first ReLU,
    averages the squares of the stride and maps them to the new number of features.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, momentum: float) -> None:
        super().__init__()
        self.norm_1 = KerasBatchNorm(inputs, momentum=momentum)
        self.conv_1 = _convolution(inputs, outputs, stride)
        self.norm_2 = KerasBatchNorm(outputs, momentum=momentum)
        self.conv_2 = _convolution(outputs, outputs)
        pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.shortcut = nn.Sequential(pool, nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        x = F.relu(self.norm_1(x))
        y: Tensor = self.conv_2(F.relu(self.norm_2(self.conv_1(x))))
        y += self.shortcut(x)
        return y


class MiddleHalf(nn.Module):
    """The middle square of half the side, as it is."""

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n c h h"]:
        margin = x.shape[-1] // 4
        return x[:, :, margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]


class CentreAndMean(nn.Module):
    """Each feature's mean under learned weights, then its plain mean: (N, C, s, s) -> (N, 2 C).

    Weights are a softmax over places of `scores`, which begin as a Gaussian about the middle, nearly all of it in the
    middle third of the side: the labelled centre of a whole patch.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        offset = (torch.arange(size) + 0.5) / size - 0.5
        distance = offset[:, None] ** 2 + offset[None, :] ** 2
        self.scores = nn.Parameter(-distance / (2 * _SPREAD**2))

    @property
    def weights(self) -> Float[Tensor, "s s"]:
        return self.scores.flatten().softmax(0).view_as(self.scores)

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n c2"]:
        return torch.cat([(x * self.weights).sum((2, 3)), x.mean((2, 3))], dim=1)

    def extra_repr(self) -> str:
        return f"{self.scores.shape[0]} x {self.scores.shape[1]} places"


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
