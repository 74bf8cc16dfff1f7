"""A chain of layers trained on the CPU with its gradients written out: the same mathematics without autograd.

A step of a small network is short: what autograd and each layer's own operations cost beside the arithmetic is a
good part of it, and the part that a second processor does not speed up. Convolutions and matrix products are
PyTorch's; batch norm, ReLU and max-pooling are one compiled loop each way, wherever they meet. Outputs, gradients
and moving averages are those of the layers in turn, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sentinode.models.batch_norm import KerasBatchNorm

Array = np.ndarray[Any, Any]


class Link(Protocol):
    """A layer, or several in one; activations are contiguous, (N, H, W, C) or (N, C)."""

    def forward(self, x: Tensor) -> Tensor: ...

    def backward(self, gradient: Tensor) -> Tensor:
        """Write the parameters' gradients and return that of the input, which nobody asks the first link for."""
        ...


class Chain:
    """Forward and backward through a network's layers, in turn.

    Parameters and their gradients keep their places in memory while it lives: make it when both have them.
    """

    def __init__(self, links: list[Link]) -> None:
        self._links = links

    @classmethod
    def of(cls, network: nn.Module) -> Chain | None:
        """The chain of a network on the CPU in single precision, or None where a layer is of another kind or frozen."""
        links = _links_of(network)
        return None if links is None else cls(links)

    @torch.no_grad()
    def step(
        self, images: Float[Tensor, "n c h w"], labels: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Logits and binary cross-entropy of each image; the gradients of its mean replace those of the parameters."""
        x = images.permute(0, 2, 3, 1).contiguous()
        for link in self._links:
            x = link.forward(x)
        logits, losses, gradient = x.squeeze(1), torch.empty_like(labels), torch.empty_like(labels)
        _loops().cross_entropy(logits.numpy(), labels.numpy(), losses.numpy(), gradient.numpy())
        of_output: Tensor = gradient.unsqueeze(1)
        for link in reversed(self._links):
            of_output = link.backward(of_output)
        return logits, losses


def _links_of(network: nn.Module) -> list[Link] | None:
    if not isinstance(network, nn.Sequential) or any(
        p.device.type != "cpu" or p.dtype != torch.float32 or not p.requires_grad for p in network.parameters()
    ):
        return None
    links: list[Link] = []
    layers: Sequence[nn.Module] = list(network)
    while layers:
        match layers:
            case [KerasBatchNorm() as norm, nn.ReLU(), nn.MaxPool2d() as pool, *layers] if _size(pool):
                links.append(_NormReluPool(norm, relu_first=False, kernel=_size(pool)))
            case [nn.ReLU(), KerasBatchNorm() as norm, nn.MaxPool2d() as pool, *layers] if _size(pool):
                links.append(_NormReluPool(norm, relu_first=True, kernel=_size(pool)))
            case [KerasBatchNorm() as norm, nn.ReLU(), *layers]:
                links.append(_NormReluPool(norm, relu_first=False, kernel=1))
            case [nn.ReLU(), KerasBatchNorm() as norm, *layers]:
                links.append(_NormReluPool(norm, relu_first=True, kernel=1))
            case [nn.Conv2d(padding_mode="zeros", padding=(_, _)) as convolution, *layers] if (
                convolution.bias is not None
            ):
                links.append(_Convolution(convolution, first=not links))
            case [nn.Flatten(start_dim=1, end_dim=-1), *layers]:
                links.append(_Flatten())
            case [nn.Linear() as linear, *layers] if linear.bias is not None:
                links.append(_Linear(linear))
            case _:
                return None
    return links


def _size(pool: nn.MaxPool2d) -> int:
    """The side of the squares of max-pooling, or 0 where it is not in squares that touch."""
    plain = (pool.stride, pool.padding, pool.dilation) == (pool.kernel_size, 0, 1)
    if not (plain and isinstance(pool.kernel_size, int)) or pool.ceil_mode or pool.return_indices:
        return 0
    return pool.kernel_size


class _Convolution:
    def __init__(self, layer: nn.Conv2d, *, first: bool) -> None:
        self._layer, self._first = layer, first
        for parameter in layer.parameters():
            _gradient_of(parameter)

    def forward(self, x: Tensor) -> Tensor:
        self._x = x.permute(0, 3, 1, 2)
        y: Tensor = self._layer(self._x).permute(0, 2, 3, 1).contiguous()
        return y

    def backward(self, gradient: Tensor) -> Tensor:
        layer = self._layer
        assert layer.bias is not None
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        of_x: Tensor
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient.permute(0, 3, 1, 2),
            self._x,
            layer.weight,
            layer.bias.shape,
            layer.stride,
            layer.padding,
            layer.dilation,
            False,
            (0, 0),
            layer.groups,
            (not self._first, True, True),
        )
        layer.weight.grad.copy_(of_weight)
        layer.bias.grad.copy_(of_bias)
        return gradient if self._first else of_x.permute(0, 2, 3, 1).contiguous()


class _Linear:
    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        for parameter in layer.parameters():
            _gradient_of(parameter)

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        y: Tensor = self._layer(x)
        return y

    def backward(self, gradient: Tensor) -> Tensor:
        torch.mm(gradient.t(), self._x, out=self._layer.weight.grad)
        torch.sum(gradient, 0, out=self._layer.bias.grad)
        return gradient @ self._layer.weight


class _Flatten:
    """In PyTorch's order, (C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        self._shape = x.shape
        return x.permute(0, 3, 1, 2).reshape(len(x), -1)

    def backward(self, gradient: Tensor) -> Tensor:
        count, height, width, channels = self._shape
        return gradient.view(count, channels, height, width).permute(0, 2, 3, 1).contiguous()


class _NormReluPool:
    def __init__(self, norm: KerasBatchNorm, *, relu_first: bool, kernel: int) -> None:
        self._norm, self._relu_first, self._kernel = norm, relu_first, kernel
        self._given = [t.detach().numpy() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
        self._gradients = [_gradient_of(parameter).numpy() for parameter in (norm.weight, norm.bias)]
        self._filled: dict[torch.Size, _Filled] = {}

    def forward(self, x: Tensor) -> Tensor:
        loops = _loops()
        self._shape = x.shape
        x = x if x.ndim == 4 else x[:, None, None, :]
        self._x = x.numpy()
        if x.shape not in self._filled:
            self._filled[x.shape] = _Filled.empty(x.shape, self._kernel)
        self._now = now = self._filled[x.shape]
        settings = (self._norm.momentum, self._norm.epsilon, self._kernel, self._relu_first)
        loops.share_threads()
        loops.forward(self._x, *self._given, *settings, *now.kept, now.channels)
        return now.y if len(self._shape) == 4 else now.y.view(self._shape)

    def backward(self, gradient: Tensor) -> Tensor:
        loops, now = _loops(), self._now
        loops.share_threads()
        given = gradient.view(now.y.shape).numpy()
        loops.backward(given, self._x, *now.kept, now.channels, self._relu_first, now.of_x.numpy(), *self._gradients)
        return now.of_x.view(self._shape)


@dataclass(frozen=True, eq=False)
class _Filled:
    """What a batch of one shape is written to, over and over: a fresh page costs more than what is written on it."""

    y: Tensor
    of_x: Tensor
    kept: tuple[Array, Array, Array]
    channels: Array

    @classmethod
    def empty(cls, shape: torch.Size, kernel: int) -> _Filled:
        count, height, width, channels = shape
        pooled = (count, height // kernel, width // kernel, channels)
        y = torch.empty(pooled)
        kept = (np.empty(pooled, np.float32), np.empty(pooled, np.int32), y.numpy())
        return cls(y, torch.empty(shape), kept, np.empty((3, channels), np.float32))


def _gradient_of(parameter: nn.Parameter) -> Tensor:
    """Where a parameter's gradient is kept."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


@cache
def _loops() -> SimpleNamespace:
    """Imported when a network first trains: Numba takes half a second to start, and predicting needs none of it."""
    from sentinode.loops.cross_entropy import cross_entropy
    from sentinode.loops.jit import share_threads
    from sentinode.loops.norm_relu_pool import backward, forward

    return SimpleNamespace(cross_entropy=cross_entropy, share_threads=share_threads, forward=forward, backward=backward)
