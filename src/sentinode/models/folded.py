"""A trained network with its batch norm folded into its neighbours: fewer, equal operations for prediction.

Batch norm in evaluation is an affine map of each channel. Behind a convolution or dense layer it becomes part of
that layer's weights; behind a ReLU it becomes part of the next layer's. Max-pooling commutes with both and goes
first, so that they see fewer values. Probabilities are those of the layers in turn, to rounding.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sentinode.models.backbones.backbone import Backbone
from sentinode.models.batch_norm import KerasBatchNorm


def folded(network: nn.Module) -> nn.Module:
    """An equal network for evaluation; the one given where one of its layers is of a kind not known here."""
    if not isinstance(network, nn.Sequential):
        return network
    device = next(iter(network.state_dict().values())).device
    folding = _Folding()
    layers = list(copy.deepcopy(network).cpu())  # in double precision, which not every device has
    while layers:
        match layers:
            case [nn.Conv2d() as layer, *_] if folding.pending is not None and not _takes_in(layer):
                return network
            case [nn.Conv2d() | nn.Linear() as layer, KerasBatchNorm() as norm, *layers]:
                folding.weighted(layer, *_affine(norm))
            case [nn.Conv2d() | nn.Linear() as layer, *layers]:
                folding.weighted(layer)
            case [nn.ReLU() | nn.MaxPool2d(), *_] if folding.pending is not None:
                return network  # the map that waits does not commute with these
            case [nn.ReLU(), nn.MaxPool2d() as pool, *layers]:
                folding.layers += [pool, nn.ReLU()]
            case [nn.ReLU(), KerasBatchNorm() as norm, nn.MaxPool2d() as pool, *layers] if folding.ends_in_convolution:
                folding.turned_pool(pool, *_affine(norm))
            case [nn.ReLU(), KerasBatchNorm() as norm, *layers]:
                folding.layers.append(nn.ReLU())
                folding.pending = _affine(norm)
            case [nn.ReLU() | nn.MaxPool2d() | nn.Flatten(start_dim=1, end_dim=-1) as layer, *layers]:
                folding.layers.append(layer)
            case _:
                return network
    if folding.pending is not None:
        return network
    return nn.Sequential(*folding.layers).eval().requires_grad_(False).to(device)


def _takes_in(layer: nn.Conv2d) -> bool:
    """Whether an affine map before the layer can become part of it: a border of zeros would not be mapped."""
    return layer.padding == (0, 0) and layer.groups == 1


def _affine(norm: KerasBatchNorm) -> tuple[Tensor, Tensor]:
    """Factor and offset of each channel, (C,), in evaluation."""
    factor = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.epsilon)
    return factor, norm.bias.double() - norm.running_mean.double() * factor


class _Folding:
    """Layers so far, and the affine map of channels that the next layer with weights has to take in."""

    def __init__(self) -> None:
        self.layers: list[nn.Module] = []
        self.pending: tuple[Tensor, Tensor] | None = None

    @property
    def ends_in_convolution(self) -> bool:
        return bool(self.layers) and isinstance(self.layers[-1], nn.Conv2d)

    @torch.no_grad()
    def weighted(
        self, layer: nn.Conv2d | nn.Linear, factor: Tensor | None = None, offset: Tensor | None = None
    ) -> None:
        """Add a layer that takes in the pending map before it and the given one behind it."""
        weight = layer.weight.double()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.double()
        if self.pending is not None:
            # Of a dense layer behind a flattened map, every channel has several inputs in a row.
            before, shift = (t.repeat_interleave(weight.shape[1] // len(t)) for t in self.pending)
            shape = (1, -1) + (1,) * (weight.ndim - 2)
            bias = bias + (weight * shift.reshape(shape)).flatten(1).sum(1)
            weight = weight * before.reshape(shape)
            self.pending = None
        if factor is not None and offset is not None:
            weight = weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1))
            bias = bias * factor + offset
        layer.weight = nn.Parameter(weight.to(layer.weight).contiguous(memory_format=_format(layer.weight)))
        layer.bias = nn.Parameter(bias.to(layer.weight))
        self.layers.append(layer)

    @torch.no_grad()
    def turned_pool(self, pool: nn.MaxPool2d, factor: Tensor, offset: Tensor) -> None:
        """Pooling before ReLU and norm; where the map falls, of the smallest value, by turning the sign twice."""
        if bool((factor < 0).any()):
            sign = torch.where(factor < 0, -1.0, 1.0)
            last = self.layers[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            last.weight *= sign[:, None, None, None]
            last.bias *= sign
            self.layers += [pool, Times(sign), nn.ReLU()]
        else:
            self.layers += [pool, nn.ReLU()]
        self.pending = (factor, offset)


class Times(nn.Module):
    """Each channel times a number of its own."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor.float()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def _format(weight: Tensor) -> torch.memory_format:
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def folded_backbone(network: nn.Module) -> Backbone | None:
    """A copy of a backbone whose body's batch norm is folded; None for other networks, and bodies not known here."""
    if not isinstance(network, Backbone):
        return None
    body = folded_body(network.body)
    if body is None:
        return None
    copied = copy.copy(network)
    copied._modules = {**network._modules, "body": body}
    return copied


def folded_body(body: nn.Module) -> nn.Module | None:
    """A copy of a backbone's body whose batch norm is part of its convolutions, for evaluation.

    Known are timm's EfficientNets without squeeze-and-excitation, EfficientNet-Lite; None for others.
    """
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
    from timm.models.efficientnet import EfficientNet

    if not isinstance(body, EfficientNet):
        return None
    copied: Any = copy.deepcopy(body)
    pairs: list[tuple[Any, str, str]] = [(copied, "conv_stem", "bn1")]
    if isinstance(copied.conv_head, nn.Conv2d):  # a network that was cut ends before it
        pairs.append((copied, "conv_head", "bn2"))
    for block in (block for row in copied.blocks for block in row):
        match block:
            case DepthwiseSeparableConv() | InvertedResidual() if not (_is_nothing(block.se) and _is_nothing(block.aa)):
                return None
            case InvertedResidual():
                pairs += [(block, "conv_pw", "bn1"), (block, "conv_dw", "bn2"), (block, "conv_pwl", "bn3")]
            case DepthwiseSeparableConv():
                pairs += [(block, "conv_dw", "bn1"), (block, "conv_pw", "bn2")]
            case _:
                return None
    for parent, convolution, norm in pairs:
        _fold(getattr(parent, convolution), getattr(parent, norm))
        setattr(parent, norm, getattr(parent, norm).act)
    module: nn.Module = copied
    return module.eval().requires_grad_(False)


def _is_nothing(part: nn.Module | None) -> bool:
    return part is None or isinstance(part, nn.Identity)


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    offset = norm.bias.double() - norm.running_mean.double() * factor
    if convolution.bias is not None:
        offset += convolution.bias.double() * factor
    weight = convolution.weight.double() * factor[:, None, None, None]
    convolution.weight = nn.Parameter(weight.to(convolution.weight), requires_grad=False)
    convolution.bias = nn.Parameter(offset.to(convolution.weight), requires_grad=False)
