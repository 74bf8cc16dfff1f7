"""Batch norm, ReLU and max-pooling as one step of training on the CPU: the same mathematics, less memory traffic.

Between two convolutions a small network spends more time on moving its activations than on arithmetic. Two facts
spare most of that. Max-pooling commutes with every rising function, so ReLU and the affine map of batch norm are
applied to the pooled values alone, a ninth of them (for a falling map, channels with a negative gamma, the sign
is taken out first). And the gradient of batch norm is affine in its input but for the pooled places, so it is
written in one pass. Outputs and gradients are those of the three layers in turn, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sentinode.models.batch_norm import KerasBatchNorm

_CHANNELS: Final = (slice(None), None, None)  # a value for each channel, beside (N, C, H, W)


class FusedSequential(nn.Sequential):
    """Layers in turn; while training on the CPU, batch norm, ReLU and max-pooling in one, wherever they meet.

    The norm may stand before or after the ReLU. Layers, parameters and state dict are those of nn.Sequential, and
    so is the forward pass in evaluation and on other devices.
    """

    def forward(self, x: Tensor) -> Tensor:
        for layers in self._blocks(fuse=self.training and x.device.type == "cpu"):
            match layers:
                case [KerasBatchNorm() as norm, nn.ReLU(), nn.MaxPool2d() as pool]:
                    x = _normalised(x, norm, pool, relu_first=False)
                case [nn.ReLU(), KerasBatchNorm() as norm, nn.MaxPool2d() as pool]:
                    x = _normalised(x, norm, pool, relu_first=True)
                case [layer]:
                    x = layer(x)
        return x

    def _blocks(self, *, fuse: bool) -> Iterator[list[nn.Module]]:
        layers, at = list(self), 0
        while at < len(layers):
            three = layers[at : at + 3]
            kinds = {type(layer) for layer in three[:2]}
            block = fuse and kinds == {KerasBatchNorm, nn.ReLU} and isinstance(three[-1], nn.MaxPool2d)
            yield three if block else three[:1]
            at += 3 if block else 1


def _normalised(x: Tensor, norm: KerasBatchNorm, pool: nn.MaxPool2d, *, relu_first: bool) -> Tensor:
    y, mean, variance = _NormReluPool.apply(
        x.contiguous(memory_format=torch.channels_last), norm.weight, norm.bias, norm.epsilon, pool, relu_first
    )
    norm.follow(mean, variance)
    normalised: Tensor = y
    return normalised


class _NormReluPool(torch.autograd.Function):
    """(N, C, H, W) -> the normalised, rectified and pooled values, and each channel's mean and biased variance."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "n c h w"],
        weight: Float[Tensor, " c"],
        bias: Float[Tensor, " c"],
        epsilon: float,
        pool: nn.MaxPool2d,
        relu_first: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if relu_first:
            x = torch.relu(x)
        # In two passes and by pairwise sums: PyTorch's own statistics of channels-last memory lose three digits.
        places = x.permute(0, 2, 3, 1).view(-1, x.shape[1])
        mean = places.mean(0)
        variance = (places - mean).square_().mean(0)
        inverse = torch.rsqrt(variance + epsilon)
        scale = weight * inverse
        shift = torch.addcmul(bias, mean, scale, value=-1)
        falling = bool((scale < 0).any())
        sign = torch.where(scale < 0, -1.0, 1.0).to(x.dtype)[_CHANNELS] if falling else None
        top, at = nn.functional.max_pool2d(
            x if sign is None else x * sign, pool.kernel_size, pool.stride, return_indices=True
        )
        if sign is not None:
            top *= sign
        y = torch.addcmul(shift[_CHANNELS], top, scale[_CHANNELS])
        if not relu_first:
            y.relu_()
        ctx.save_for_backward(x, top, at, y, mean, inverse, scale)
        ctx.relu_first = relu_first
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, top, at, y, mean, inverse, scale = ctx.saved_tensors
        count, channels, height, width = x.shape
        places = count * height * width
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if not ctx.relu_first:
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        of_top = gradient.permute(0, 2, 3, 1).reshape(-1, channels)
        of_bias = of_top.sum(0)
        of_weight = ((of_top * top.permute(0, 2, 3, 1).reshape(-1, channels)).sum(0) - mean * of_bias) * inverse
        # Batch norm's gradient is scale (g - mean of g - xhat mean of g xhat), and g is zero but where it was pooled.
        slope = -scale * inverse * of_weight / places
        level = -scale * of_bias / places - slope * mean
        of_x = torch.addcmul(level[_CHANNELS], x, slope[_CHANNELS])
        rows = of_x.permute(0, 2, 3, 1).view(count, height * width, channels)
        rows.scatter_add_(
            1, at.permute(0, 2, 3, 1).reshape(count, -1, channels), (of_top * scale).view(count, -1, channels)
        )
        if ctx.relu_first:
            of_x = torch.ops.aten.threshold_backward(of_x, x, 0)
        return of_x, of_weight, of_bias, None, None, None
