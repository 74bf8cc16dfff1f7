"""Clusters of stain and texture: a stand-in for slides where nobody says which patch is from which."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8

from sentinode.errors import DataError
from sentinode.progress import StepProgress

# What `stain_statistics` gives, in blocks: the columns of each, and its weight in the clustering. On
# phantoms, whose slides are known, the residual direction alone tells slides apart better than all
# blocks weighted alike; on real patches the other blocks help to keep neighbours together. Those that
# depend most on what tissue is shown weigh least, lest tumour make a cluster of its own.
_BLOCKS: Final = {
    "residual": (3, 2.0),
    "residual_energy": (1, 1.0),
    "stain": (3, 0.5),
    "density_mean": (3, 0.5),
    "density_deviation": (3, 0.5),
    "glass": (3, 0.5),
    "fine_energy": (1, 0.5),
    "blur": (2, 1.0),
}
_CHUNK_PATCHES: Final = 64
_STEP_PX: Final = 2  # stain is smooth: every second pixel tells as much in a quarter of the time
_TISSUE_DENSITY: Final = 0.15  # mean of the channels, -log10; what is lighter is glass (Macenko et al. 2009)
_LEAST_TISSUE: Final = 0.02  # of the pixels; less says nothing about the stain
_GLASS_PERCENTILE: Final = 99.5
_SMALLEST: Final = 1e-7  # keeps logarithms of flat patches finite
_MOST_DEVIATIONS: Final = 3.0  # blank and torn patches must not claim clusters of their own
_STARTS: Final = 5
_MOST_AT_ONCE: Final = 4096  # patches in a step of k-means
_DENSITY_OF_VALUE: Final = -np.log10(np.maximum(np.arange(256), 0.5) / 255).astype(np.float32)

Pixels = UInt8[np.ndarray, "n 96 96 3"]


def stain_clusters(
    statistics: Float32[np.ndarray, "n 19"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Number each patch's cluster, from 0 to `count` - 1, by k-means over its standardised `stain_statistics`.

    Slides differ in stain, scanner and focus, so patches of one slide mostly share a cluster; but
    clusters are no slides: some slides fall apart and similar ones fall together. Ask for half to three
    quarters as many clusters as there may be slides: fewer leave coarse parts, more cut slides in two.
    Raises DataError for fewer than two clusters or more clusters than patches.
    """
    if not 2 <= count <= len(statistics):
        raise DataError(
            f"{len(statistics)} patches cannot be put into {count} stain clusters",
            remedy="Set data.stain_clusters to at least two and at most one for each patch.",
        )
    # Imported here, because scikit-learn takes long to import, and where slides are known nothing is clustered.
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    values = _standardised(statistics)
    means = MiniBatchKMeans(
        count,
        n_init=_STARTS,
        batch_size=_MOST_AT_ONCE,
        reassignment_ratio=0.0,  # small clusters are small slides, not failures
        random_state=int(rng.integers(2**31)),
    )
    with threadpool_limits(1):  # sums in one order: the same clusters whatever the number of processors
        return np.asarray(means.fit_predict(values), np.int64)


