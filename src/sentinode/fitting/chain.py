"""A chain of layers trained on the CPU with its gradients written out: the same mathematics without autograd.

A step of a small network is short: what autograd and each layer's own operations cost beside the arithmetic is a
good part of it, and the part that a second processor does not speed up. Layers that meet are one compiled loop each
way where the loops know them: a convolution with batch norm, ReLU and max-pooling, these three alone, and the dense
end of the network. What is left is PyTorch's. Outputs, gradients and moving averages are those of the layers in
turn, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sentinode.fitting.links import Block, Convolution, Flatten, Head, Linear, NormReluPool, loops
from sentinode.kernels import at_hand
from sentinode.models.batch_norm import KerasBatchNorm
from sentinode.models.folded import moves_in_tiles, side_of_squares


@runtime_checkable  # for the tests, which check arguments
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

    def __init__(self, links: list[Link], head: Head | None = None) -> None:
        self._links, self._head = links, head

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
        layers = list(network)
        head = _head_of(layers[-5:])
        links = _links_of(layers[:-5] if head else layers)
        return None if links is None else cls(links, head)

    @torch.no_grad()
    def step(
        self, images: Float[Tensor, "n c h w"], labels: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Logits and binary cross-entropy of each image; the gradients of its mean replace those of the parameters."""
        x = images.permute(0, 2, 3, 1).contiguous()
        for link in self._links:
            x = link.forward(x)
        logits, losses, gradient = (self._head or _cross_entropy)(x, labels)
        for link in reversed(self._links):
            gradient = link.backward(gradient)
        return logits, losses


def _cross_entropy(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits, losses, gradient = outputs.squeeze(1), torch.empty_like(labels), torch.empty_like(labels)
    loops().cross_entropy(logits.numpy(), labels.numpy(), losses.numpy(), gradient.numpy())
    return logits, losses, gradient.unsqueeze(1)


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


def _links_of(layers: Sequence[nn.Module]) -> list[Link] | None:
    links: list[Link] = []
    while layers:
        match layers:
            case [nn.Conv2d() as convolution, KerasBatchNorm() as norm, nn.ReLU(), nn.MaxPool2d() as pool, *layers] if (
                side_of_squares(pool) and _in_tiles(convolution, first=not links)
            ):
                links.append(Block(convolution, norm, relu_first=False, kernel=side_of_squares(pool), first=not links))
            case [nn.Conv2d() as convolution, nn.ReLU(), KerasBatchNorm() as norm, nn.MaxPool2d() as pool, *layers] if (
                side_of_squares(pool) and _in_tiles(convolution, first=not links)
            ):
                links.append(Block(convolution, norm, relu_first=True, kernel=side_of_squares(pool), first=not links))
            case [KerasBatchNorm() as norm, nn.ReLU(), nn.MaxPool2d() as pool, *layers] if side_of_squares(pool):
                links.append(NormReluPool(norm, relu_first=False, kernel=side_of_squares(pool)))
            case [nn.ReLU(), KerasBatchNorm() as norm, nn.MaxPool2d() as pool, *layers] if side_of_squares(pool):
                links.append(NormReluPool(norm, relu_first=True, kernel=side_of_squares(pool)))
            case [KerasBatchNorm() as norm, nn.ReLU(), *layers]:
                links.append(NormReluPool(norm, relu_first=False, kernel=1))
            case [nn.ReLU(), KerasBatchNorm() as norm, *layers]:
                links.append(NormReluPool(norm, relu_first=True, kernel=1))
            case [nn.Conv2d(padding_mode="zeros", padding=(_, _)) as convolution, *layers] if (
                convolution.bias is not None
            ):
                links.append(Convolution(convolution, first=not links))
            case [nn.Flatten(start_dim=1, end_dim=-1), *layers]:
                links.append(Flatten())
            case [nn.Linear() as linear, *layers] if linear.bias is not None:
                links.append(Linear(linear))
            case _:
                return None
    return links


def _in_tiles(convolution: nn.Conv2d, *, first: bool) -> bool:
    """Whether the loops know this convolution both ways: in channels-last memory, with whole tiles of inputs too."""
    return (
        moves_in_tiles(convolution)
        and (first or convolution.in_channels % loops().columns == 0)
        and convolution.weight.permute(0, 2, 3, 1).is_contiguous()
    )
