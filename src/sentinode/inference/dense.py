"""What a network sees of every cell of an image, made from the image at once and not patch by patch.

Cells are 32 pixels apart, or fewer, and patches are 96 wide, so each pixel lies in nine patches or more: cut out one by
one, it is copied and averaged as often. Here the blocks of a downsampling are summed once over the image, and each cell
reads its own. The inputs are those of its patch to the last bit.

The notebook's networks share no more than that, where cells are 32 pixels apart. Their input is the patch downsampled
by 3, which does not divide 32. The blocks of neighbouring cells lie at other offsets, and cells with the same offsets
are 96 pixels apart, side by side. So each block enters one cell alone, and a convolution over the whole image computes
as much as cell by cell. Of cells 8 pixels apart every third has the same offsets, and its patch shares most of its
blocks. These networks pad nothing. So with max-pooling at every place, and what follows dilated, one pass gives each
patch's own logit, to rounding.

Networks that pad can share their maps, too: one pass over the image, and each cell's logit from the part of the maps
that its patch covers (`DenseNetwork`). That is an approximation. A patch alone is surrounded by zeros, of which each
padded convolution carries a little further in; in the image there is tissue instead. Slides record how much it matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.config.run import PreprocessConfig
from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.inputs.preprocess import sampled_px
from sentinode.models.backbones.backbone import Backbone
from sentinode.models.folded import Times, folded, folded_body
from sentinode.models.group_conv import by_feature
from sentinode.models.p4m import P4MNetwork

_ROWS = 64
_SEEN_PX: Final = 512  # along a side of what a dense network sees at once: the maps of more overflow a cache


def is_shared(config: PreprocessConfig) -> bool:
    """Whether inputs can be made from the image: a stain is normalised patch by patch."""
    return config.stain == "none"


def inputs_of_cells(
    rgb: UInt8[np.ndarray, "height width 3"],
    cells: Bool[np.ndarray, "rows columns"],
    config: PreprocessConfig,
    cell_px: int = CENTRE_SIZE_PX,
) -> UInt8[np.ndarray, "n s s 3"]:
    """What `preprocess` makes of the patches around the marked cells, row by row; no stain is normalised.

    `rgb` is all that the patches cover: its sides are `cell_px` (cells - 1) + 96, so 32 pixels around cells of 32.
    """
    rows, columns = cells.shape
    expected = (*(cell_px * (count - 1) + PATCH_SIZE_PX for count in cells.shape), 3)
    if rgb.shape != expected:
        raise ValueError(f"{rows} x {columns} cells need an image of the shape {expected}, not {rgb.shape}")
    within, block = sampled_px(config)
    means = np.ascontiguousarray(rgb) if block == 1 else _block_means(rgb, block)
    pixels = means.view("V3")[..., 0]  # three bytes are one pixel, copied at once
    down, across = (cell_px * at[:, None] + within for at in np.nonzero(cells))
    inputs = np.take(pixels.ravel(), down[:, :, None] * pixels.shape[1] + across[:, None, :])
    return np.asarray(inputs[..., None].view(np.uint8))


def _block_means(rgb: UInt8[np.ndarray, "height width 3"], block: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """The rounded mean of the block of which each pixel is the upper left one; some rows at a time, within a cache."""
    height, width = rgb.shape[0] - block + 1, rgb.shape[1] - block + 1
    means, values = np.empty((height, width * 3), np.uint8), rgb.reshape(len(rgb), -1)
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        tall = values[top:bottom].astype(np.uint16)
        for dy in range(1, block):
            tall += values[top + dy : bottom + dy]
        total = tall[:, : width * 3].copy()
        for dx in range(3, 3 * block, 3):
            total += tall[:, dx : dx + width * 3]
        total += block * block // 2
        total //= block * block
        means[top:bottom] = total
    return means.reshape(height, width, 3)


@dataclass(frozen=True)
class Geometry:
    """How patches lie in an image that is downsampled as they are, in its pixels."""

    margin: int
    """In pixels of the image before: what is cut off a patch on every side."""
    block: int
    """How many pixels of the image before one of its pixels is wide."""
    step: int
    """From one cell to the next."""
    side: int
    """Of a patch."""

    @classmethod
    def of(cls, config: PreprocessConfig, cell_px: int) -> Geometry | None:
        """None where patches of neighbouring cells are made of other blocks of pixels, or each has its own stain."""
        margin, block = (PATCH_SIZE_PX - config.crop_px) // 2, config.crop_px // config.size_px
        whole = config.crop_px == block * config.size_px and (block == 1 or config.resize == "area")
        if config.stain != "none" or not whole or cell_px % block:
            return None
        return cls(margin, block, cell_px // block, config.size_px)

    def cells_in(self, x: Float[Tensor, "1 3 h w"]) -> list[int]:
        """How many rows and columns of cells an image has, as it is before a network resizes it."""
        return [(size - self.side) // self.step + 1 for size in x.shape[2:]]

    def seen(self, rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """What a network sees of an image of all that the patches of its cells cover."""
        inner = rgb[self.margin : len(rgb) - self.margin, self.margin : rgb.shape[1] - self.margin]
        means = inner if self.block == 1 else _block_means(np.ascontiguousarray(inner), self.block)
        return means[:: self.block, :: self.block]


class DenseNetwork(nn.Module):
    """A network over an image: (1, 3, h, w) in [0, 1], downsampled as its patches are -> the cells' logits (r, c)."""

    def __init__(self, geometry: Geometry, times: float = 1.0, phases: int = 1) -> None:
        """`times`: how many times larger the network makes its image itself.

        `phases`: the cells of an image are every so-manieth of a row and column, those whose patches lie at the same
        offset to its blocks.
        """
        super().__init__()
        self.geometry, self.times, self.phases = geometry, times, phases
        self.cells_at_once: Final = max(1, round(_SEEN_PX / (geometry.step * times)))
        """Along a side of what it is to see at once."""


