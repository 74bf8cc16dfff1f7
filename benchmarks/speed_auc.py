"""AUC on patches of other slides against patches a second, of finished runs: one table, one picture.

    python benchmarks/speed_auc.py NAME=RUN=EVALUATION ... --json FILE --figure docs/images/speed-auc.png

RUN is a run's folder, EVALUATION what `sentinode evaluate --out` wrote of it, with its AUC and interval. Speed is that
of `sentinode.load(RUN)` on pixels in memory, under the run's own number of views, in the runtime that it takes for as
many patches as `--patches`; the runs take turns, about `--seconds` each, and the median of the rounds is drawn, with
the least and the most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from sentinode import load
from sentinode.artefacts import write_json
from sentinode.inference.classifier import Classifier
from sentinode.report.figures.style import MUTED, NEGATIVE, RULE

_LEAST, _MOST = 8, 16_384  # patches a block


def patches_per_s(classifier: Classifier, pixels: np.ndarray, seconds: float) -> float:
    """How many patches are predicted in a second: blocks, each twice as large, until one takes half of the seconds."""
    count, taken = _LEAST // 2, 0.0
    while taken < seconds / 2 and count < len(pixels):
        count *= 2
        started = time.perf_counter()
        classifier(pixels[:count])
        taken = time.perf_counter() - started
    return count / taken


def measure(given: list[str], patches: int, rounds: int, seconds: float) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (_MOST, 96, 96, 3), dtype=np.uint8)
    found, classifiers = dict[str, Any](), dict[str, Classifier]()
    for each in given:
        name, run, evaluation = each.split("=")
        auc = json.loads((Path(evaluation) / "scores.json").read_text(encoding="utf-8"))["scores"]["auc"]
        classifiers[name] = load(run, device="cpu")
        classifiers[name](pixels[:_LEAST])  # starts are not measured
        classifiers[name].expect(pixels, patches)
        found[name] = {"auc": {end: auc[end] for end in ("estimate", "low", "high")}, "rates": []}
        found[name]["ways"] = list(classifiers[name].ways)
    for _ in range(rounds):
        for name, classifier in classifiers.items():
            found[name]["rates"].append(patches_per_s(classifier, pixels, seconds))
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, each in found.items():
        rates, auc = each["rates"], each["auc"]
        rate = statistics.median(rates)
        axes.errorbar(
            rate,
            auc["estimate"],
            xerr=[[rate - min(rates)], [max(rates) - rate]],
            yerr=[[auc["estimate"] - auc["low"]], [auc["high"] - auc["estimate"]]],
            fmt="o",
            color=NEGATIVE,
            ecolor=MUTED,
            capsize=2,
        )
        crowded = any(
            rate < statistics.median(other["rates"]) < 2 * rate
            and abs(other["auc"]["estimate"] - auc["estimate"]) < 0.04
            for other in found.values()
        )  # by its neighbour on the right
        axes.annotate(
            name,
            (rate, auc["estimate"]),
            xytext=(-6 if crowded else 6, 6),
            textcoords="offset points",
            ha="right" if crowded else "left",
        )
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("patches per second, two processor cores")
    axes.set_ylabel("AUC, test patches (95 % interval)")
    axes.grid(visible=True, color=RULE)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN=EVALUATION")
    parser.add_argument("--patches", type=int, default=220_025, help="for which a runtime is chosen (a competition)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    found = measure(asked.runs, asked.patches, asked.rounds, asked.seconds)
    for name, each in found.items():
        auc, rates = each["auc"], each["rates"]
        told = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) patches per second"
        ways = ", ".join(dict.fromkeys(each["ways"]))
        print(f"{name}: AUC {auc['estimate']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}), {told} ({ways})")
    if asked.json:
        write_json(asked.json, found)
    if asked.figure:
        draw(found, asked.figure)


if __name__ == "__main__":
    main()
