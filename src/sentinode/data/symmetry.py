"""The 8 symmetries of the square, numbered: 0-3 rotate by 0, 90, 180, 270 degrees; 4-7 mirror first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from sentinode.data.images import Patch

if TYPE_CHECKING:  # PyTorch takes seconds to load, and neither the phantom nor the audit needs it
    from torch import Tensor

SYMMETRIES: Final = range(8)


def apply_symmetry(images: Tensor, symmetry: int) -> Tensor:
    """Turn a batch (N, C, H, H) as a whole: mirrored left-right for 4 to 7, then turned anticlockwise."""
    turned = images.flip(-1) if symmetry >= 4 else images
    return turned.rot90(symmetry % 4, (-2, -1))


def symmetric_view(patch: Patch, symmetry: int) -> Patch:
    """Turn one patch (H, H, 3) by the same numbers, without a copy."""
    mirrored = patch[:, ::-1] if symmetry >= 4 else patch
    return np.rot90(mirrored, symmetry % 4)