def dense_network(network: nn.Module, config: PreprocessConfig, cell_px: int) -> DenseNetwork | None:
    """The same network over whole images of cells; None where patches of neighbouring cells would share nothing.

    Known are the p4m networks whose maps' places are a whole number of times closer than cells, and timm's
    EfficientNets without squeeze-and-excitation, which would look at all of the image: EfficientNet-Lite; and the
    notebook's networks where cells are so close that it pays.
    """
    if isinstance(network, nn.Sequential) and not isinstance(network, P4MNetwork):
        return _dilated(network, config, cell_px)
    geometry = Geometry.of(config, cell_px)
    if geometry is None:
        return None
    match network:
        case P4MNetwork():
            stride = _stride_of(network)
            return None if geometry.step % stride else _DenseP4M(geometry, network, geometry.step // stride)
        case Backbone():
            body: Any = folded_body(network.body)
            means = body is not None and (network.kind != "last" or body.global_pool.pool_type == "avg")
            return _DenseBackbone(geometry, network, body) if means else None
        case _:
            return None


def _stride_of(network: P4MNetwork) -> int:
    stride = 1
    for layer in network:
        stride *= int(getattr(layer, "stride", 1))
    return stride


def _dilated(network: nn.Sequential, config: PreprocessConfig, cell_px: int) -> DenseNetwork | None:
    """A network that pads nothing, at every place of an image: strides become dilations (à trous).

    None where a layer is of another kind, or where the last convolution would be computed at more places than in the
    patches alone.
    """
    block = config.crop_px // config.size_px
    phases = block // math.gcd(block, cell_px)
    geometry = Geometry.of(config, phases * cell_px)
    if geometry is None:
        return None
    layers, side, dilation, step, places = list[nn.Module](), geometry.side, 1, geometry.step, 0
    for layer in folded(network).children():
        match layer:
            case nn.Conv2d(padding=(0, 0), stride=(1, 1), dilation=(1, 1), groups=1):
                layers.append(_convolution(layer.weight, layer.bias, dilation=dilation))
                places = side = side - (layer.kernel_size[0] - 1)
            case nn.MaxPool2d(kernel_size=int(width), padding=0, dilation=1) if layer.stride == width:
                layers.append(nn.MaxPool2d(width, stride=1, dilation=dilation))
                side, dilation = side // width, dilation * width
            case nn.Linear():  # the first sees all of a patch's last map, whose places are `dilation` apart
                weight = layer.weight.reshape(layer.out_features, -1, side, side)
                layers.append(_convolution(weight, layer.bias, dilation=dilation, stride=step))
                side = dilation = step = 1
            case nn.ReLU() | Times():
                layers.append(layer)
            case nn.Flatten():
                pass
            case _:
                return None
    return _DenseDilated(geometry, layers, phases) if geometry.step <= places else None


def _convolution(weight: Tensor, bias: Tensor | None, *, dilation: int, stride: int = 1) -> nn.Conv2d:
    out_maps, in_maps, *kernel = weight.shape
    made = nn.Conv2d(in_maps, out_maps, (kernel[0], kernel[1]), stride, dilation=dilation, bias=bias is not None)
    made.weight.data = weight.detach().contiguous(memory_format=torch.channels_last)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made.requires_grad_(False)


class _DenseDilated(DenseNetwork):
    """Equal to the patches' own logits, to rounding."""

    def __init__(self, geometry: Geometry, layers: list[nn.Module], phases: int) -> None:
        super().__init__(geometry, phases=phases)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "r c"]:
        rows, columns = self.geometry.cells_in(x)
        logits: Tensor = self.layers(x.contiguous(memory_format=torch.channels_last))[0, 0]
        return logits[
            :rows, :columns
        ]  # behind the last patch there may be places for one more, but for what pools drop


