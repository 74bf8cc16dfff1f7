"""How time and memory grow with the number of patches and of seeds: packing, an epoch of training, predicting.

    python benchmarks/growth.py --scratch FOLDER --json growth.json --figure docs/images/growth.png
    python benchmarks/growth.py --scratch FOLDER --sizes 1000 3000 10000

Files are laid out as in `ingest_whole.py`, once; each size and each number of seeds is measured in a process of its
own, so that no memory is left from the one before. Memory is what a process asked for beyond what it held before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ingest_whole import COMPETITION_PATCHES, lay_out
from memory import PeakMemory
from sentinode.artefacts import write_json
from sentinode.config.fit import FitAll
from sentinode.config.presets import load_preset
from sentinode.data.cache import pack
from sentinode.data.competition import read_competition
from sentinode.fitting.epochs import FitState, fit_epochs
from sentinode.fitting.memory import keep_freed_memory
from sentinode.inference.trained import TrainedNetwork
from sentinode.inputs.batches import BatchStream
from sentinode.inputs.preprocess import prepare
from sentinode.models.build import build
from sentinode.settings import override

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, COMPETITION_PATCHES)
SEEDS = (1, 2, 4, 8)
PATCHES_FOR_SEEDS = 10_000
_CPU = torch.device("cpu")
_STEPS = ("pack", "train", "predict")


def measure(folder: Path, scratch: Path, patches: int, seeds: int) -> dict[str, Any]:
    """Pack so many patches, train a network of each seed for an epoch, and predict all patches with the last."""
    keep_freed_memory()
    config = override(
        load_preset("seed").run_config(),
        {"fit.batch_size": 64, "fit.epochs": 1, "fit.epoch_fraction": None},
    )
    assert isinstance(config.fit, FitAll)
    listing = read_competition(folder).training.take(np.arange(patches))
    before = psutil.Process().memory_info()
    with PeakMemory() as memory:
        clock = [time.perf_counter()]
        packed, _ = pack(listing, scratch, workers=torch.get_num_threads())
        clock.append(time.perf_counter())
        rows = np.arange(patches)
        prepared = prepare(packed, rows, config.preprocess, budget_mb=config.running.memory_budget_mb, scratch=scratch)
        few = prepare(packed, rows[:64], config.preprocess, budget_mb=config.running.memory_budget_mb)
        for seed in range(seeds):
            network = build(config.model, input_size_px=32, generator=torch.Generator().manual_seed(seed))
            stream = BatchStream(prepared, packed.labels, batch_size=64, seed=seed, shuffle=True)
            unseen = BatchStream(few, packed.labels[:64], batch_size=64, seed=seed, shuffle=False)
            for _ in fit_epochs(FitState.start(network, config.fit), stream, unseen, config.fit, device=_CPU):
                pass
        clock.append(time.perf_counter())
        one_view = override(config, {"predict.views": 1, "running.prediction_batch_size": 256})
        TrainedNetwork(network, one_view, _CPU).probabilities(prepared)
        clock.append(time.perf_counter())
    held = before.rss - getattr(before, "shared", 0)
    return {
        "patches": patches,
        "seeds": seeds,
        "seconds": dict(zip(_STEPS, np.diff(clock).tolist(), strict=True)),
        "anonymous_mb": (memory.anonymous_bytes - held) / 1e6,
        "prepared_mb": prepared.held.nbytes / 1e6 if prepared.held is not None else 0.0,
    }


def draw(by_size: list[dict[str, Any]], by_seeds: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, (time_axis, memory_axis, seeds_axis) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    sizes = [row["patches"] for row in by_size]
    for step, marker in zip(_STEPS, "osD", strict=True):
        time_axis.loglog(sizes, [row["seconds"][step] for row in by_size], marker=marker, label=step)
    time_axis.set(xlabel="patches", ylabel="seconds", title="Time")
    time_axis.legend(frameon=False)
    memory_axis.semilogx(sizes, [row["anonymous_mb"] for row in by_size], marker="o")
    memory_axis.set(xlabel="patches", ylabel="MB", title="Memory asked for", ylim=(0, 200))
    seeds_axis.plot(
        [row["seeds"] for row in by_seeds], [row["seconds"]["train"] for row in by_seeds], marker="s", color="C1"
    )
    seeds_axis.set(xlabel="seeds", ylabel="seconds", title=f"Training, {PATCHES_FOR_SEEDS:,} patches")
    seeds_axis.set(ylim=(0, None), xlim=(0, None))
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="where there is room for twice the patches")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--measure", nargs=2, type=int, metavar=("PATCHES", "SEEDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory(dir=options.scratch) as cache:
            print(json.dumps(measure(options.scratch / "competition", Path(cache), *options.measure)))
        return

    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        lay_out(Path(name) / "competition", max(*options.sizes, PATCHES_FOR_SEEDS))
        if hasattr(os, "sync"):
            os.sync()

        def of(patches: int, seeds: int) -> dict[str, Any]:
            command = [sys.executable, __file__, "--scratch", name, "--measure", str(patches), str(seeds)]
            row: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            seconds = " ".join(f"{step} {row['seconds'][step]:8.2f} s" for step in _STEPS)
            print(f"{patches:8,} patches {seeds} seeds: {seconds}  {row['anonymous_mb']:6.0f} MB", flush=True)
            return row

        by_size = [of(size, 1) for size in options.sizes]
        by_seeds = [of(PATCHES_FOR_SEEDS, seeds) for seeds in SEEDS]
    if options.json:
        write_json(options.json, {"by_size": by_size, "by_seeds": by_seeds})
    if options.figure:
        draw(by_size, by_seeds, options.figure)


if __name__ == "__main__":
    main()
