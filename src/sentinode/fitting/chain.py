"""The notebook's networks trained on the CPU with their gradients written out: the same mathematics without autograd.

A step of a small network is short: what autograd and each layer's own operations cost beside the arithmetic is a
good part of it, and the part that a second processor does not speed up. So layers that meet are one compiled loop each
way: a convolution with batch norm, ReLU and max-pooling, and the dense end of the network. Outputs, gradients and
moving averages are those of the layers in turn, to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sentinode.kernels import at_hand
from sentinode.models.batch_norm import KerasBatchNorm

if TYPE_CHECKING:
    from sentinode.kernels.norm import Norm, Pooled

Array = np.ndarray[Any, np.dtype[Any]]


class Chain:
    """Forward and backward through a network's blocks and its head, in turn.

    Parameters and their gradients keep their places in memory while it lives: make it when both have them.
    """

    def __init__(self, blocks: list[ChainBlock], head: Head) -> None:
        self._blocks, self._head = blocks, head

    @classmethod
    def of(cls, network: nn.Module) -> Chain | None:
        """The chain of a network on the CPU in single precision, or None where a layer is of another kind or frozen.

        None, too, where loops cannot be compiled.
        """
        if not isinstance(network, nn.Sequential) or any(
            p.device.type != "cpu" or p.dtype != torch.float32 or not p.requires_grad for p in network.parameters()
        ):
            return None
        if not at_hand():
            return None
        layers, end = list(network)[:-5], list(network)[-5:]
        blocks: list[ChainBlock] = []
        for at in range(0, len(layers), 4):
            if (block := _block_of(layers[at : at + 4], first=at == 0)) is None:
                return None
            blocks.append(block)
        head = _head_of(end)
        return None if head is None else cls(blocks, head)

    @torch.no_grad()
    def step(
        self, images: Float[Tensor, "n c h w"], labels: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Logits and binary cross-entropy of each image; the gradients of its mean replace those of the parameters."""
        x = images.permute(0, 2, 3, 1).contiguous()
        for block in self._blocks:
            x = block.forward(x)
        logits, losses, gradient = self._head(x, labels)
        for block in reversed(self._blocks):
            gradient = block.backward(gradient)
        return logits, losses


def _block_of(layers: list[nn.Module], *, first: bool) -> ChainBlock | None:
    """A convolution in one with what follows it, where the loops know it; the first gives no gradient back."""
    match layers:
        case [
            nn.Conv2d() as convolution,
            (KerasBatchNorm() | nn.ReLU()) as one,
            (KerasBatchNorm() | nn.ReLU()) as other,
            nn.MaxPool2d() as pool,
        ] if type(one) is not type(other):
            kernel, norm = _size(pool), one if isinstance(one, KerasBatchNorm) else other
            assert isinstance(norm, KerasBatchNorm)
            if kernel and _in_tiles(convolution, first=first):
                return ChainBlock(convolution, norm, relu_first=norm is other, kernel=kernel, first=first)
    return None


def _head_of(layers: list[nn.Module]) -> Head | None:
    """The dense end of a network in one, where the loops know it."""
    match layers:
        case [
            nn.Flatten(start_dim=1, end_dim=-1),
            nn.Linear() as dense,
            (KerasBatchNorm() | nn.ReLU()) as first,
            (KerasBatchNorm() | nn.ReLU()) as second,
            nn.Linear(out_features=1) as last,
        ] if type(first) is not type(second):
            norm = first if isinstance(first, KerasBatchNorm) else second
            assert isinstance(norm, KerasBatchNorm)
            if dense.bias is None or last.bias is None or dense.in_features % loops().columns:
                return None
            return Head(dense, norm, last, relu_first=norm is second)
    return None


def _size(pool: nn.MaxPool2d) -> int:
    """The side of the squares of max-pooling, or 0 where it is not in squares that touch."""
    plain = (pool.stride, pool.padding, pool.dilation) == (pool.kernel_size, 0, 1)
    if not (plain and isinstance(pool.kernel_size, int)) or pool.ceil_mode or pool.return_indices:
        return 0
    return pool.kernel_size


