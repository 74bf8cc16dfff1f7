"""The training patches that a network takes for most like a patch, of either class: where a mistake may come from.

What is compared is what the network's last layer is given: features, each in deviations of the training set from its
mean there, by the cosine of the angle between two patches. Of an ensemble it is the weighted mean of its members'
similarities, with the weights of its logits. Every training patch is compared, so the search is exact.

A leak is seen at once: a training patch that is the same, up to rotations and flips, shares tissue, or differs so
little that it can only be another copy. So may be a wrong label: a patch whose likes are all of the other class. But
that is a suspicion: a network that is wrong about a patch places it there, whatever it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8

from sentinode.audit.duplicates import hash_pixels, match_sums, sum_pixels
from sentinode.audit.overlaps import find_anchors, match_anchors
from sentinode.data.patches import SYMMETRIES, PatchSet, symmetric_view
from sentinode.inputs.preprocess import Prepared
from sentinode.models.backbones.backbone import Backbone
from sentinode.runs.features import FeatureStore, Penultimate, features_of
from sentinode.runs.run import Run
from sentinode.runs.variant import Variant
from sentinode.session import Session
from sentinode.studies.review_record import Neighbour, Neighbourhood, Tie

NEAREST: Final = 10
"""So many training patches of either class are asked for their labels."""
_BLOCK_PX: Final = 8
_NEARLY: Final = 3.0  # grey levels, the mean difference of means over blocks, of patches that have some contrast
_ROWS_AT_ONCE: Final = 4096  # of the training set, while they are brought to one length
_ROUNDING: Final = 1e-12
_AT_ONCE: Final = 64  # patches whose similarities to all of the training set are held together


def neighbours_of(
    run: Run,
    patches: PatchSet,
    training: PatchSet,
    *,
    k: int = 3,
    session: Session | None = None,
) -> tuple[Neighbourhood, ...]:
    """The `k` patches of each class most similar to each of some labelled patches, by a run's network or members.

    Of `training`, those patches are searched that the run, or one of its members, learned their labels of; none is its
    own neighbour. Their features are computed once for each network and kept in the session's cache.
    Raises DataError where `training` lacks what the run was trained on.
    """
    session = session or Session()
    names = np.array(sorted(run.training_ids), dtype=str)
    rows = training.rows_of(names)
    alike = np.zeros((len(patches), len(rows)), np.float32)
    for network, weight in zip(run.networks, run.weights or (1.0,), strict=True):
        if weight > 0:
            known, asked = _features(network, training, rows, patches, session)
            alike += np.float32(weight) * similarities(asked, known)
    itself = np.searchsorted(names, patches.ids).clip(max=len(names) - 1)
    alike[np.arange(len(patches)), itself] = np.where(
        names[itself] == patches.ids, -np.inf, alike[np.arange(len(patches)), itself]
    )

    labels = training.labels[rows]
    of_label = [np.flatnonzero(labels == label) for label in (0, 1)]
    picked = [[columns[most_alike(of[columns], k)] for columns in of_label] for of in alike]
    ties = _ties(patches, training, [rows[np.concatenate(of)] for of in picked])

    def neighbours(row: int, label: int) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(str(training.ids[at]), label, str(training.slides[at]), float(alike[row, column]), ties[row, at])
            for column, at in zip(picked[row][label], rows[picked[row][label]].tolist(), strict=True)
        )

    found = []
    for row, (of, own) in enumerate(zip(alike, patches.labels.tolist(), strict=True)):
        nearest, by_class = labels[most_alike(of, NEAREST)], (neighbours(row, 0), neighbours(row, 1))
        other = int((nearest != own).sum())
        found.append(Neighbourhood(str(patches.ids[row]), own, str(patches.slides[row]), by_class, len(nearest), other))
    return tuple(found)


def neighbours_of_mistakes(
    chosen: Variant, ids: Sequence[str], patches: PatchSet, session: Session
) -> tuple[Neighbourhood, ...]:
    """Of validation patches of a variant, by the first seed's run that validated each, and was not trained on it.

    One seed is asked, because the features of all training patches are to be computed for each.
    """
    found: dict[str, Neighbourhood] = {}
    for run in chosen.repeats[0].runs:
        validated = frozenset(run.predictions.ids.tolist())
        asked = np.array([i for i in ids if i in validated], dtype=str)
        if len(asked):
            some = patches.some(patches.rows_of(asked), session.cache_root)
            found |= {of.id: of for of in neighbours_of(run, some, patches, session=session)}
    return tuple(found[i] for i in ids)


def similarities(asked: Float32[np.ndarray, "q d"], known: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "q n"]:
    """The cosine between each of the asked and each of the known, in deviations of the known from their mean.

    The known are overwritten by their unit vectors: of 220,025 patches with 1,280 features they take 1.1 GB, once.
    """
    blocks = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(known), _ROWS_AT_ONCE)]
    mean = sum(known[rows].sum(axis=0, dtype=np.float64) for rows in blocks) / len(known)
    variance = sum(np.square(known[rows] - mean).sum(axis=0) for rows in blocks) / len(known)
    deviation = np.where(variance > _ROUNDING * mean**2, np.sqrt(variance), 1)  # what never varies is no feature
    asked = asked.copy()
    for values in (asked, *(known[rows] for rows in blocks)):
        values -= mean.astype(np.float32)
        values /= deviation.astype(np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", values, values))[:, None]
        values /= np.maximum(length, np.finfo(np.float32).tiny)
    found = np.empty((len(asked), len(known)), np.float32)
    everything = torch.from_numpy(known).T
    for start in range(0, len(asked), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        torch.matmul(torch.from_numpy(asked[some]), everything, out=torch.from_numpy(found[some]))
    return found


def most_alike(similarity: Float[np.ndarray, " n"], k: int) -> Int[np.ndarray, " k"]:
    """The places of the `k` largest, the largest first; of equal ones the first. What is -inf is none."""
    k = min(k, int(np.isfinite(similarity).sum()))
    least = np.partition(similarity, len(similarity) - k)[len(similarity) - k] if k else np.inf
    among = np.flatnonzero(similarity >= least)
    return np.asarray(among[np.argsort(-similarity[among], kind="stable")][:k])


def _features(
    network: Run, training: PatchSet, rows: Int[np.ndarray, " n"], patches: PatchSet, session: Session
) -> tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "q d"]]:
    """What the last layer of a run's one network is given of its training patches, and of those asked about."""
    config, module = network.config, network.network(session.device)
    seen = module if isinstance(module, Backbone) else Penultimate(module, config.preprocess.size_px)
    known = FeatureStore(training, config, None, seen, session).features(rows)
    prepared = Prepared(patches, np.arange(len(patches)), config.preprocess, None)
    return known, features_of(seen, prepared, precision=config.predict.precision, device=session.device)


