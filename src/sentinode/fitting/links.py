"""The layers of a chain, one or several in turn, with their gradients written out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sentinode.models.batch_norm import KerasBatchNorm

if TYPE_CHECKING:
    from sentinode.kernels.norm import Norm, Pooled

Array = np.ndarray[Any, np.dtype[Any]]


class Block:
    """A convolution, batch norm, ReLU and max-pooling."""

    def __init__(
        self, convolution: nn.Conv2d, norm: KerasBatchNorm, *, relu_first: bool, kernel: int, first: bool
    ) -> None:
        self._norm, self._kernel, self._first = norm_of(norm, relu_first=relu_first), kernel, first
        assert convolution.bias is not None
        self._filters, self._bias = _array(convolution.weight.permute(0, 2, 3, 1)), _array(convolution.bias)
        gradients = [gradient_of(p) for p in (convolution.weight, convolution.bias, norm.weight, norm.bias)]
        self._gradients = tuple(_array(t) for t in (gradients[0].permute(0, 2, 3, 1), *gradients[1:]))
        self._filled: dict[torch.Size, tuple[_Filled, Tensor, Array]] = {}

    def forward(self, x: Tensor) -> Tensor:
        compiled = loops()
        self._x = x.numpy()
        if x.shape not in self._filled:
            count, height, width, _ = x.shape
            size, tall, wide, _ = self._filters.shape
            shape = torch.Size((count, height - tall + 1, width - wide + 1, size))
            of_x = torch.empty((0, 1, 1, 1) if self._first else x.shape)
            self._filled[x.shape] = _Filled.empty(shape, self._kernel), of_x, np.empty(shape, np.float32)
        now, _, z = self._now = self._filled[x.shape]
        compiled.share_threads()
        compiled.convolution.forward(self._x, self._filters, self._bias, self._norm, self._kernel, z, now.pooled)
        return now.y

    def backward(self, gradient: Tensor) -> Tensor:
        compiled, (now, of_x, z) = loops(), self._now
        compiled.share_threads()
        left = (z, now.pooled, self._norm.relu_first, of_x.numpy())
        compiled.convolution.backward(gradient.numpy(), self._x, self._filters, *left, self._gradients)
        return gradient if self._first else of_x


class Convolution:
    def __init__(self, layer: nn.Conv2d, *, first: bool) -> None:
        self._layer, self._first = layer, first
        for parameter in layer.parameters():
            gradient_of(parameter)

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


class Linear:
    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        for parameter in layer.parameters():
            gradient_of(parameter)

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        y: Tensor = self._layer(x)
        return y

    def backward(self, gradient: Tensor) -> Tensor:
        torch.mm(gradient.t(), self._x, out=self._layer.weight.grad)
        torch.sum(gradient, 0, out=self._layer.bias.grad)
        return gradient @ self._layer.weight


class Flatten:
    """In PyTorch's order, (C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        self._shape = x.shape
        return x.permute(0, 3, 1, 2).reshape(len(x), -1)

    def backward(self, gradient: Tensor) -> Tensor:
        count, height, width, channels = self._shape
        return gradient.view(count, channels, height, width).permute(0, 2, 3, 1).contiguous()


class NormReluPool:
    def __init__(self, norm: KerasBatchNorm, *, relu_first: bool, kernel: int) -> None:
        self._norm, self._kernel = norm_of(norm, relu_first=relu_first), kernel
        self._gradients = [gradient_of(parameter).numpy() for parameter in (norm.weight, norm.bias)]
        self._filled: dict[torch.Size, _Filled] = {}

    def forward(self, x: Tensor) -> Tensor:
        compiled = loops()
        self._shape = x.shape
        x = x if x.ndim == 4 else x[:, None, None, :]
        self._x = x.numpy()
        if x.shape not in self._filled:
            self._filled[x.shape] = _Filled.empty(x.shape, self._kernel)
        self._now = now = self._filled[x.shape]
        compiled.share_threads()
        compiled.forward(self._x, self._norm, self._kernel, now.pooled)
        return now.y if len(self._shape) == 4 else now.y.view(self._shape)

    def backward(self, gradient: Tensor) -> Tensor:
        compiled, now = loops(), self._now
        compiled.share_threads()
        given = gradient.view(now.y.shape).numpy()
        compiled.backward(given, self._x, now.pooled, self._norm.relu_first, now.of_x.numpy(), *self._gradients)
        return now.of_x.view(self._shape)


class Head:
    """Flatten - dense - batch norm and ReLU - dense - cross-entropy, forwards and backwards at once."""

    def __init__(self, dense: nn.Linear, norm: KerasBatchNorm, last: nn.Linear, *, relu_first: bool) -> None:
        self._norm = norm_of(norm, relu_first=relu_first)
        parameters = (dense.weight, dense.bias, norm.weight, norm.bias, last.weight, last.bias)
        shapes = [p.shape if p is dense.weight else (p.numel(),) for p in parameters]
        self._dense = (_array(dense.weight), _array(dense.bias))
        self._end = (_array(last.weight.view(-1)), _array(last.bias))
        self._gradients = tuple(_array(gradient_of(p).view(s)) for p, s in zip(parameters, shapes, strict=True))

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, losses, and the gradient of the mean loss."""
        logits, losses, of_x = torch.empty_like(labels), torch.empty_like(labels), torch.empty_like(x)
        given = (x.numpy(), labels.numpy(), self._dense, self._norm, self._end)
        loops().head(*given, self._gradients, of_x.numpy(), logits.numpy(), losses.numpy())
        return logits, losses, of_x


@dataclass(frozen=True, eq=False)
class _Filled:
    """What a batch of one shape is written to, over and over: a fresh page costs more than what is written on it."""

    y: Tensor
    of_x: Tensor
    pooled: Pooled

    @classmethod
    def empty(cls, shape: torch.Size, kernel: int) -> _Filled:
        count, height, width, channels = shape
        of_y = (count, height // kernel, width // kernel, channels)
        y = torch.empty(of_y)
        top, at = np.empty(of_y, np.float32), np.empty(of_y, np.int32)
        pooled = loops().Pooled(top, at, y.numpy(), np.empty((3, channels), np.float32))
        return cls(y, torch.empty(shape), pooled)


def gradient_of(parameter: Tensor) -> Tensor:
    """Where a parameter's gradient is kept."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def norm_of(norm: KerasBatchNorm, *, relu_first: bool) -> Norm:
    """A batch norm as kernels are handed it: the arrays are its own memory."""
    arrays = [_array(t) for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    found: Norm = loops().Norm(*arrays, norm.momentum, norm.epsilon, relu_first)
    return found


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().numpy()
    return array


@cache
def loops() -> SimpleNamespace:
    """Imported when a network first trains: Numba takes half a second to start."""
    from sentinode.kernels import convolution
    from sentinode.kernels.cross_entropy import cross_entropy
    from sentinode.kernels.dense_end import head
    from sentinode.kernels.jit import share_threads
    from sentinode.kernels.norm import Norm, Pooled
    from sentinode.kernels.norm_relu_pool import backward, forward
    from sentinode.kernels.tile import COLUMNS

    return SimpleNamespace(
        Norm=Norm,
        Pooled=Pooled,
        columns=COLUMNS,
        convolution=convolution,
        cross_entropy=cross_entropy,
        head=head,
        share_threads=share_threads,
        forward=forward,
        backward=backward,
    )
