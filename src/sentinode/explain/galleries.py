"""Which patches to show, and their pictures: examples of both classes, the worst mistakes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Int, Int8, Shaped, UInt8
from PIL import Image

from sentinode.artefacts import write_bytes
from sentinode.config.run import RunConfig
from sentinode.data.patches import PatchSet
from sentinode.errors import DataError
from sentinode.inference.attribution import Maps
from sentinode.inference.predictions import Predictions
from sentinode.inputs.augment import augmented, draw
from sentinode.inputs.preprocess import Prepared
from sentinode.runs.run_record import augmentation_of
from sentinode.runs.study_record import InputRange

MISTAKES_A_CLASS: Final = 12
_FOR: Final = (213, 94, 0)  # after Okabe and Ito (2008), as on all pages
_AGAINST: Final = (0, 114, 178)
_SMOOTH_PX: Final = 2.0
_PALE: Final = 0.55  # how much of a patch's own contrast is left under its map
_STRONGEST: Final = 0.85


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


def worst_mistakes(predictions: Predictions) -> tuple[Int[np.ndarray, " negatives"], Int[np.ndarray, " positives"]]:
    """By true label, the rows of the patches on the wrong side of 0.5, the most confident first."""

    def rows_of(label: int) -> Int[np.ndarray, " k"]:
        wrong = (predictions.labels == label) & ((predictions.probabilities > 0.5) != (label == 1))
        rows = np.flatnonzero(wrong)
        return np.asarray(rows[np.argsort(-np.abs(predictions.probabilities[rows] - label), kind="stable")])

    return rows_of(0), rows_of(1)


def mistakes_to_show(predictions: Predictions) -> list[str]:
    """The ids of the mistakes that a page shows: of each class the most confident."""
    return [i for rows in worst_mistakes(predictions) for i in predictions.ids[rows[:MISTAKES_A_CLASS]].tolist()]


def write_inputs(folder: Path, patches: PatchSet, ids: Sequence[str], config: RunConfig) -> list[InputRange]:
    """Write what a network is given of each patch as `<id>.input.png`, and one draw of how training varies it.

    The draw is `<id>.varied.png`; there is none where training varies nothing.
    """
    prepared = Prepared(patches, patches.rows_of(np.array(ids, dtype=str)), config.preprocess, None)
    inputs = torch.from_numpy(prepared[np.arange(len(ids))]).permute(0, 3, 1, 2)
    shown = {"input": inputs}
    augment = config.fit.augmentation
    if augment is not None and augmentation_of(config).ran:
        draws = draw(augment, len(ids), torch.Generator().manual_seed(config.fit.seed))
        shown["varied"] = augmented(inputs, draws).mul(255).round().to(torch.uint8)
    for kind, images in shown.items():
        for i, image in zip(ids, images.permute(0, 2, 3, 1).numpy(), strict=True):
            _write_picture(folder / f"{i}.{kind}.png", image)
    return [InputRange(i, float(of.min()) / 255, float(of.max()) / 255) for i, of in zip(ids, inputs, strict=True)]


def write_pictures(folder: Path, patches: PatchSet, ids: Iterable[str]) -> None:
    """Write each patch as `<id>.png`; what is there already is kept."""
    wanted = [i for i in dict.fromkeys(ids) if not (folder / f"{i}.png").is_file()]
    for i, row in zip(wanted, patches.rows_of(np.array(wanted, dtype=str)), strict=True):
        _write_picture(_inside(folder, f"{i}.png", i), patches.pixels[row])


def write_thumbnails(folder: Path, patches: PatchSet, ids: Sequence[str]) -> None:
    """Write each patch as `<id>.small.jpg`, a quarter of its area in a tenth of its bytes: pages show many of them."""
    for i, row in zip(ids, patches.rows_of(np.array(ids, dtype=str)), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(patches.pixels[row]).reduce(2).save(buffer, format="JPEG", quality=85)
        write_bytes(_inside(folder, f"{i}.small.jpg", i), buffer.getvalue())


def _inside(folder: Path, name: str, patch_id: str) -> Path:
    if (path := folder / name).parent != folder:
        raise DataError(f"the id {patch_id!r} is not a plain file name", remedy="Rename that patch.")
    return path


def _write_picture(path: Path, pixels: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def write_maps(
    folder: Path, ids: Sequence[str], pixels: UInt8[np.ndarray, "n 96 96 3"], maps: Mapping[str, Maps]
) -> float:
    """Write each patch in grey under each of its maps as `<id>.<method>.png`, all on one scale of colours; returns it.

    What speaks for tumour is orange, what speaks against it blue; the colour is full from the limit that is returned
    on, the 99th percentile of all absolute values, in logits a pixel. Maps are smoothed for the eye, by 2 pixels.
    """
    from scipy import ndimage  # here: a run's own pictures do without it

    smooth = {method: ndimage.gaussian_filter(of, (0, _SMOOTH_PX, _SMOOTH_PX)) for method, of in maps.items()}
    limit = float(np.percentile(np.abs(np.stack(list(smooth.values()))), 99)) if smooth and len(ids) else 0.0
    grey = 255 - (255 - pixels.mean(axis=3, keepdims=True)) * _PALE
    for method, of in smooth.items():
        share = np.clip(of / (limit or 1.0), -1, 1)[..., None]
        ink = np.where(share > 0, np.array(_FOR), np.array(_AGAINST))
        alpha = np.abs(share) * _STRONGEST
        coloured = (grey * (1 - alpha) + ink * alpha).round().astype(np.uint8)
        for i, picture in zip(ids, coloured, strict=True):
            _write_picture(folder / f"{i}.{method}.png", picture)
    return limit