class _DenseP4M(DenseNetwork):
    """The readout, a weighted sum over places, is a convolution."""

    def __init__(self, geometry: Geometry, network: P4MNetwork, step: int) -> None:
        super().__init__(geometry)
        *self.layers, self.readout = network
        self.step = step

    def forward(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "r c"]:
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = layer(x)
        readout: Any = self.readout
        kernel = (readout.weight / readout.count)[:, readout.ring]
        logits: Tensor = F.conv2d(by_feature(x).mean(2), kernel[None], readout.bias, stride=self.step)[0, 0]
        return logits


class _DenseBackbone(DenseNetwork):
    """Pooled features are means over the part of a map that a patch covers; of a place at its border, its share."""

    def __init__(self, geometry: Geometry, network: Backbone, body: nn.Module) -> None:
        super().__init__(geometry, (network.resize_px or geometry.side) / geometry.side)
        self.network, self.body = network, body

    def forward(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "r c"]:
        network, side, times = self.network, self.geometry.side, self.times
        cells, body = self.geometry.cells_in(x), cast("Any", self.body)
        if times != 1 or self.geometry.step % body.conv_stem.stride[0]:
            # To whole patches: then every scale's pixels lie in the image as in its first patch.
            height, width = x.shape[2:]
            x = F.pad(x, (0, -width % side, 0, -height % side), mode="replicate")
        if times != 1:
            size = [round(length * times) for length in x.shape[2:]]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=times < 1)
        x = ((x - network.mean) / network.std).contiguous(memory_format=torch.channels_last)
        step, covered = self.geometry.step * times, side * times

        def over_patches(maps: Float[Tensor, "1 k i j"]) -> Float[Tensor, "k r c"]:
            rows, columns = (
                shares_of_windows(count, step * places / size, covered * places / size, places).to(maps.device)
                for count, places, size in zip(cells, maps.shape[2:], x.shape[2:], strict=True)
            )
            of_columns = maps[0].float() @ columns.T
            return rows @ of_columns

        if network.kind == "last":
            features = over_patches(body.forward_features(x))
        else:
            told = []
            for of_stage in network.maps_of(body, x):
                mean = over_patches(of_stage)
                told += [mean, ((over_patches(of_stage.float() ** 2) - mean**2).clamp(min=0) + 1e-6).sqrt()]
            features = torch.cat(told)
        return network.classified(features.flatten(1).T).view(*cells)


def shares_of_windows(count: int, step: float, covered: float, places: int) -> Float[Tensor, "count places"]:
    """Of each of so many windows, `step` places apart, how much of it each place is; a window's shares sum to 1."""
    first = step * torch.arange(count, dtype=torch.float64)[:, None]
    at = torch.arange(places, dtype=torch.float64)
    shares = (torch.minimum(at + 1, first + covered) - torch.maximum(at, first)).clamp(min=0)
    return (shares / shares.sum(dim=1, keepdim=True)).float()
