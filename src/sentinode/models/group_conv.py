"""Layers equivariant to p4m: rotations by 90 degrees, flips, moves by whole pixels (Cohen and Welling 2016).

A feature has 8 maps, one for each symmetry of the square, numbered as in `data/patches.py`. Feature maps are
(N, 8 C, H, W), the 8 maps of a feature side by side: channel 8 c + g is feature c under symmetry g. When the symmetry
u transforms the input, it transforms every layer's output, and its maps change places: map g is then what map
u^-1 g was, transformed. The tests hold every layer to it.

Filters are never transformed while a network runs: a filter bank's 8 copies are one lookup in it, by a fixed index. The
rest is an ordinary convolution with 8 times the channels.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.models.batch_norm import KerasBatchNorm

ORDER: Final = len(SYMMETRIES)  # of the group of rotations and flips


def product(first: int, second: int) -> int:
    """The symmetry that does `second`, then `first`.

    Symmetry g flips (m) if g >= 4, then rotates by 90 (g mod 4) degrees (r): g = r^q m^e, and m r = r^-1 m.
    """
    turns = first % 4 + (-second if first >= 4 else second) % 4
    return turns % 4 + 4 * ((first >= 4) != (second >= 4))


def inverse(symmetry: int) -> int:
    """The symmetry that undoes another: a rotation is undone by rotating back, a flip by itself."""
    return symmetry if symmetry >= 4 else -symmetry % 4


def by_feature(maps: Float[Tensor, "n c8 h w"]) -> Float[Tensor, "n c 8 h w"]:
    """The same maps, a feature's 8 along an axis of their own."""
    return maps.view(maps.shape[0], -1, ORDER, *maps.shape[2:])  # not len(maps): a tracer would write it down


def output_size_px(input_size_px: int, *, kernel_px: int, stride: int = 1, padding_px: int = 0) -> int:
    """The size after a convolution or pooling whose windows lie symmetrically in the input; ValueError otherwise.

    Windows that leave pixels over leave them at the right and at the bottom: transformed by 180 degrees, the input is
    seen through other windows, and equivariance is lost.
    """
    steps, left_over = divmod(input_size_px + 2 * padding_px - kernel_px, stride)
    if steps < 0 or left_over:
        raise ValueError(
            f"windows of {kernel_px} pixels in steps of {stride} do not lie symmetrically in "
            f"{input_size_px} + 2 * {padding_px} pixels; choose another size, kernel, stride or padding"
        )
    return steps + 1


