"""Backbone + patches -> pooled features, averaged over views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from sentinode.data.preprocess import Prepared, as_input
from sentinode.inference.device import Precision, in_precision
from sentinode.inference.views import views
from sentinode.models.zoo import Backbone

# A backbone's maps of more patches than these overflow a processor's cache; a GPU wants more.
_BATCH_ON_CPU: Final = 16
_BATCH_ON_GPU: Final = 256


@torch.inference_mode()
def features_of(
    network: Backbone,
    prepared: Prepared,
    *,
    view_count: int,
    precision: Precision,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "n d"]:
    """What the backbone's head sees of each patch, the mean over its 1 or 8 views, in the order of `prepared`."""
    network.eval()
    size = _BATCH_ON_CPU if device.type == "cpu" else _BATCH_ON_GPU
    features = np.empty((len(prepared), network.head.in_features), np.float32)
    for start in range(0, len(prepared), size):
        rows = slice(start, min(start + size, len(prepared)))
        images = torch.from_numpy(prepared[rows]).permute(0, 3, 1, 2).to(device)
        total = torch.zeros(len(images), features.shape[1], device=device)
        for view in views(images, view_count):
            with in_precision(precision, device):
                total += network.features(as_input(view.contiguous(memory_format=torch.channels_last))).float()
        features[rows] = (total / view_count).cpu().numpy()
        if on_progress:
            on_progress(rows.stop, len(prepared))
    return features
