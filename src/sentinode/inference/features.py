"""Backbone + patches -> pooled features: of the patches as they are, or of augmented copies of them."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from sentinode.inference.device import Precision, in_precision
from sentinode.inputs.augment import Draws, augmented
from sentinode.inputs.preprocess import Prepared, as_input
from sentinode.models.backbones.backbone import Backbone

# A backbone's maps of more patches than these overflow a processor's cache; a GPU wants more.
_BATCH_ON_CPU: Final = 16
_BATCH_ON_GPU: Final = 256


@torch.inference_mode()
def features_of(
    network: Backbone,
    prepared: Prepared,
    draws: Draws | None = None,
    *,
    precision: Precision,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "n d"]:
    """What the backbone's head sees of each patch, in the order of `prepared`; of its copy, where `draws` make one."""
    network.eval()
    size = _BATCH_ON_CPU if device.type == "cpu" else _BATCH_ON_GPU
    features = np.empty((len(prepared), network.head.in_features), np.float32)
    for start in range(0, len(prepared), size):
        rows = slice(start, min(start + size, len(prepared)))
        images = torch.from_numpy(prepared[rows]).permute(0, 3, 1, 2).to(device)
        inputs = as_input(images) if draws is None else augmented(images, draws.of(itemgetter(rows)))
        with in_precision(precision, device):
            found = network.features(inputs.contiguous(memory_format=torch.channels_last))
        features[rows] = found.float().cpu().numpy()
        if on_progress:
            on_progress(rows.stop, len(prepared))
    return features
