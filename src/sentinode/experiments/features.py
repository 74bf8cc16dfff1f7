"""Features of a frozen backbone for the patches of an experiment, computed once and kept in the cache."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from sentinode.config import RunConfig
from sentinode.data.artefacts import write_atomically
from sentinode.data.patches import PatchSet
from sentinode.data.preprocess import Prepared
from sentinode.experiments.material import Material
from sentinode.experiments.pseudo import PseudoLabels
from sentinode.fitting.head import Features
from sentinode.inference.device import has_bfloat16
from sentinode.inference.features import features_of
from sentinode.models.zoo import Backbone
from sentinode.progress import Progress, of_step, silent

_CHUNK: Final = 512  # patches hashed at a time


def head_sides(
    material: Material,
    config: RunConfig,
    network: Backbone,
    device: torch.device,
    progress: Progress = silent,
    pseudo: PseudoLabels | None = None,
) -> tuple[Features, Features]:
    """Features and labels of the training and of the validation side, in the split's order; pseudo-labels come last."""
    features = cached_features(material, config, network, device, progress)
    split = material.split(config)
    sides = [material.patches.rows_of(ids) for ids in (split.training, split.validation)]
    training, validation = (Features(features[rows], material.patches.labels[rows].astype(np.int64)) for rows in sides)
    if pseudo is None:
        return training, validation
    assert material.unlabelled is not None
    patches = material.unlabelled.patches
    own = cached_features(material, config, network, device, progress, patches)[patches.rows_of(pseudo.joined.ids)]
    labels = np.append(training.labels, pseudo.joined.labels.astype(np.int64))
    return Features(np.concatenate([training.values, own]), labels), validation


def cached_features(
    material: Material,
    config: RunConfig,
    network: Backbone,
    device: torch.device,
    progress: Progress = silent,
    unlabelled: PatchSet | None = None,
) -> Float[np.ndarray, "n d"]:
    """Features of all patches of the material, or of its unlabelled ones.

    Every split, seed and number of labels reads the same ones. They are kept in the folder `features` of the
    material's cache, under a digest of all that they depend on; a material without a cache computes them anew.
    """
    patches = material.patches if unlabelled is None else unlabelled
    folder = None if material.cache_root is None else material.cache_root / "features"
    path = None if folder is None else folder / f"{_key(patches, config, network, device)}.npy"
    if path is not None and path.is_file():
        found: Float[np.ndarray, "n d"] = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.shape == (len(patches), network.head.in_features):
            return found
    everything = Prepared(patches, np.arange(len(patches)), config.preprocess, None)  # looked at once, so not held
    features = features_of(
        network,
        everything,
        view_count=config.predict.views,
        precision=config.fit.precision,
        device=device,
        on_progress=of_step(progress, "features"),
    )
    if path is not None:
        write_atomically(path, lambda file: np.save(file, features, allow_pickle=False))
    return features


def _key(patches: PatchSet, config: RunConfig, network: Backbone, device: torch.device) -> str:
    """Of the pixels themselves: ids need not change with them."""
    digest = hashlib.sha256(str(patches.pixels.shape).encode())
    for start in range(0, len(patches), _CHUNK):
        digest.update(patches.pixels[start : start + _CHUNK].tobytes())
    arithmetic = "bfloat16" if config.fit.precision == "mixed" and has_bfloat16(device) else "float32"
    for part in (config.model.backbone, config.preprocess, network.extra_repr(), config.predict.views, arithmetic):
        digest.update(f"|{part}".encode())
    for name, tensor in network.state_dict().items():
        if not name.startswith(("head.", "centre", "scale")):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]
