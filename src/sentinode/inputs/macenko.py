"""Stain normalisation: each patch's haematoxylin and eosin brought to the colours and strengths of a reference.

After Macenko et al. 2009, A method for normalizing histology slides for quantitative analysis (ISBI, 1107-1110).
Constants, the natural logarithm and the reference are those of the implementation that is usually meant by the
name (M. Veta, staining-normalization, `normalizeStaining.m`: Io = 240, beta = 0.15, alpha = 1, HERef, maxCRef).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt8

_LIGHT: Final = 240.0  # the value that stands for glass; what is brighter has a density below zero
_TISSUE_DENSITY: Final = 0.15  # beta: a pixel is tissue where no channel is less dense
_ANGLE_PERCENT: Final = 1.0  # alpha: the stains lie at this percentile of the angles and at 100 minus it
_STRENGTH_PERCENT: Final = 99.0  # of a stain's concentrations: its largest, outliers apart
# Density of haematoxylin and of eosin in red, green and blue, and the largest concentration of each.
_REFERENCE_STAINS: Final = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]], np.float32)
_REFERENCE_STRENGTHS: Final = np.array([1.9705, 1.0308], np.float32)

_LEAST_TISSUE: Final = 0.02  # of the pixels; less says nothing about the stains
_LEAST_SPREAD: Final = 1e-4  # variance along the plane's second axis; 8-bit values of one colour stay below it
_LEAST_ANGLE: Final = np.deg2rad(2.0)  # between the stains; the reference's are 22 degrees apart
_LEAST_STRENGTH: Final = 1e-3  # of either stain
_CHUNK_PATCHES: Final = 16  # their densities fit a processor's cache
_DENSITY_OF_VALUE: Final = -np.log((np.arange(256) + 1) / _LIGHT).astype(np.float32)

Pixels = UInt8[np.ndarray, "n h w 3"]
Densities = Float32[np.ndarray, "n 3 pixels"]


def normalise_stain(patches: Pixels) -> tuple[Pixels, Bool[np.ndarray, " n"]]:
    """Each patch as if stained like the reference, and which patches were left as they are.

    The two stains are the robust extremes of the angles at which tissue lies in the plane of its two largest
    eigenvectors; the redder-absorbing one is haematoxylin. Each stain's concentrations (least squares) are scaled
    so that their 99th percentile is the reference's, and what is not in the plane is dropped.

    A patch keeps its pixels where that cannot be done: fewer than 2 % of them are tissue; tissue has less than
    two colours (hardly any variance across the main axis) or stains less than 2 degrees apart; a stain has
    no positive 99th percentile of concentration, or a number is not finite. No patch depends on those beside it.
    """
    normalised, left = np.empty_like(patches), np.empty(len(patches), bool)
    for start in range(0, len(patches), _CHUNK_PATCHES):
        chunk = slice(start, start + _CHUNK_PATCHES)
        normalised[chunk], left[chunk] = _normalised(np.asarray(patches[chunk]))
    return normalised, left


def _normalised(chunk: Pixels) -> tuple[Pixels, Bool[np.ndarray, " n"]]:
    by_channel = np.ascontiguousarray(chunk.reshape(len(chunk), -1, 3).transpose(0, 2, 1))
    density = _DENSITY_OF_VALUE[by_channel]
    with np.errstate(all="ignore"):  # what is not finite is found at the end, by its patch
        stains, sound = _stains(density)
        unmix = np.linalg.pinv(np.where(sound[:, None, None], stains, _REFERENCE_STAINS).transpose(0, 2, 1))
        strengths = _percentile((unmix @ density).astype(np.float32), _STRENGTH_PERCENT)
        scale = _REFERENCE_STRENGTHS / strengths
        change = (_REFERENCE_STAINS.T @ (scale[:, :, None] * unmix)).astype(np.float32)
        value = np.exp(-(change @ density)) * np.float32(_LIGHT)
    sound &= (strengths > _LEAST_STRENGTH).all(axis=1) & np.isfinite(change).all(axis=(1, 2))
    value[~sound] = 0
    pixels = np.clip(np.rint(value, out=value), 0, 255, out=value).astype(np.uint8)
    normalised = np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(chunk.shape)
    normalised[~sound] = chunk[~sound]
    return normalised, ~sound


def _stains(density: Densities) -> tuple[Float32[np.ndarray, "n 2 3"], Bool[np.ndarray, " n"]]:
    """Unit densities of haematoxylin and eosin, and for which patches they are to be had."""
    tissue = density.min(axis=1) >= _TISSUE_DENSITY
    count = tissue.sum(axis=1)
    masked = density * tissue[:, None, :]
    share = np.maximum(count, 1).astype(np.float32)[:, None]
    mean = masked.sum(axis=2) / share
    about_origin = masked @ masked.transpose(0, 2, 1) / share[:, :, None]
    energy, axes = np.linalg.eigh((about_origin - mean[:, :, None] * mean[:, None, :]).astype(np.float64))
    # Angles are taken from the mean's direction in the plane: no pixel of tissue is near the jump at 180 degrees,
    # and neither the signs nor the order of the eigenvectors matter.
    plane = axes[:, :, 1:]
    along = _unit((plane @ (plane.transpose(0, 2, 1) @ mean[:, :, None].astype(np.float64)))[:, :, 0])
    across = np.cross(along, axes[:, :, 0])
    basis = np.stack([along, across], axis=1)
    x, y = np.moveaxis(basis.astype(np.float32) @ density, 1, 0)
    angles = _percentiles_of_tissue(np.arctan2(y, x), tissue, count)
    both = np.stack([np.cos(angles), np.sin(angles)], axis=2) @ basis
    redder_first = both[:, 0, 0] >= both[:, 1, 0]
    stains = np.where(redder_first[:, None, None], both, both[:, ::-1]).astype(np.float32)
    sound = (count >= _LEAST_TISSUE * tissue.shape[1]) & (energy[:, 1] > _LEAST_SPREAD)
    sound &= (angles[:, 1] - angles[:, 0] > _LEAST_ANGLE) & np.isfinite(stains).all(axis=(1, 2))
    return stains, sound


def _unit(vectors: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _percentiles_of_tissue(
    angles: Float32[np.ndarray, "n pixels"], tissue: Bool[np.ndarray, "n pixels"], count: Int[np.ndarray, " n"]
) -> Float32[np.ndarray, "n 2"]:
    """The smallest and the largest angle of each patch's tissue, outliers apart, with linear interpolation."""
    angles[~tissue] = np.inf
    angles.sort(axis=1)
    last = np.maximum(count - 1, 0)[:, None]
    at = last * np.array([_ANGLE_PERCENT, 100 - _ANGLE_PERCENT]) / 100
    below = np.floor(at).astype(int)
    low = np.take_along_axis(angles, below, axis=1)
    high = np.take_along_axis(angles, np.minimum(below + 1, last), axis=1)
    return np.asarray(low + (high - low) * (at - below), np.float32)


def _percentile(values: Float32[np.ndarray, "n k pixels"], percent: float) -> Float32[np.ndarray, "n k"]:
    """np.percentile over the last axis, by a partial sort in place."""
    at = (values.shape[-1] - 1) * percent / 100
    below = int(at)
    values.partition([below, min(below + 1, values.shape[-1] - 1)], axis=-1)
    low, high = values[..., below], values[..., min(below + 1, values.shape[-1] - 1)]
    return np.asarray(low + (high - low) * np.float32(at - below), np.float32)
