"""What Keras's `model.summary()` shows: each layer's output shape and parameters, and the totals; and how it began."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

Shapes = dict[nn.Module, tuple[int, ...]]
_MOST_ROWS: Final = 40


@dataclass(frozen=True)
class InitialWeights:
    """Where a network's weights came from before training.

    "drawn" under the run's seed, all but a backbone's head, which begins at zero; or a backbone's learned on another
    task: those of ImageNet from an installed "package", or those that timm's "hub" has under `name`. Of a user's "own"
    network it is known only whether they are the same under every seed (`fixed`).
    """

    source: Literal["drawn", "package", "hub", "own"] = "drawn"
    name: str = ""
    """Of the backbone in timm, with the tag of its weights if one was asked for, or of a user's own; else ""."""
    fixed: bool = False

    @property
    def pretrained(self) -> bool:
        return self.source in ("package", "hub")


@dataclass(frozen=True)
class LayerSummary:
    """One layer. `output_shape` leaves out the batch axis; it is None for a layer that was never called."""

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int


@dataclass(frozen=True)
class Summary:
    """Every layer with weights or without children, in the order of their definition; of very many, their blocks.

    Counts are Keras's: moving averages (floating-point buffers) are parameters that are not trainable.
    A weight that several layers share is in each of their rows, but once in the totals.
    """

    layers: tuple[LayerSummary, ...]
    trainable: int
    non_trainable: int

    @property
    def total(self) -> int:
        return self.trainable + self.non_trainable


def summarise(network: nn.Module, input_shape: tuple[int, int, int]) -> Summary:
    """Run one blank patch of shape (C, H, W) through the network in evaluation mode, and count.

    The network's modes, weights and moving averages are left as they were.
    """
    shapes = _output_shapes(network, input_shape)
    layers = _folded(_layers(network, shapes), network, shapes)
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    averages = sum(b.numel() for b in _averages(network.buffers()))
    return Summary(layers, trainable, frozen + averages)


def _layers(network: nn.Module, shapes: Shapes) -> list[LayerSummary]:
    return [
        LayerSummary(name, type(module).__name__, shapes.get(module), sum(t.numel() for t in own))
        for name, module in network.named_modules()
        if (own := [*module.parameters(recurse=False), *_averages(module.buffers(recurse=False))])
        or not (any(module.children()) or isinstance(module, nn.Identity))
    ]


def _folded(layers: list[LayerSummary], network: nn.Module, shapes: Shapes) -> tuple[LayerSummary, ...]:
    """The layers, or, where there are very many, the blocks that they are in: as deep as a table can show."""
    depth = max(layer.name.count(".") + 1 for layer in layers)
    while len(layers) > _MOST_ROWS and depth > 1:
        depth -= 1
        within: dict[str, int] = {}
        for layer in layers:
            block = ".".join(layer.name.split(".")[:depth])
            within[block] = within.get(block, 0) + layer.parameters
        modules = {name: network.get_submodule(name) for name in within}
        layers = [
            LayerSummary(name, type(module).__name__, shapes.get(module), within[name])
            for name, module in modules.items()
        ]
    return tuple(layers)


def _output_shapes(network: nn.Module, input_shape: tuple[int, int, int]) -> Shapes:
    shapes: Shapes = {}

    def note_shape(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes.setdefault(module, tuple(output.shape[1:]))

    modules = list(network.modules())
    modes = [module.training for module in modules]
    hooks = [module.register_forward_hook(note_shape) for module in modules]
    weight = next(network.parameters(), torch.empty(0))
    try:
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, *input_shape, dtype=weight.dtype, device=weight.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    return shapes


def _averages(buffers: Iterable[Tensor]) -> list[Tensor]:
    """The floating-point buffers; PyTorch's own batch norm also counts its batches, Keras's does not."""
    return [buffer for buffer in buffers if buffer.is_floating_point()]
