"""The training patches that a network takes for most like a patch, of either class: where a mistake may come from.

What is compared is what the network's last layer is given: features, each in deviations of the training set from its
mean there, by the cosine of the angle between two patches. Of an ensemble it is the weighted mean of its members'
similarities, with the weights of its logits. Every training patch is compared, so the search is exact.

A leak is seen at once: a training patch that is the same, up to rotations and flips, shares tissue, or differs so
little that it can only be another copy. So may be a wrong label: a patch whose likes are all of the other class. But
that is a suspicion: a network that is wrong about a patch places it there, whatever it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from sentinode.audit.duplicates import hash_pixels, match_sums, sum_pixels
from sentinode.audit.overlaps import find_anchors, match_anchors
from sentinode.data.patches import SYMMETRIES, PatchSet, symmetric_view
from sentinode.explain.nearest import Alike, KnownFeatures
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
_AT_ONCE: Final = 32  # patches whose similarities to all of the training set are held together


class NeighbourSearch:
    """The training patches of a run, ready to be asked which of them its networks take for most like others.

    Of `training`, those patches are searched that the run, or one of its members, learned their labels of. Their
    features are computed once for each network and kept in the session's cache.
    Raises DataError where `training` lacks what the run was trained on.
    """

    def __init__(self, run: Run, training: PatchSet, *, session: Session | None = None) -> None:
        self._session, self.training = session or Session(), training
        self._names = np.array(sorted(run.training_ids), dtype=str)
        self._rows = training.rows_of(self._names)
        self._labels = training.labels[self._rows]
        self._known: list[tuple[float, Run, Backbone | Penultimate, KnownFeatures]] = []
        for network, weight in zip(run.networks, run.weights or (1.0,), strict=True):
            if weight > 0:
                config, module = network.config, network.network(self._session.device)
                seen = module if isinstance(module, Backbone) else Penultimate(module, config.preprocess.size_px)
                store = FeatureStore(training, config, None, seen, self._session)
                self._known.append((weight, network, seen, KnownFeatures(store.features(self._rows))))

    def neighbourhoods(self, patches: PatchSet, k: int = 3) -> tuple[Neighbourhood, ...]:
        """Of each labelled patch the `k` training patches of each class most like it, itself never among them."""
        labels, training = self._labels, self.training
        itself = np.searchsorted(self._names, patches.ids).clip(max=len(self._names) - 1)
        picked: list[list[tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]]] = []
        found: list[tuple[int, int]] = []
        for start in range(0, len(patches), _AT_ONCE):
            for alike in self._alike(patches.part(slice(start, start + _AT_ONCE))):
                row = len(picked)
                others = np.ones(len(labels), bool)
                others[itself[row]] = self._names[itself[row]] != patches.ids[row]
                picked.append([alike.largest(others & (labels == label), k) for label in (0, 1)])
                nearest = labels[alike.largest(others, NEAREST)[0]]
                found.append((len(nearest), int((nearest != patches.labels[row]).sum())))
        ties = _ties(patches, training, [self._rows[np.concatenate([at for at, _ in of])] for of in picked])

        def neighbours(row: int, label: int) -> tuple[Neighbour, ...]:
            columns, values = picked[row][label]
            return tuple(
                Neighbour(str(training.ids[at]), label, str(training.slides[at]), value, ties[row, at])
                for at, value in zip(self._rows[columns].tolist(), values.tolist(), strict=True)
            )

        return tuple(
            Neighbourhood(str(i), label, str(slide), (neighbours(row, 0), neighbours(row, 1)), nearest, other)
            for row, (i, label, slide, (nearest, other)) in enumerate(
                zip(patches.ids, patches.labels.tolist(), patches.slides, found, strict=True)
            )
        )

    def _alike(self, patches: PatchSet) -> Iterator[Alike]:
        """How alike each patch is to all training patches, by all networks together."""
        of_networks = []
        for weight, network, seen, known in self._known:
            config = network.config
            prepared = Prepared(patches, np.arange(len(patches)), config.preprocess, None)
            asked = features_of(seen, prepared, precision=config.predict.precision, device=self._session.device)
            of_networks.append([(weight, alike) for alike in known.alike(asked)])
        for each in zip(*of_networks, strict=True):
            yield Alike.mean(each)


def neighbours_of(
    run: Run, patches: PatchSet, training: PatchSet, *, k: int = 3, session: Session | None = None
) -> tuple[Neighbourhood, ...]:
    """The `k` patches of each class most similar to each of some labelled patches, by a run's network or members.

    Who asks more than once makes a `NeighbourSearch`. Raises DataError where `training` lacks what the run was trained
    on.
    """
    return NeighbourSearch(run, training, session=session).neighbourhoods(patches, k)


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
