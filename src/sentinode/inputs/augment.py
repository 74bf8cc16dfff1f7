"""Batched augmentation on the device: what is drawn, apart from how it is applied.

Label-safe by default: a symmetry or a change of stain leaves every piece of tissue on its side of
the labelled centre's border. Zoom does not, and its setting says so by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from sentinode.config.fit import AugmentConfig
from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.kernels import at_hand

# Optical density of haematoxylin, eosin and the rest in red, green and blue (Ruifrok and Johnston 2001).
_STAINS: Final = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))


@dataclass(frozen=True)
class Draws:
    """One random choice for each of N patches; None where a kind of augmentation is off.

    zoom: factor of the height and of the width, below 1 enlarges; symmetry: 0 to 7;
    stain: relative strength of haematoxylin, eosin and the rest, 1 leaves it.
    """

    zoom: Float[Tensor, "n 2"] | None
    symmetry: Int[Tensor, " n"] | None
    stain: Float[Tensor, "n 3"] | None

    def of(self, part: Callable[[Tensor], Tensor]) -> Draws:
        """The choices for some of the patches, those that `part` takes of each array."""
        zoom, symmetry, stain = (None if d is None else part(d) for d in (self.zoom, self.symmetry, self.stain))
        return Draws(zoom, symmetry, stain)


def draw(config: AugmentConfig, count: int, generator: torch.Generator) -> Draws:
    """Draw for `count` patches; always in the same order, so a generator's state fixes the outcome."""

    def around_one(columns: int, spread: float) -> Tensor:
        return torch.rand(count, columns, generator=generator).mul_(2 * spread).add_(1 - spread)

    zoom = around_one(2, config.zoom_across_centre) if config.zoom_across_centre > 0 else None
    symmetry: Tensor | None = None
    match config.symmetries:
        case "all":
            symmetry = torch.randint(len(SYMMETRIES), (count,), generator=generator)
        case "flips":  # as it is, flipped, rotated by 180 degrees, both: the flips among the symmetries
            flips = torch.tensor([0, 4, 2, 6])
            symmetry = flips[torch.randint(4, (count,), generator=generator)]
        case "none":
            pass
    stain = around_one(3, config.stain_jitter) if config.stain_jitter > 0 else None
    return Draws(zoom, symmetry, stain)


def augmented(images: UInt8[Tensor, "n 3 s s"], draws: Draws) -> Float[Tensor, "n 3 s s"]:
    """Bytes of RGB as a network takes them, in [0, 1], with the draws applied."""
    if draws.zoom is None:
        return apply(as_input(images), draws)
    return apply(zoom(images, draws.zoom.to(images.device)), replace(draws, zoom=None))


def apply(images: Float[Tensor, "n 3 s s"], draws: Draws) -> Float[Tensor, "n 3 s s"]:
    """Apply the draws to RGB in [0, 1], on the images' device."""
    if draws.zoom is not None:
        images = zoom(images, draws.zoom.to(images.device))
    if draws.symmetry is not None:
        images = rotate_or_flip(images, draws.symmetry.to(images.device))
    if draws.stain is not None:
        images = stain(images, draws.stain.to(images.device))
    return images


def zoom(
    images: UInt8[Tensor, "n 3 s s"] | Float[Tensor, "n 3 s s"], factors: Float[Tensor, "n 2"]
) -> Float[Tensor, "n 3 s s"]:
    """Scale about the centre as Keras's ImageDataGenerator does: bilinear, the border repeated outwards.

    Bytes become floats in [0, 1]. On the CPU in compiled loops where they are at hand, elsewhere by PyTorch's grid
    sampler: the same to rounding.
    """
    if images.device.type != "cpu" or factors.dtype != torch.float32 or not at_hand():
        return zoom_by_grid(as_input(images) if images.dtype == torch.uint8 else images, factors)
    # Here, because every prediction would wait for Numba's start, which only training needs.
    from sentinode.kernels import zoom as loops
    from sentinode.kernels.jit import share_threads

    rows = images.permute(0, 2, 3, 1).contiguous()
    zoomed = torch.empty(rows.shape)
    share_threads()
    loops.zoom(rows.numpy(), factors.numpy(), 1 / 255 if rows.dtype == torch.uint8 else 1.0, zoomed.numpy())
    return zoomed.permute(0, 3, 1, 2)


def zoom_by_grid(images: Float[Tensor, "n 3 s s"], factors: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 s s"]:
    """The same zoom by PyTorch's own operations, on any device."""
    count = len(images)
    theta = images.new_zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = factors[:, 1], factors[:, 0]
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def rotate_or_flip(images: Float[Tensor, "n 3 s s"], symmetry: Int[Tensor, " n"]) -> Float[Tensor, "n 3 s s"]:
    """Rotate or flip every image by a symmetry of its own."""
    result = torch.empty_like(images)
    for number in SYMMETRIES:
        rows = torch.nonzero(symmetry == number).squeeze(1)
        if len(rows):
            result[rows] = apply_symmetry(images[rows], number)
    return result


def stain(images: Float[Tensor, "n 3 s s"], strength: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 s s"]:
    """Scale each stain's amount in optical density, D = -ln I, and return to intensities in [0, 1].

    With S the stains' rows, amounts are D S^-1, so the scaled density is D S^-1 diag(strength) S.
    """
    stains = F.normalize(images.new_tensor(_STAINS), dim=1)
    mix = torch.linalg.inv(stains) @ (strength[:, :, None] * stains)
    density = -torch.log(images.clamp(min=1 / 255))
    count, channels, height, width = images.shape
    scaled = torch.bmm(mix.transpose(1, 2), density.reshape(count, channels, height * width))
    return torch.exp(-scaled).clamp(0, 1).reshape(images.shape).contiguous(memory_format=torch.channels_last)


def as_input(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Scale bytes to [0, 1], as networks take them."""
    return images.float().div_(255.0)
