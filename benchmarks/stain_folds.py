"""Folds that lie further apart than slides drawn at random do: the patches of each colour, held out in turn.

    python benchmarks/stain_folds.py DATA --out FOLDER
    sentinode train DATA --set split.by=file --set split.file=FOLDER/1.csv ...

Every labelled patch of DATA is told by the optical density of its tissue: mean and deviation of red, green and blue,
and each one's median share of the sum. K-means over these, standardised, makes the folds; patches that share tissue
stay in one. FOLDER/K.csv is a table id,side whose validation side is fold K. A network that does well here has not
merely learnt the colours of its slides; but colour goes with what tissue is shown, so shares of tumour differ by fold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans

from sentinode.config.presets import load_preset
from sentinode.machine import default_cache
from sentinode.runs.material import gather
from sentinode.session import Session
from sentinode.settings import override
from sentinode.splits.split import unite_groups

LIGHTEST_TISSUE = 0.15  # optical density, -ln, mean of the channels; what is lighter is glass
LEAST_TISSUE_PX = 200  # with less of it, all pixels are taken


def colours(pixels: np.ndarray) -> np.ndarray:
    """(96, 96, 3) bytes -> the 9 statistics."""
    density = -np.log(np.maximum(pixels.reshape(-1, 3).astype(np.float32), 1) / 255)
    tissue = density[density.mean(1) > LIGHTEST_TISSUE]
    tissue = tissue if len(tissue) >= LEAST_TISSUE_PX else density
    shares = tissue / tissue.sum(1, keepdims=True).clip(0.05)
    return np.concatenate([tissue.mean(0), tissue.std(0), np.median(shares, axis=0)])


def folds(statistics: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """The fold of each patch, from 0; a group goes whole into the fold that most of it is in."""
    standardised = (statistics - statistics.mean(0)) / statistics.std(0)
    found = KMeans(count, n_init=5, random_state=0).fit_predict(standardised)
    for name in np.unique(groups[groups != ""]):
        found[groups == name] = np.bincount(found[groups == name]).argmax()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--groups", type=Path, help="table id,group of patches that share tissue, beside those found")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args()

    config = override(load_preset("fair").run_config(), {"data.groups": asked.groups})
    gathered = gather(asked.data, config, Session(cache_root=asked.cache))
    patches = gathered.material.patches
    overlapping = [str(gathered.check.audit.groups.get(patch, "")) for patch in patches.ids.tolist()]
    groups = unite_groups(patches.groups, np.array(overlapping))
    found = folds(np.stack([colours(pixels) for pixels in patches.pixels[:]]), groups, asked.folds)
    asked.out.mkdir(parents=True, exist_ok=True)
    for fold in range(asked.folds):
        sides = np.where(found == fold, "validation", "training")
        pd.DataFrame({"id": patches.ids, "side": sides}).to_csv(asked.out / f"{fold + 1}.csv", index=False)
        held_out = found == fold
        print(f"{fold + 1}: {held_out.sum():,} patches, {patches.labels[held_out].mean():.0%} tumour")


if __name__ == "__main__":
    main()