def _ties(
    patches: PatchSet, training: PatchSet, neighbours: Sequence[Int[np.ndarray, " k"]]
) -> dict[tuple[int, int], Tie]:
    """What each patch has in common with its neighbours, by its row and theirs."""
    rows = np.unique(np.concatenate(neighbours))
    pixels = np.concatenate([patches.pixels, training.pixels[rows]])
    hashes, coarse = hash_pixels(pixels), _coarse(pixels)
    copy_of = {pair.b: pair.a for pair in match_sums(pixels, sum_pixels(hashes))}  # the first of its kind
    anchors = find_anchors(pixels, hashes, 0, len(pixels))
    shared = {(pair.a, pair.b) for pair in match_anchors(pixels, [anchors])}

    def tie(one: int, other: int) -> Tie:
        if copy_of.get(one, one) == copy_of.get(other, other):
            return "equal"
        if (one, other) in shared:
            return "shared tissue"
        if coarse[other].std() < 2 * _NEARLY:
            return ""  # two patches of nothing but glass
        views = _coarse(np.stack([symmetric_view(pixels[one], symmetry) for symmetry in SYMMETRIES]))
        return "nearly equal" if np.abs(views - coarse[other]).mean(axis=(1, 2, 3)).min() < _NEARLY else ""

    place = {row: len(patches) + number for number, row in enumerate(rows.tolist())}
    return {(one, row): tie(one, place[row]) for one, of in enumerate(neighbours) for row in of.tolist()}


def _coarse(pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n _ _ 3"]:
    """Means over blocks: what a compression leaves as it is."""
    count, height, width, _ = pixels.shape
    blocks = pixels.reshape(count, height // _BLOCK_PX, _BLOCK_PX, width // _BLOCK_PX, _BLOCK_PX, 3)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32))
