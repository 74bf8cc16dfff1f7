"""The guard's known numbers from training patches, and how well it tells what is not lymph node in H&E.

    python benchmarks/guard.py DATA [--write]

DATA is a competition folder. Two thirds of its training patches make the numbers (with --write they are saved into the
package), and the rest, with copies of them that were transformed, is what it is tested on. The test part is not read.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

import sentinode.slides.guard as guard
from sentinode.data.images import SPACING_UM_PER_PX, read_patch
from sentinode.records import write_record

PATCHES = 3000
SPACINGS = (0.5, 0.7, 1.0, 1.4, 2.0)
SET = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    paths = sorted((asked.data / "train").iterdir())
    chosen = rng.permutation(len(paths))[:PATCHES]
    patches = np.stack([read_patch(paths[k]) for k in chosen])
    known, held_out = patches[: PATCHES * 2 // 3], patches[PATCHES * 2 // 3 :]
    if asked.write:
        write_record(Path(guard.__file__).with_name("guard.json"), measured(known, rng))
        guard._known.cache_clear()
    blocks = np.ascontiguousarray(np.tile(np.hstack(held_out[:12]), (12, 1, 1))[:1088, :1088])
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        guard.unlike(guard.features_of_cells(blocks))
        seconds.append(time.perf_counter() - began)
    print(f"{min(seconds) / 1024 * 1e6:.0f} us a cell, in blocks of 1,024")
    normal = score(held_out)
    print(f"false alarms: {(normal > 0).mean():.4f}")
    for name, made in transformed(held_out, rng).items():
        other = score(made)
        labels = np.repeat([0, 1], [len(normal), len(other)])
        auroc = roc_auc_score(labels, np.concatenate([normal, other]))
        print(f"{name}: AUROC {auroc:.4f}, {(other > 0).mean():.3f} found")
    for spacing in SPACINGS:
        found = np.array([guard.spacing_of(resampled(some_of(held_out, rng), spacing)) for _ in range(60)])
        within = (np.abs(found / spacing - 1) < 0.2).mean()
        low, middle, high = np.quantile(found, [0.05, 0.5, 0.95])
        print(f"{spacing} um/px: {middle:.2f} ({low:.2f} to {high:.2f}), {within:.0%} of sets within 20 %")


def measured(patches: np.ndarray, rng: np.random.Generator) -> guard.Known:
    """What guard.json holds."""
    found = features(patches)
    known = guard.Known(
        mean=found.mean(axis=0).round(6),
        precision=np.linalg.inv(np.cov(found.T) + 1e-4 * np.eye(found.shape[1])).ravel().round(5),
        deviation=found.std(axis=0).round(6),
        farthest=0.0,
        swapped=0.0,
        spectrum=np.empty(0),
        spacing=SPACING_UM_PER_PX,
        told=np.empty(0),
        true=np.empty(0),
    )
    far, swap = guard.excess(found, known)
    spectrum = guard.spectrum_of(patches[:1000])
    true = np.array([0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0])
    told = [
        np.median(
            [
                guard.raw_spacing(guard.spectrum_of(resampled(some_of(patches, rng), s)), spectrum, SPACING_UM_PER_PX)
                for _ in range(12)
            ]
        )
        for s in true
    ]
    return replace(
        known,
        farthest=float(np.quantile(far, 0.99)),
        swapped=float(np.quantile(swap, 0.995)),
        spectrum=spectrum.round(5),
        told=np.maximum.accumulate(told).round(5),
        true=true,
    )


def some_of(patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return patches[rng.choice(len(patches), SET, replace=False)]


def features(patches: np.ndarray) -> np.ndarray:
    return np.concatenate([guard.features_of_cells(patch)[0] for patch in np.ascontiguousarray(patches)])


def score(patches: np.ndarray) -> np.ndarray:
    """Above 0 where a patch is called unlike; both ways of being so in units of their own limits."""
    known = guard._known()
    far, swap = guard.excess(features(patches), known)
    return np.maximum(far / known.farthest, swap / known.swapped)


def resampled(patches: np.ndarray, spacing: float) -> np.ndarray:
    """As if scanned at another spacing; the central 96 pixels where that makes them larger."""
    side = round(96 * SPACING_UM_PER_PX / spacing)
    made = np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.LANCZOS)) for p in patches])
    margin = max(side - 96, 0) // 2
    return made[:, margin : margin + 96, margin : margin + 96]


def transformed(patches: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    def each(change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
        return np.stack([np.asarray(change(Image.fromarray(patch))) for patch in patches])

    def jpeg(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=5)
        return Image.open(buffer)

    def brown(image: Image.Image) -> Image.Image:
        density = -np.log((np.asarray(image, np.float32) + 1) / 256).sum(axis=2, keepdims=True)
        return Image.fromarray((255 * np.exp(-density / 2.2 * np.array([0.5, 0.9, 1.25]))).astype(np.uint8))

    sheets = [np.vstack([np.hstack(patches[rng.choice(len(patches), 4)]) for _ in range(4)]) for _ in range(200)]
    photographs = []
    for image in load_sample_images().images:
        for _ in range(150):
            y, x = rng.integers(image.shape[0] - 96), rng.integers(image.shape[1] - 96)
            photographs.append(image[y : y + 96, x : x + 96])
    return {
        "glass": np.clip(rng.normal(243, 2, (500, 96, 96, 3)), 0, 255).astype(np.uint8),
        "inverted": 255 - patches,
        "BGR": patches[..., ::-1],
        "brown": each(brown),
        "4x too fine": each(lambda image: image.crop((36, 36, 60, 60)).resize((96, 96), Image.Resampling.BICUBIC)),
        "4x too coarse": np.stack(
            [np.asarray(Image.fromarray(s).resize((96, 96), Image.Resampling.BOX)) for s in sheets]
        ),
        "sigma 3": each(lambda image: image.filter(ImageFilter.GaussianBlur(3))),
        "JPEG 5": each(jpeg),
        "photographs": np.stack(photographs),
    }


if __name__ == "__main__":
    main()