def _in_tiles(convolution: nn.Conv2d, *, first: bool) -> bool:
    """Whether the loops know this convolution: filters in channels-last memory that move one place at a time."""
    columns = loops().columns
    return (
        (convolution.stride, convolution.padding, convolution.dilation) == ((1, 1), (0, 0), (1, 1))
        and (convolution.groups, convolution.bias is None) == (1, False)
        and convolution.out_channels % columns == 0
        and (first or convolution.in_channels % columns == 0)
        and convolution.weight.permute(0, 2, 3, 1).is_contiguous()
    )


class ChainBlock:
    """A convolution, batch norm, ReLU and max-pooling; activations are contiguous, (N, H, W, C)."""

    def __init__(
        self, convolution: nn.Conv2d, norm: KerasBatchNorm, *, relu_first: bool, kernel: int, first: bool
    ) -> None:
        self._norm, self._kernel, self._first = norm_of(norm, relu_first=relu_first), kernel, first
        assert convolution.bias is not None
        self._filters, self._bias = _array(convolution.weight.permute(0, 2, 3, 1)), _array(convolution.bias)
        gradients = [gradient_of(p) for p in (convolution.weight, convolution.bias, norm.weight, norm.bias)]
        self._gradients = tuple(_array(t) for t in (gradients[0].permute(0, 2, 3, 1), *gradients[1:]))
        self._filled: dict[torch.Size, _Filled] = {}

    def forward(self, x: Tensor) -> Tensor:
        compiled, self._x = loops(), x.numpy()
        if x.shape not in self._filled:
            self._filled[x.shape] = self._room_for(x.shape)
        now = self._now = self._filled[x.shape]
        compiled.share_threads()
        compiled.convolution.forward(self._x, self._filters, self._bias, self._norm, self._kernel, now.z, now.pooled)
        return now.y

    def backward(self, gradient: Tensor) -> Tensor:
        """Write the parameters' gradients and return that of the input, which nobody asks the first block for."""
        compiled, now = loops(), self._now
        compiled.share_threads()
        left = (now.z, now.pooled, self._norm.relu_first, now.of_x.numpy())
        compiled.convolution.backward(gradient.numpy(), self._x, self._filters, *left, self._gradients)
        return gradient if self._first else now.of_x

    def _room_for(self, inputs: torch.Size) -> _Filled:
        count, height, width, _ = inputs
        channels, tall, wide, _ = self._filters.shape
        rows, columns = height - tall + 1, width - wide + 1
        pooled = (count, rows // self._kernel, columns // self._kernel, channels)
        y, top, at = torch.empty(pooled), np.empty(pooled, np.float32), np.empty(pooled, np.int32)
        return _Filled(
            y,
            np.empty((count, rows, columns, channels), np.float32),
            torch.empty((0, 1, 1, 1) if self._first else inputs),
            loops().Pooled(top, at, y.numpy(), np.empty((3, channels), np.float32)),
        )


@dataclass(frozen=True, eq=False)
class _Filled:
    """What a batch of one shape is written to, over and over: a fresh page costs more than what is written on it."""

    y: Tensor
    z: Array
    """Of the convolution."""
    of_x: Tensor
    pooled: Pooled


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
    """Imported when a network first trains: Numba takes half a second to start, and predicting needs none of it."""
    from sentinode.kernels import convolution
    from sentinode.kernels.dense_end import head
    from sentinode.kernels.jit import share_threads
    from sentinode.kernels.norm import Norm, Pooled
    from sentinode.kernels.tile import COLUMNS

    return SimpleNamespace(
        Norm=Norm,
        Pooled=Pooled,
        columns=COLUMNS,
        convolution=convolution,
        head=head,
        share_threads=share_threads,
    )
