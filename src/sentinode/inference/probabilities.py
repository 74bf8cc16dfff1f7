"""Network + patches -> tumour probabilities that never lose their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

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
from sentinode.inference.views import views


@dataclass(frozen=True, eq=False)
class Predictions:
    """N patches' ids, labels (-1 where unknown) and tumour probabilities in [0, 1]."""

    ids: Shaped[np.ndarray, " n"]
    labels: Int8[np.ndarray, " n"]
    probabilities: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def write(self, path: Path) -> None:
        """Save as id,label,probability; digits enough to read the same floats back."""
        table = pd.DataFrame({"id": self.ids, "label": self.labels, "probability": self.probabilities})
        write_atomically(path, lambda file: table.to_csv(file, index=False, float_format="%.9g"))

    @classmethod
    def read(cls, path: Path) -> Predictions:
        table = read_table(path, purpose="id,label,probability")
        try:
            return cls(
                table["id"].to_numpy(dtype=str),
                table["label"].astype(np.int8).to_numpy(),
                table["probability"].astype(np.float64).to_numpy(),
            )
        except (KeyError, ValueError, OverflowError) as error:
            raise RunError(
                f"is no table of predictions ({error})", where=path, remedy="Evaluate the run again."
            ) from error


@torch.no_grad()
def predict_probabilities(
    network: nn.Module,
    prepared: Prepared,
    *,
    view_count: int,
    batch_size: int,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, " n"]:
    """The mean probability over 1 or 8 views of each patch, in the order of `prepared`."""
    network.eval()
    probabilities = np.empty(len(prepared))
    for start in range(0, len(prepared), batch_size):
        stop = min(start + batch_size, len(prepared))
        images = torch.from_numpy(prepared[slice(start, stop)]).permute(0, 3, 1, 2).to(device)
        total = sum(
            (torch.sigmoid(network(view).squeeze(1)) for view in views(as_input(images), view_count)),
            start=torch.zeros(stop - start, device=device),
        )
        probabilities[start:stop] = (total / view_count).cpu().numpy()
        if on_progress:
            on_progress(stop, len(prepared))
    return probabilities


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