def usual_count(patches: int) -> int:
    """Clusters to ask for where nobody knows how many slides there are: one for 150 patches, 8 to 150, at most half."""
    return max(2, min(int(np.clip(patches // 150, 8, 150)), patches // 2))


def uncut_clusters(clusters: Int[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Name the clusters, every group moved whole into the one that most of its patches are in.

    `groups` name patches that share tissue, "" for none. Of equally common clusters the first is taken.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    votes = np.zeros((len(names), int(clusters.max(initial=0)) + 1), np.int64)
    np.add.at(votes, (group_of, clusters), 1)
    kept = np.where(groups == "", clusters, votes.argmax(axis=1)[group_of])
    return np.array([f"stain{cluster}" for cluster in kept.tolist()], dtype=str)


def stain_statistics(
    pixels: Pixels,
    on_progress: StepProgress | None = None,
    *,
    rows: Int[np.ndarray, " k"] | None = None,
) -> Float32[np.ndarray, "described 19"]:
    """Describe stain and texture of all patches or of those in `rows`; NaN for the stain of one with hardly any tissue.

    Of the tissue's optical density (columns in this order): the `residual` direction, in which it is
    least, square to both stains, so that it hardly depends on what tissue is shown, and the logarithm of
    the energy left there; the `stain` direction, in which it varies most; mean and standard deviation
    by channel. Of all pixels: `glass`, the brightest values by channel; of the green channel,
    `fine_energy`, the logarithm of the mean squared difference of neighbours, and `blur`, by how much
    it grows from one to two and from two to four pixels' distance, more where out of focus.
    Patches are read in chunks, so memory does not grow with the pixels.
    """
    count = len(pixels) if rows is None else len(rows)
    statistics = np.empty((count, sum(columns for columns, _ in _BLOCKS.values())), np.float32)
    for start in range(0, count, _CHUNK_PATCHES):
        some = slice(start, start + _CHUNK_PATCHES)
        chunk = np.asarray(pixels[some if rows is None else rows[some]])
        statistics[some] = np.concatenate([_stain(chunk), _scan(chunk)], axis=1)
        if on_progress is not None:
            on_progress(start + len(chunk), count)
    return statistics


def _stain(chunk: Pixels) -> Float32[np.ndarray, "n 13"]:
    density = _DENSITY_OF_VALUE[chunk[:, ::_STEP_PX, ::_STEP_PX]].reshape(len(chunk), -1, 3)
    tissue = (density.mean(axis=2) > _TISSUE_DENSITY).astype(np.float32)
    count = np.maximum(tissue.sum(axis=1), 1)
    masked = density * tissue[:, :, None]
    mean = masked.sum(axis=1) / count[:, None]
    # About the origin, no light absorbed, both stains span a plane; about the mean, the tissue's own axis.
    about_origin = masked.transpose(0, 2, 1) @ masked / count[:, None, None]
    about_mean = about_origin - mean[:, :, None] * mean[:, None, :]
    energy, directions = np.linalg.eigh(about_origin)
    residual, residual_energy = directions[:, :, 0], np.log(np.maximum(energy[:, :1], _SMALLEST))
    stain = np.linalg.eigh(about_mean)[1][:, :, 2]
    # Both signs are the same direction: fix one, where the direction is far from changing it.
    residual = residual * np.where(residual[:, 2:] < 0, -1, 1)
    stain = stain * np.where(stain.sum(axis=1, keepdims=True) < 0, -1, 1)
    deviation = np.sqrt(np.maximum(np.diagonal(about_mean, axis1=1, axis2=2), 0))
    found = np.concatenate([residual, residual_energy, stain, mean, deviation], axis=1)
    found[tissue.mean(axis=1) < _LEAST_TISSUE] = np.nan
    return np.asarray(found, np.float32)


def _scan(chunk: Pixels) -> Float32[np.ndarray, "n 6"]:
    glass = np.percentile(chunk.reshape(len(chunk), -1, 3), _GLASS_PERCENTILE, axis=1)
    green = chunk[..., 1].astype(np.float32)
    near, two, four = (
        np.log(np.mean((green[:, step:] - green[:, :-step]) ** 2, axis=(1, 2)) + 0.01) for step in (1, 2, 4)
    )
    return np.column_stack([glass, near, two - near, four - two]).astype(np.float32)


def _standardised(statistics: Float32[np.ndarray, "n 19"]) -> Float32[np.ndarray, "n 19"]:
    """About the median in standard deviations, clipped, each block weighted as one; NaN is the median."""
    values = statistics.astype(np.float64)
    known = np.isfinite(values)
    for column in range(values.shape[1]):
        own = values[known[:, column], column]
        values[:, column] -= np.median(own) if len(own) else 0.0
        values[:, column] /= max(float(own.std()) if len(own) else 0.0, _SMALLEST)
    values = np.clip(np.where(known, values, 0.0), -_MOST_DEVIATIONS, _MOST_DEVIATIONS)
    weights = np.concatenate([np.full(columns, weight / columns**0.5) for columns, weight in _BLOCKS.values()])
    return np.asarray(values * weights, np.float32)
