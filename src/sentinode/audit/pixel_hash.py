"""Hashes of single pixels: what anchors and fingerprints of patches are made of."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt32

from sentinode.data.chunks import Pixels


def hash_pixels(chunk: Pixels) -> UInt32[np.ndarray, "n 96 96"]:
    """Hash each RGB pixel to 32 bits."""
    padded = np.zeros((*chunk.shape[:3], 4), np.uint8)
    for channel in range(3):  # three strided copies are six times faster than one of [..., :3]
        padded[..., channel] = chunk[..., channel]
    return scramble(padded.view(np.uint32)[..., 0])


def scramble(values: UInt32[np.ndarray, "..."]) -> UInt32[np.ndarray, "..."]:
    """Mix 32 bits so that each depends on all (the finalizer of Appleby's MurmurHash3, in part)."""
    mixed = values * np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed
