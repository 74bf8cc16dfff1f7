"""Network + patches -> tumour probabilities that never lose their ids."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int8, Shaped
from torch import nn

from sentinode.data.artefacts import write_atomically
from sentinode.data.patches import UNLABELLED
from sentinode.data.preprocess import Prepared, as_input
from sentinode.data.tables import read_table
from sentinode.errors import RunError
from sentinode.inference.device import Precision, in_precision
from sentinode.inference.views import views
from sentinode.models.folded import folded

_SIZES_TRIED: Final = (16, 32, 64, 128)


@dataclass(frozen=True, eq=False)
class Predictions:
    """N patches' ids, labels (-1 where unknown) and tumour probabilities in [0, 1]."""

    ids: Shaped[np.ndarray, " n"]
    labels: Int8[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def write(self, path: Path) -> None:
        """Save as id,label,probability, in the fewest digits that read back as the same floats."""
        table = pd.DataFrame({"id": self.ids, "label": self.labels, "probability": self.probabilities})
        write_atomically(path, lambda file: table.to_csv(file, index=False))

    @classmethod
    def read(cls, path: Path) -> Predictions:
        table = read_table(path, purpose="id,label,probability")
        try:
            read = cls(
                table["id"].to_numpy(dtype=str),
                table["label"].astype(np.int8).to_numpy(),
                table["probability"].astype(np.float64).to_numpy(),
            )
            possible = (read.probabilities >= 0) & (read.probabilities <= 1) & np.isin(read.labels, [UNLABELLED, 0, 1])
            if not possible.all():
                raise ValueError("a label is not 0 or 1, or a probability is not between 0 and 1")
            return read
        except (KeyError, ValueError, OverflowError) as error:
            raise RunError(
                f"is not a table of predictions ({error})", where=path, remedy="Evaluate the run again."
            ) from error


@torch.inference_mode()
def predict_probabilities(
    network: nn.Module,
    prepared: Prepared,
    *,
    view_count: int,
    batch_size: int,
    device: torch.device,
    precision: Precision = "float32",
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, " n"]:
    """The mean probability over 1 or 8 views of each patch, in the order of `prepared`.

    Batches hold `batch_size` patches at most; on the CPU as many as are fastest, found on the first ones.
    """
    network = folded(network.eval())
    size = BatchSize(batch_size, search=device.type == "cpu")
    probabilities = np.empty(len(prepared))
    start = 0
    while start < len(prepared):
        stop = min(start + size.patches, len(prepared))
        began = time.perf_counter()
        images = torch.from_numpy(prepared[slice(start, stop)]).permute(0, 3, 1, 2).to(device)
        logits = []
        for view in views(images, view_count):
            with in_precision(precision, device):
                logits.append(network(as_input(view.contiguous(memory_format=torch.channels_last))).squeeze(1))
        # In double precision: in single, every logit above 17 would become the same probability, 1.
        probabilities[start:stop] = torch.sigmoid(torch.stack(logits).cpu().double()).mean(dim=0).numpy()
        size.took((time.perf_counter() - began) / (stop - start))
        start = stop
        if on_progress:
            on_progress(stop, len(prepared))
    return probabilities


class BatchSize:
    """How many patches a batch holds: what overflows a processor's cache, or is too little for it, costs up to double.

    With `search`, each size up to the largest is tried twice on the patches at hand, the first time to warm up;
    from then on the fastest is kept. A patch's probability does not depend on the patches beside it.
    """

    def __init__(self, largest: int, *, search: bool) -> None:
        sizes = [size for size in _SIZES_TRIED if size < largest] if search else []
        self._to_try = [size for size in sizes for _ in range(2)]
        self._seconds: dict[int, float] = {}
        self.patches = self._to_try[0] if self._to_try else largest

    def took(self, seconds_per_patch: float) -> None:
        """Note what the batch took."""
        if not self._to_try:
            return
        self._seconds[self._to_try.pop(0)] = seconds_per_patch
        self.patches = self._to_try[0] if self._to_try else min(self._seconds, key=lambda size: self._seconds[size])


def average(members: Iterable[Predictions]) -> Predictions:
    """The mean probability of several predictions of the same patches; raises RunError where ids differ."""
    first, *others = members
    for other in others:
        if not np.array_equal(first.ids, other.ids):
            raise RunError("predictions of different patches cannot be averaged", remedy="Predict the same folder.")
    mean = np.mean([member.probabilities for member in [first, *others]], axis=0)
    return Predictions(first.ids, first.labels, mean)


def unlabelled(count: int) -> Int8[np.ndarray, " n"]:
    return np.full(count, UNLABELLED, dtype=np.int8)