class _ExpandedConv(nn.Module):
    """A correlation with the 8 copies of each filter, (C_out, C_in, k, k); `index` says where each value goes.

    No bias: a norm follows. Weights are He-normal (He et al. 2015), with variance 2 / (C_in k^2).
    """

    index: Int[Tensor, " places"]

    def __init__(
        self,
        in_maps: int,
        out_features: int,
        kernel_px: int,
        index: Int[Tensor, "..."],
        *,
        generator: torch.Generator,
        stride: int,
        padding_px: int,
    ) -> None:
        super().__init__()
        self.kernel_px, self.stride, self.padding_px = kernel_px, stride, padding_px
        self.weight = nn.Parameter(torch.empty(out_features, in_maps, kernel_px, kernel_px))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu", generator=generator)
        self.register_buffer("index", index.flatten(), persistent=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d8 i j"]:
        return F.conv2d(x, self.expanded(), stride=self.stride, padding=self.padding_px)

    def expanded(self) -> Float[Tensor, "d8 c k k"]:
        """The filters' 8 copies: copy g is the filter transformed by g, its maps, if it has 8, in their new places."""
        d, c, k, _ = self.weight.shape
        maps = len(self.index) // (ORDER * k**2)  # of each input feature: 1 of an image, 8 behind it
        copies = self.weight.reshape(d, c // maps, maps * k**2).index_select(2, self.index)
        return copies.view(d, c // maps, ORDER, maps, k, k).transpose(1, 2).reshape(ORDER * d, c, k, k)

    def extra_repr(self) -> str:
        d, c, _, _ = self.weight.shape
        window = f"kernel_px={self.kernel_px}, stride={self.stride}, padding_px={self.padding_px}"
        return f"{c} maps -> 8 x {d}, {window}"


class LiftingConv(_ExpandedConv):
    """Correlate an image with the 8 copies of each filter (eq. 10): (N, C_in, H, W) -> (N, 8 C_out, H', W')."""

    def __init__(
        self,
        in_channels: int,
        out_features: int,
        kernel_px: int,
        *,
        generator: torch.Generator,
        stride: int = 1,
        padding_px: int = 0,
    ) -> None:
        index = _rotated_places(kernel_px)
        super().__init__(
            in_channels, out_features, kernel_px, index, generator=generator, stride=stride, padding_px=padding_px
        )


class GroupConv(_ExpandedConv):
    """Correlate feature maps over p4m (eq. 11): (N, 8 C_in, H, W) -> (N, 8 C_out, H', W').

    A filter has 8 maps for each input feature, too: output map g is the sum over h of input map h, correlated with
    the filter's map g^-1 h transformed by g.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_px: int,
        *,
        generator: torch.Generator,
        stride: int = 1,
        padding_px: int = 0,
    ) -> None:
        maps = torch.tensor([[product(inverse(g), h) for h in SYMMETRIES] for g in SYMMETRIES])
        index = maps[:, :, None, None] * kernel_px**2 + _rotated_places(kernel_px)[:, None]
        in_maps = ORDER * in_features
        super().__init__(
            in_maps, out_features, kernel_px, index, generator=generator, stride=stride, padding_px=padding_px
        )


def _rotated_places(kernel_px: int) -> Int[Tensor, "8 k k"]:
    """For each symmetry and place of a kernel, the place (row by row) that the symmetry brings there."""
    places = torch.arange(kernel_px**2).view(1, 1, kernel_px, kernel_px)
    return torch.cat([apply_symmetry(places, g)[0] for g in SYMMETRIES])


class GroupNormRelu(KerasBatchNorm):
    """Batch norm and ReLU; a feature's 8 maps share mean, variance, scale and shift.

    Each map with a norm of its own would break equivariance. Input and output: (N, 8 C, H, W). While training, both
    are one function with its own gradient: no layer of PyTorch shares statistics so without a copy of the maps.
    """

    def forward(self, x: Float[Tensor, "n c8 h w"]) -> Float[Tensor, "n c8 h w"]:
        if self.training:
            y, mean, variance = _SharedNormRelu.apply(x, self.weight, self.bias, self.epsilon)
            self.follow(mean, variance)
            normalised: Tensor = y
            return normalised
        mean, variance, weight, bias = (
            of_feature.repeat_interleave(ORDER)
            for of_feature in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        return F.relu(F.batch_norm(x, mean, variance, weight, bias, False, 0.0, self.epsilon), inplace=True)


class _SharedNormRelu(torch.autograd.Function):
    """(N, 8 C, H, W) -> the normalised and rectified maps, and each feature's mean and biased variance, (C,)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "n c8 h w"],
        weight: Float[Tensor, " c"],
        bias: Float[Tensor, " c"],
        epsilon: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        places = _places_by_channel(x)
        # In two passes and by pairwise sums, as in models/fused.py: one pass of sums loses three digits in float32.
        mean = _over_maps(places.mean(0))
        variance = _over_maps((places - mean.repeat_interleave(ORDER)).square_().mean(0))
        inverse = torch.rsqrt(variance + epsilon)
        scale = weight * inverse
        shift = torch.addcmul(bias, mean, scale, value=-1)
        y = torch.addcmul(shift.repeat_interleave(ORDER), places, scale.repeat_interleave(ORDER)).relu_()
        ctx.save_for_backward(x, y, mean, inverse, scale)
        ctx.mark_non_differentiable(mean, variance)
        return _as_maps(y, x), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, inverse, scale = ctx.saved_tensors
        places = _places_by_channel(x)
        g = torch.ops.aten.threshold_backward(_places_by_channel(gradients[0]), y, 0)
        of_bias = _over_maps(g.sum(0)) * ORDER
        of_weight = (_over_maps((g * places).sum(0)) * ORDER - mean * of_bias) * inverse
        # scale (g - mean of g - xhat mean of g xhat), the means over all that shares the norm.
        count = places.numel() // len(mean)
        slope = -scale * inverse * of_weight / count
        level = -scale * of_bias / count - slope * mean
        of_x = torch.addcmul(level.repeat_interleave(ORDER), places, slope.repeat_interleave(ORDER))
        of_x.addcmul_(g, scale.repeat_interleave(ORDER))
        return _as_maps(of_x, x), of_weight, of_bias, None


def _places_by_channel(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "nhw c"]:
    """A view, where memory is channels-last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _as_maps(places: Float[Tensor, "nhw c"], like: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    count, channels, height, width = like.shape
    return places.view(count, height, width, channels).permute(0, 3, 1, 2)


def _over_maps(of_channel: Float[Tensor, " c8"]) -> Float[Tensor, " c"]:
    return of_channel.view(-1, ORDER).mean(1)
