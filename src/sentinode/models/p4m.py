"""Networks whose logit does not change when the patch is rotated or flipped: p4m group convolutions throughout.

Tissue has no upright. An ordinary network must learn every pattern in 8 positions, or be shown them by augmentation;
these have the symmetry in their weights (Cohen and Welling 2016; on this data: Veeling et al. 2018, Rotation
equivariant CNNs for digital pathology). So neither 8 views nor augmentation by symmetries changes anything for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.models.group_conv import GroupConv, GroupNormRelu, LiftingConv, by_feature, output_size_px

INPUT_SIZES_PX: Final = (32, 48, 64, 96)  # at which the windows of every layer lie symmetrically


def p4m_network(*, input_size_px: int, bn_momentum: float, generator: torch.Generator) -> P4MNetwork:
    """A p4m-invariant network for a CPU: (N, 3, s, s) float in [0, 1] -> (N, 1) logits; 109 thousand parameters.

    Six convolutions of 8 to 24 features, two of them residual, with most weights where maps are small and cheap;
    from 64 pixels on, the first layer has a stride of 2 and the windows of the second pooling overlap.
    Weights are He-normal. With Adam, learning rates of about 1e-3 suit it; 4e-3 is too much, for one weight acts in 8
    places at once.
    Raises ValueError for an input size other than 32, 48, 64 or 96.
    """
    if input_size_px not in INPUT_SIZES_PX:
        raise ValueError(
            f"a p4m network takes inputs of {', '.join(map(str, INPUT_SIZES_PX))} pixels, not {input_size_px}: "
            "at other sizes its windows would not lie symmetrically in the patch; change preprocess.size_px"
        )

    def conv(inputs: int, outputs: int, padding_px: int = 0) -> list[nn.Module]:
        convolution = GroupConv(inputs, outputs, 3, padding_px=padding_px, generator=generator)
        return [convolution, GroupNormRelu(outputs, momentum=bn_momentum)]

    kernel_px, stride, window_px = (6, 2, 3) if input_size_px >= 64 else (5, 1, 2)
    layers = [
        LiftingConv(3, 8, kernel_px, stride=stride, generator=generator),
        GroupNormRelu(8, momentum=bn_momentum),
        nn.MaxPool2d(2),
        *conv(8, 12),
        nn.MaxPool2d(window_px, stride=2),
        *conv(12, 16, padding_px=1),
        Residual(*conv(16, 16, padding_px=1)),
        nn.MaxPool2d(2),
        *conv(16, 24, padding_px=1),
        Residual(*conv(24, 24, padding_px=1)),
    ]
    readout = RingReadout(24, _size_after(layers, input_size_px), generator=generator)
    return P4MNetwork([*layers, readout], input_size_px)


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
            case Residual():
                size_px = _size_after(layer.children(), size_px)
    return size_px


class P4MNetwork(nn.Sequential):
    """Layers in turn, for one input size: at others a window might lie askew and a rotated input differ."""

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

    def of_rings(self, x: Float[Tensor, "n c8 s s"]) -> Float[Tensor, "n d"]:
        """The means over rings, feature by feature: what `weight`, flattened, makes the logit of, but for the bias."""
        ring = F.one_hot(self.ring.flatten(), len(self.count)).to(x) / self.count
        return (by_feature(x).mean(2).flatten(2) @ ring).flatten(1)

    def extra_repr(self) -> str:
        features, rings = self.weight.shape
        return f"8 x {features} features, {rings} rings of {self.ring.shape[0]} x {self.ring.shape[1]} places"
