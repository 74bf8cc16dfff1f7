"""Tumour probabilities that never lose their ids, and the table they are kept in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int8, Shaped

from sentinode.artefacts import write_atomically
from sentinode.data.patches import UNLABELLED
from sentinode.errors import RunError


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
        import pandas as pd

        table = pd.DataFrame({"id": self.ids, "label": self.labels, "probability": self.probabilities})
        write_atomically(path, lambda file: table.to_csv(file, index=False))

    @classmethod
    def read(cls, path: Path) -> Predictions:
        from sentinode.data.tables import read_table

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


def average(members: Iterable[Predictions]) -> Predictions:
    """The mean probability of several predictions of the same patches; raises RunError where ids differ."""
    first, *others = members
    for other in others:
        if not np.array_equal(first.ids, other.ids):
            raise RunError("predictions of different patches cannot be averaged", remedy="Predict the same folder.")
    mean = np.mean([member.probabilities for member in [first, *others]], axis=0)
    return Predictions(first.ids, first.labels, mean)
