"""How hard is the phantom? AUC on unseen slides, of colour statistics and of the notebook's network.

The phantom: synthetic tissue is meant to be neither trivial nor hopeless: 0.75 to 0.92 for the forest,
0.80 to 0.95 for the network. Each row is one seed; "test" is the phantom's own test part, "folds" the
mean over five folds of all its slides.

    python benchmarks/phantom_difficulty.py [--seeds 25 26 27] [--patches 4000] [--slides 24] [--epochs 10]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from torch.nn import functional as F

from sentinode.data.images import read_patch
from sentinode.fitting.optimizer import KerasAdam
from sentinode.models.notebook import notebook_network
from sentinode.phantom.phantom import write_phantom

FOREST_RANGE, NETWORK_RANGE = (0.75, 0.92), (0.80, 0.95)

# (pixels, labels) to train on, pixels to judge -> probabilities
Judge = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def colour_statistics(pixels: np.ndarray) -> np.ndarray:
    """Mean, deviation and percentiles of each channel, over the patch and over its centre: (N, 42)."""
    parts = []
    for area in (pixels, pixels[:, 32:64, 32:64]):
        flat = area.reshape(len(area), -1, 3)
        parts += [flat.mean(axis=1), flat.std(axis=1)]
        parts += list(np.percentile(flat[:, ::2], (5, 25, 50, 75, 95), axis=1))
    return np.concatenate(parts, axis=1)


def forest(train: np.ndarray, labels: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    model = RandomForestClassifier(300, n_jobs=2, random_state=0).fit(train, labels)
    return model.predict_proba(unseen)[:, 1]


def network(norm: Literal["before", "after"], epochs: int) -> Judge:
    def judge(train: np.ndarray, labels: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        model = notebook_network(norm=norm, bn_momentum=0.75, generator=generator)
        optimizer = KerasAdam(model.parameters())
        x, y = as_input(train), torch.tensor(labels, dtype=torch.float32)[:, None]
        model.train()
        for _ in range(epochs):
            for batch in torch.randperm(len(x), generator=generator).split(64):
                flips = [axis for axis in (2, 3) if torch.rand((), generator=generator) < 0.5]
                loss = F.binary_cross_entropy_with_logits(model(x[batch].flip(flips)), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.eval()
        with torch.no_grad():
            return torch.sigmoid(model(as_input(unseen)))[:, 0].numpy()

    return judge


def as_input(pixels: np.ndarray) -> torch.Tensor:
    """Every third pixel, as the notebook's resize takes them, in [0, 1]."""
    small = torch.from_numpy(np.ascontiguousarray(pixels[:, 1::3, 1::3]))
    return small.permute(0, 3, 1, 2).float() / 255


def measure(folder: Path, epochs: int) -> dict[str, float]:
    truth = pd.read_csv(folder / "truth.csv", dtype={"id": str}, keep_default_na=False)
    pixels = np.stack([read_patch(folder / row.part / f"{row.id}.tif") for row in truth.itertuples()])
    labels, is_test = truth["label"].to_numpy(), (truth["part"] == "test").to_numpy()
    colours = colour_statistics(pixels)
    folds = list(GroupKFold(5, shuffle=True, random_state=0).split(labels, groups=truth["slide"]))
    result = {}
    judges: dict[str, tuple[Judge, np.ndarray]] = {
        "forest": (forest, colours),
        "before": (network("before", epochs), pixels),
        "after": (network("after", epochs), pixels),
    }
    for name, (judge, inputs) in judges.items():
        scores = [
            roc_auc_score(labels[unseen], judge(inputs[seen], labels[seen], inputs[unseen]))
            for seen, unseen in [(np.flatnonzero(~is_test), np.flatnonzero(is_test)), *folds]
        ]
        result |= {f"{name} test": scores[0], f"{name} folds": float(np.mean(scores[1:]))}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="AUC on unseen slides of the phantom, per seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[25, 26, 27])
    parser.add_argument("--patches", type=int, default=4000)
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    rows = {}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            start = time.perf_counter()
            folder = Path(scratch) / "phantom"
            write_phantom(folder, patches=arguments.patches, slides=arguments.slides, seed=seed)
            duration_s = time.perf_counter() - start
            rows[seed] = measure(folder, arguments.epochs) | {"painted in s": duration_s}
            print(
                f"seed {seed}: " + ", ".join(f"{key} {value:.3f}" for key, value in rows[seed].items()),
                flush=True,
            )
    table = pd.DataFrame(rows).T.rename_axis("seed")
    print(table.round(3).to_string())
    for name, (low, high) in {
        "forest": FOREST_RANGE,
        "before": NETWORK_RANGE,
        "after": NETWORK_RANGE,
    }.items():
        scores = table[[f"{name} test", f"{name} folds"]]
        verdict = "within" if scores.ge(low).all(axis=None) and scores.le(high).all(axis=None) else "NOT within"
        print(f"{name}: {verdict} {low} to {high}")


if __name__ == "__main__":
    main()
