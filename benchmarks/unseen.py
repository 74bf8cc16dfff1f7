"""Scores of networks on patches that `sentinode evaluate` has seen them score, each with an interval.

    sentinode evaluate RUN DATA --labels SOLUTION --out E25
    python benchmarks/unseen.py DATA lite0=E25,E26,E27 lite1=F25,F26,F27 both=E25+F25,E26+F26,E27+F27

NAME=FOLDER,FOLDER,... names a network and one evaluation for each of its seeds; FOLDER+FOLDER is their blend of equal
weights. The interval is of the mean over seeds, from a bootstrap of seeds and of the patches' clusters of stain, which
stand in for slides. Below the table stand the differences to the network named first, on the same draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sentinode.config.run import DataConfig
from sentinode.data.folder import open_folder, pack_folder
from sentinode.errors import SentinodeError
from sentinode.evaluation.blend import blend, equal_weights
from sentinode.evaluation.bootstrap import bootstrap
from sentinode.evaluation.metrics import scores
from sentinode.inference.predictions import Predictions
from sentinode.machine import default_cache
from sentinode.session import Session
from sentinode.splits.stain_clusters import stain_clusters, stain_statistics, uncut_clusters, usual_count


def blended(folders: str) -> Predictions:
    """The evaluations joined by "+" as one, in the order of the first one's patches."""
    members = [Predictions.read(Path(folder) / "predictions.csv") for folder in folders.split("+")]
    if any(not np.array_equal(member.ids, members[0].ids) for member in members):
        raise SystemExit(f"{folders}: evaluations of different patches")
    mean = blend(np.stack([member.probabilities for member in members], axis=1), equal_weights(len(members)))
    return Predictions(members[0].ids, members[0].labels, mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="+", metavar="NAME=FOLDER,FOLDER,...")
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args()

    if not all("=" in network for network in asked.networks):
        parser.error("name each network: NAME=FOLDER,FOLDER,...")
    named = dict(network.split("=", 1) for network in asked.networks)
    seeds = [[blended(folders) for folders in of.split(",")] for of in named.values()]
    first = seeds[0][0]
    folder, _ = open_folder(asked.data, DataConfig())
    test = pack_folder(folder, Session(asked.cache, workers=1)).test
    if test is None or not np.isin(first.ids, test.ids).all():
        raise SystemExit(f"{asked.data} has not the patches that were evaluated")
    order = np.argsort(test.ids)
    rows = order[np.searchsorted(test.ids, first.ids, sorter=order)]
    statistics = stain_statistics(test.pixels)[rows]
    clusters = stain_clusters(statistics, usual_count(len(rows)), np.random.default_rng(0))
    found = bootstrap(
        first.labels,
        np.array([[seed.probabilities for seed in of] for of in seeds]),
        uncut_clusters(clusters, test.groups[rows]),
        rng=np.random.default_rng(0),
        metrics=["auc"],
        workers=1,
    )
    print("| network | AUC by seed | mean | 95 % interval | mean probability |\n| --- | --- | --- | --- | --- |")
    for number, (name, of) in enumerate(zip(named, seeds, strict=True)):
        aucs = found.by_seed[number, :, 0]
        spread = f" ± {aucs.std(ddof=1):.4f}" if len(aucs) > 1 else ""
        interval = found.interval(number, "auc")
        together = scores(first.labels, np.mean([seed.probabilities for seed in of], axis=0))["auc"]
        by_seed = " ".join(f"{auc:.4f}" for auc in aucs)
        print(
            f"| {name} | {by_seed} | {aucs.mean():.4f}{spread} | {interval.low:.3f} to {interval.high:.3f} "
            f"| {together:.4f} |"
        )
    for number, name in list(enumerate(named))[1:]:
        difference = found.difference(number, 0, "auc")
        print(
            f"{name} less {next(iter(named))}: {difference.estimate:+.4f} ({difference.low:+.4f} to "
            f"{difference.high:+.4f}), {found.clusters} clusters"
        )


if __name__ == "__main__":
    try:
        main()
    except SentinodeError as error:
        raise SystemExit(f"error: {error}") from None
