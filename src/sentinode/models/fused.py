"""Batch norm, ReLU and max-pooling as one step of training on the CPU: the same mathematics, less memory traffic.

Between two convolutions a small network spends more time on moving its activations than on arithmetic. Two facts
spare most of that. Max-pooling commutes with every rising function, so ReLU and the affine map of batch norm are
applied to the pooled values alone, a ninth of them (for a falling map, channels with a negative gamma, the sign
is taken out first). And the gradient of batch norm is affine in its input but for the pooled places, so it is
written in one pass. Outputs and gradients are those of the three layers in turn, to rounding; the statistics keep
three digits more than PyTorch's do in channels-last memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sentinode.models.batch_norm import KerasBatchNorm


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
            block = fuse and kinds == {KerasBatchNorm, nn.ReLU} and _is_plain_pool(three[-1])
            yield three if block else three[:1]
            at += 3 if block else 1


def _is_plain_pool(layer: nn.Module) -> bool:
    """Whether a layer is max-pooling in squares that touch."""
    return (
        isinstance(layer, nn.MaxPool2d)
        and isinstance(layer.kernel_size, int)
        and (layer.stride, layer.padding, layer.dilation) == (layer.kernel_size, 0, 1)
        and not (layer.ceil_mode or layer.return_indices)
    )


def _normalised(x: Tensor, norm: KerasBatchNorm, pool: nn.MaxPool2d, *, relu_first: bool) -> Tensor:
    y, channels = _NormReluPool.apply(x, norm.weight, norm.bias, norm.epsilon, pool.kernel_size, relu_first)
    norm.follow(channels[0], channels[1])
    normalised: Tensor = y
    return normalised


@cache
def _loops() -> tuple[ModuleType, Callable[[], None]]:
    """Imported when a network first trains: Numba takes half a second to start, and predicting needs none of it."""
    from sentinode.loops import norm_relu_pool
    from sentinode.loops.jit import share_threads

    return norm_relu_pool, share_threads


class _NormReluPool(torch.autograd.Function):
    """(N, C, H, W) -> the normalised, rectified and pooled values; and for each channel what `forward` tells."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "n c h w"],
        weight: Float[Tensor, " c"],
        bias: Float[Tensor, " c"],
        epsilon: float,
        kernel: int,
        relu_first: bool,
    ) -> tuple[Tensor, Tensor]:
        norm_relu_pool, share_threads = _loops()
        x = x.permute(0, 2, 3, 1).contiguous()
        count, height, width, channels = x.shape
        pooled = (count, height // kernel, width // kernel, channels)
        top, y, of_channels = x.new_empty(pooled), x.new_empty(pooled), x.new_empty(4, channels)
        at = x.new_empty(pooled, dtype=torch.int32)
        share_threads()
        norm_relu_pool.forward(
            x.numpy(),
            weight.detach().numpy(),
            bias.detach().numpy(),
            epsilon,
            kernel,
            relu_first,
            top.numpy(),
            at.numpy(),
            y.numpy(),
            of_channels.numpy(),
        )
        ctx.save_for_backward(x, top, at, y, of_channels)
        ctx.relu_first = relu_first
        ctx.mark_non_differentiable(of_channels)
        return y.permute(0, 3, 1, 2), of_channels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        norm_relu_pool, share_threads = _loops()
        x, top, at, y, of_channels = ctx.saved_tensors
        gradient = gradients[0].permute(0, 2, 3, 1).contiguous()
        of_x, of_weight, of_bias = torch.empty_like(x), x.new_empty(x.shape[3]), x.new_empty(x.shape[3])
        share_threads()
        norm_relu_pool.backward(
            gradient.numpy(),
            x.numpy(),
            top.numpy(),
            at.numpy(),
            y.numpy(),
            of_channels.numpy(),
            ctx.relu_first,
            of_x.numpy(),
            of_weight.numpy(),
            of_bias.numpy(),
        )
        return of_x.permute(0, 3, 1, 2), of_weight, of_bias, None, None, None
