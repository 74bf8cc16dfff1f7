"""How wide intervals are by real slides, by clusters of stain and by single patches.

    sentinode evaluate RUN DATA --labels SOLUTION --out E25
    python benchmarks/real_slides.py DATA --slides slides.csv E25 [E26 ...]

Of the evaluated patches those whose slide the table names are scored, each evaluation alone: the 95 % interval of the
AUC from a bootstrap of their slides, of clusters of stain (several numbers of them) and of patches, and how wide each
is beside the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sentinode.config.run import DataConfig
from sentinode.data.folder import open_folder, pack_folder
from sentinode.data.tables import SLIDE_COLUMNS, read_column_by_id
from sentinode.errors import SentinodeError
from sentinode.evaluation.bootstrap import Interval, bootstrap
from sentinode.inference.predictions import Predictions
from sentinode.machine import default_cache
from sentinode.session import Session
from sentinode.splits.stain_clusters import stain_clusters, stain_statistics, usual_count

_PATCHES_A_CLUSTER = (300, 150, 75, 40)


def interval_by(predictions: Predictions, clusters: np.ndarray) -> Interval:
    found = bootstrap(
        predictions.labels,
        predictions.probabilities[None, None],
        clusters,
        rng=np.random.default_rng(0),
        metrics=["auc"],
        workers=1,
    )
    return found.interval(0, "auc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("evaluations", nargs="+", type=Path, metavar="E25")
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args()

    slide_of = read_column_by_id(asked.slides, SLIDE_COLUMNS)
    folder, _ = open_folder(asked.data, DataConfig())
    patches = pack_folder(folder, Session(asked.cache, workers=1)).everything
    print("| run | clusters | how many | AUC | 95 % interval | width beside slides |")
    print("| --- | --- | --- | --- | --- | --- |")
    for evaluation in asked.evaluations:
        every = Predictions.read(evaluation / "predictions.csv")
        known = np.array([bool(slide_of.get(i)) for i in every.ids.tolist()])
        scored = Predictions(every.ids[known], every.labels[known], every.probabilities[known])
        statistics = stain_statistics(patches.pixels, rows=patches.rows_of(scored.ids))
        kinds = {"slides": np.array([slide_of[i] for i in scored.ids.tolist()])}
        counts = {usual_count(len(scored)), *(len(scored) // patches_each for patches_each in _PATCHES_A_CLUSTER)}
        for count in sorted(counts):
            name = "stain, the default" if count == usual_count(len(scored)) else "stain"
            kinds[f"{name} ({count})"] = stain_clusters(statistics, count, np.random.default_rng(0)).astype(str)
        kinds["patches"] = np.full(len(scored), "", dtype=str)
        of_slides = interval_by(scored, kinds["slides"])
        for name, clusters in kinds.items():
            found = interval_by(scored, clusters)
            share = (found.high - found.low) / (of_slides.high - of_slides.low)
            number = len(scored) if name == "patches" else len(np.unique(clusters))
            print(
                f"| {evaluation.name} | {name} | {number:,} | {found.estimate:.3f} "
                f"| {found.low:.3f} to {found.high:.3f} | {share:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    try:
        main()
    except SentinodeError as error:
        raise SystemExit(f"error: {error}") from None
