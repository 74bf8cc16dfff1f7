"""Features of a frozen backbone for the patches of an experiment, computed once and kept in the cache."""

from __future__ import annotations

import hashlib
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from sentinode.artefacts import write_atomically
from sentinode.config import CopiesConfig, RunConfig, TimmModel
from sentinode.data.patches import PatchSet
from sentinode.fitting.linear_probe import Features
from sentinode.inference.device import has_bfloat16
from sentinode.inference.features import features_of
from sentinode.inputs.augment import draw
from sentinode.inputs.batches import derive_seed
from sentinode.inputs.preprocess import Prepared
from sentinode.models.backbones.backbone import Backbone
from sentinode.progress import Progress, of_step, silent
from sentinode.runs.material import Material
from sentinode.runs.pseudo_labels import PseudoLabels

_CHUNK: Final = 512  # patches hashed at a time
_PURPOSE: Final = 4  # of the numbers drawn here
_PLAIN: Final = 0  # the copy that is the patch itself


def head_sides(
    material: Material,
    config: RunConfig,
    copies: CopiesConfig | None,
    network: Backbone,
    device: torch.device,
    progress: Progress = silent,
    pseudo: PseudoLabels | None = None,
) -> tuple[Features, Features]:
    """Features and labels of the training side, pseudo-labels last, and of the validation side.

    The training side is there once for each of the copies. Without copies, and to validate, patches are looked at as
    they are.
    """
    split, patches = material.split(config), material.patches
    store = FeatureStore(patches, config, copies, network, device, material.cache_root, progress)
    rows = patches.rows_of(split.validation)
    validation = Features(store.features(rows), patches.labels[rows].astype(np.int64))
    rows = patches.rows_of(split.training)
    parts = [store.copies(rows, patches.labels[rows])]
    if pseudo is not None:
        assert material.unlabelled is not None
        store = FeatureStore(
            material.unlabelled.patches, config, copies, network, device, material.cache_root, progress
        )
        parts.append(store.copies(store.patches.rows_of(pseudo.joined.ids), pseudo.joined.labels))
    values, labels = (np.concatenate(of_parts) for of_parts in zip(*[(p.values, p.labels) for p in parts], strict=True))
    return Features(values, labels), validation


class FeatureStore:
    """Features of patches as a network sees them under a config, each computed when it is first asked for.

    They are kept in the folder `features` of a cache, a file for each copy, under a digest of all that they depend on:
    every split, seed and number of labels reads the same ones. Without a cache they are computed anew.
    """

    def __init__(
        self,
        patches: PatchSet,
        config: RunConfig,
        copies: CopiesConfig | None,
        network: Backbone,
        device: torch.device,
        cache_root: Path | None,
        progress: Progress = silent,
    ) -> None:
        self._copies = copies
        self.patches, self._config, self._network, self._device = patches, config, network, device
        self._folder, self._progress = None if cache_root is None else cache_root / "features", progress
        self._digest = _digest(patches, config, network, device) if self._folder else hashlib.sha256()

    def copies(self, rows: Int[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"]) -> Features:
        """Of some rows all copies that are asked for, one behind the other, with their labels."""
        numbers = range(1, self._copies.count + 1) if self._copies else [_PLAIN]
        values = np.concatenate([self.features(rows, number) for number in numbers])
        return Features(values, np.tile(labels.astype(np.int64), len(numbers)))

    def features(self, rows: Int[np.ndarray, " n"], copy: int = _PLAIN) -> Float[np.ndarray, "n d"]:
        """Of some rows: of the patches as they are, or of their copy of this number, from 1."""
        path = self._path(copy)
        every = self._kept(path)
        missing = rows[np.isnan(every[rows, 0])]
        if len(missing):
            every[missing] = self._computed(missing, copy)
            if path is not None:
                write_atomically(path, lambda file: np.save(file, every, allow_pickle=False))
        found: Float[np.ndarray, "n d"] = every[rows]
        return found

    def _computed(self, rows: Int[np.ndarray, " n"], copy: int) -> Float[np.ndarray, "n d"]:
        draws = None
        if self._copies is not None and copy != _PLAIN:  # a patch's draws do not depend on which others are asked for
            generator = torch.Generator().manual_seed(derive_seed(_PURPOSE, copy))
            draws = draw(self._copies, len(self.patches), generator).of(itemgetter(torch.from_numpy(rows)))
        step = "features" if copy == _PLAIN else f"features, copy {copy}"
        return features_of(
            self._network,
            Prepared(self.patches, rows, self._config.preprocess, None),  # looked at once, so not held
            draws,
            precision=self._config.predict.precision,
            device=self._device,
            on_progress=of_step(self._progress, step),
        )

    def _path(self, copy: int) -> Path | None:
        if self._folder is None:
            return None
        digest = self._digest.copy()
        varied = self._copies.model_dump(exclude={"count"}) if self._copies and copy != _PLAIN else None
        digest.update(f"|{copy}|{varied}".encode())
        return self._folder / f"{digest.hexdigest()[:20]}.npy"

    def _kept(self, path: Path | None) -> Float[np.ndarray, "n d"]:
        """What the cache has of all patches, and NaN; what is written into it changes no file."""
        shape = (len(self.patches), self._network.head.in_features)
        if path is not None and path.is_file():
            kept: Float[np.ndarray, "n d"] = np.load(path, mmap_mode="c", allow_pickle=False)
            if kept.shape == shape:
                return kept
        return np.full(shape, np.nan, np.float32)


def _digest(patches: PatchSet, config: RunConfig, network: Backbone, device: torch.device) -> hashlib._Hash:
    """Of the pixels themselves: ids need not change with them."""
    digest = hashlib.sha256(str(patches.pixels.shape).encode())
    for start in range(0, len(patches), _CHUNK):
        digest.update(patches.pixels[start : start + _CHUNK].tobytes())
    arithmetic = "bfloat16" if config.predict.precision == "mixed" and has_bfloat16(device) else "float32"
    looks = (network.kind, network.skipped_maps, network.resize_px)
    assert isinstance(config.model, TimmModel)
    for part in (config.model.backbone, config.preprocess, looks, arithmetic):
        digest.update(f"|{part}".encode())
    for name, tensor in network.state_dict().items():
        if not name.startswith(("head.", "centre", "scale")):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest
