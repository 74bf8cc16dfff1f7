"""The 8 symmetries of the square, numbered: 0-3 rotate by 0, 90, 180, 270 degrees; 4-7 mirror first."""

from __future__ import annotations

from typing import Final

from torch import Tensor

SYMMETRIES: Final = range(8)


def apply_symmetry(images: Tensor, symmetry: int) -> Tensor:
    """Turn a batch (N, C, H, H) as a whole: mirrored left-right for 4 to 7, then turned anticlockwise."""
    turned = images.flip(-1) if symmetry >= 4 else images
    return turned.rot90(symmetry % 4, (-2, -1))
