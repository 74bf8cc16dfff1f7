"""Does a GPU give what the processor gives, and how fast?

python benchmarks/gpu.py SCRATCH [--device cuda] [--patches 2000] [--epochs 2] [--json FILE]

Trains small runs of each kind of network on a phantom on both devices, opens each run on both, judges a phantom slide,
and interrupts and resumes a run. Each line says what was compared and what came of it; one that fails says so, and the
others go on.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sentinode import RunConfig, Session, fit, heat_map, load, load_preset, override, read_slide, write_phantom
from sentinode.phantom.whole_slides import write_whole_slides
from sentinode.runs.material import gather
from sentinode.runs.train import train_run

LITE = {
    "model.architecture": "timm",
    "model.backbone": "tf_efficientnet_lite0",
    "model.resize_px": 160,
    "preprocess.size_px": 96,
}
TUNED = {**LITE, "fit.train": "stages", "fit.frozen_stages": 4, "model.features.kind": "stages"}
KINDS: dict[str, dict[str, Any]] = {
    "notebook, before": {},
    "notebook, after": {"model.norm": "after"},
    "notebook, batch 256": {"fit.batch_size": 256},
    "notebook, zoom, jitter": {"fit.augment.zoom_across_centre": 0.2, "fit.augment.stain_jitter": 0.3},
    "notebook, EMA, cosine, decay": {
        "fit.average.kind": "ema",
        "fit.schedule.kind": "cosine",
        "fit.weight_decay": 0.01,
    },
    "notebook, mixed precision": {"fit.precision": "mixed", "predict.precision": "mixed"},
    "notebook, compiled": {"fit.compile": True},
    "p4m, 48 px": {"model.architecture": "p4m", "preprocess.size_px": 48},
    "Lite0, fine-tuned": TUNED,
    "Lite0, fine-tuned, mixed": {**TUNED, "fit.precision": "mixed", "predict.precision": "mixed"},
    "Lite0, head alone": {**LITE, "fit.train": "head"},
}


class KilledError(Exception):
    """Stands for a process that is killed between two epochs."""


def kill(_: dict[str, Any]) -> None:
    raise KilledError


class Bench:
    """What was found, line by line."""

    def __init__(self, scratch: Path, device: str, patches: int, epochs: int) -> None:
        self.scratch, self.epochs, self.found = scratch, epochs, dict[str, dict[str, Any]]()
        self.data = scratch / "phantom"
        write_phantom(self.data, patches=patches, slides=12, seed=3)
        self.on = {name: Session(scratch / "cache", torch.device(name)) for name in ("cpu", device)}
        self.gpu = device
        self.base = override(load_preset("fair").run_config(), {"fit.epochs": epochs, "predict.views": 1})

    def line(self, name: str, compute: Callable[[], dict[str, Any]]) -> None:
        """Compute and tell; whatever goes wrong is told, too."""
        started = time.perf_counter()
        try:
            said = compute()
        except Exception as error:
            said = {"failed": f"{type(error).__name__}: {error}", "at": traceback.format_exc().splitlines()[-4:-1]}
        said["seconds"] = round(time.perf_counter() - started, 1)
        self.found[name] = said
        print(name, json.dumps(said, default=str), flush=True)

    def trained(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """The same settings on both devices: scores and speed; then the GPU's run, asked on both."""
        config, told = override(self.base, settings), dict[str, Any]()
        for device, session in self.on.items():
            if config.fit.train != "head" and config.fit.compile and device == "cpu":
                continue  # minutes, and for nothing
            material = gather(self.data, config, session).material
            run = train_run(material, config, self.scratch / f"{name}-{device}")
            speed = run.history["patches_per_s"].iloc[-1] if "patches_per_s" in run.history else None
            loss = run.history["training_loss"].tolist()
            told[device] = {"auc": round(run.scores["auc"], 4), "loss": [round(x, 4) for x in loss], "patches/s": speed}
        patches = material.patches.pixels[:500]
        logits = [load(run.folder, device=device).logits(patches) for device in self.on]
        told["largest difference of logits"] = float(np.abs(logits[0] - logits[1]).max())
        return told

    def repeated(self) -> dict[str, Any]:
        """Twice the same run, and once interrupted and resumed, on the GPU."""
        session, places = self.on[self.gpu], [self.scratch / f"again-{i}" for i in range(3)]
        material = gather(self.data, self.base, session).material
        runs = [train_run(material, self.base, place) for place in places[:2]]
        try:
            train_run(material, self.base, places[2], on_epoch=kill)
        except KilledError:
            runs.append(train_run(material, self.base, places[2], resume=True))
        one, *others = (run.predictions.probabilities for run in runs)
        return {
            "same weights": [run.weights_digest == runs[0].weights_digest for run in runs[1:]],
            "largest difference of probabilities": [float(np.abs(one - other).max()) for other in others],
        }

    def asked(self, folder: Path, count: int) -> dict[str, Any]:
        """Many patches at once, in odd batches, and from four threads; and how fast."""
        classifier = load(folder, device=self.gpu)
        patches = np.random.default_rng(0).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        whole = classifier.logits(patches)
        started = time.perf_counter()
        classifier(patches)
        speed = count / (time.perf_counter() - started)
        odd = classifier.logits(patches[i : i + 37] for i in range(0, 1000, 37))
        with ThreadPoolExecutor(4) as pool:
            threads = list(pool.map(lambda i: classifier.logits(patches[i : i + 500]), range(0, 2000, 500)))
        return {
            "patches/s from memory": round(speed),
            "odd batches differ by": float(np.abs(odd - whole[: len(odd)]).max()),
            "threads differ by": float(np.abs(np.concatenate(threads) - whole[:2000]).max()),
        }

    def slide(self, folder: Path, *, dense: bool) -> dict[str, Any]:
        """A phantom slide, judged on both devices."""
        where = self.scratch / "slides"
        if not where.is_dir():
            write_whole_slides(where, count=1, seed=5)
        told, maps = dict[str, Any](), []
        for device in self.on:
            slide, classifier = read_slide(next((where / "slides").iterdir())), load(folder, device=device)
            heat_map(slide, classifier, dense=dense)
            started = time.perf_counter()
            maps.append(heat_map(slide, classifier, dense=dense).probability)
            told[f"{device}, cells/s"] = round(np.isfinite(maps[-1]).sum() / (time.perf_counter() - started))
        told["largest difference of probabilities"] = float(np.nanmax(np.abs(maps[0] - maps[1])))
        told["same cells"] = bool(np.array_equal(np.isnan(maps[0]), np.isnan(maps[1])))
        return told

    def page(self) -> dict[str, Any]:
        """The public way, with its page."""
        config: RunConfig = override(self.base, {"predict.views": 8})
        run = fit(self.data, config, self.scratch / "page", self.on[self.gpu])
        return {"device": run.environment["device"], "auc": run.scores["auc"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the lines' names")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    bench = Bench(asked.scratch, asked.device, asked.patches, asked.epochs)
    lines: dict[str, Callable[[], dict[str, Any]]] = {
        f"train {name}": lambda name=name: bench.trained(name, KINDS[name]) for name in KINDS
    }

    def run_of(kind: str) -> Path:
        return asked.scratch / f"{kind}-{asked.device}"

    lines |= {
        "repeat and resume": bench.repeated,
        "page": bench.page,
        "ask the notebook's": lambda: bench.asked(run_of("notebook, before"), 20_000),
        "ask Lite0": lambda: bench.asked(run_of("Lite0, fine-tuned"), 4_000),
        "slide, tiled": lambda: bench.slide(run_of("notebook, before"), dense=False),
        "slide, Lite0, dense": lambda: bench.slide(run_of("Lite0, fine-tuned"), dense=True),
    }
    for name, compute in lines.items():
        if not asked.only or any(part in name for part in asked.only):
            bench.line(name, compute)
    if asked.json:
        asked.json.write_text(json.dumps(bench.found, indent=1, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
