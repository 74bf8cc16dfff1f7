"""Which patches to show, and their pictures: examples of both classes, the worst mistakes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Shaped
from PIL import Image

from sentinode.data.artefacts import write_bytes
from sentinode.data.patches import PatchSet
from sentinode.errors import DataError
from sentinode.inference.probabilities import Predictions


@dataclass(frozen=True)
class Mistake:
    """A patch on the wrong side of the threshold."""

    id: str
    label: int
    probability: float


def examples(
    ids: Shaped[np.ndarray, " n"], labels: Int8[np.ndarray, " n"], count: int, *, seed: int
) -> dict[int, list[str]]:
    """Up to `count` ids of each class, drawn at random."""
    rng = np.random.default_rng(seed)
    drawn: dict[int, list[str]] = {}
    for label in (0, 1):
        of_class = ids[labels == label]
        drawn[label] = rng.choice(of_class, min(count, len(of_class)), replace=False).tolist()
    return drawn


def worst_mistakes(predictions: Predictions, count: int, *, threshold: float = 0.5) -> dict[int, list[Mistake]]:
    """By true label, the patches on the wrong side of the threshold, the most confident first."""
    mistakes: dict[int, list[Mistake]] = {}
    for label in (0, 1):
        wrong = (predictions.labels == label) & ((predictions.probabilities > threshold) != (label == 1))
        rows = np.flatnonzero(wrong)
        distance = np.abs(predictions.probabilities[rows] - label)
        worst = rows[np.argsort(-distance, kind="stable")[:count]]
        mistakes[label] = [
            Mistake(str(predictions.ids[row]), label, float(predictions.probabilities[row])) for row in worst
        ]
    return mistakes


def write_pictures(folder: Path, patches: PatchSet, ids: Iterable[str]) -> None:
    """Write each patch as `<id>.png`; what is there already is kept."""
    wanted = [i for i in dict.fromkeys(ids) if not (folder / f"{i}.png").is_file()]
    for i, row in zip(wanted, patches.rows_of(np.array(wanted, dtype=str)), strict=True):
        path = folder / f"{i}.png"
        if path.parent != folder:
            raise DataError(f"the id {i!r} is no plain file name", remedy="Rename that patch.")
        buffer = io.BytesIO()
        Image.fromarray(patches.pixels[row]).save(buffer, format="PNG")
        write_bytes(path, buffer.getvalue())
