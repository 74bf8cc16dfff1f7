"""SHA-256 of what small runs of each kind end in, to see that a change of the code left their bits alone.

    OMP_NUM_THREADS=1 python benchmarks/digests.py > before.txt      # and again after the change
    diff before.txt after.txt

Each line names a kind of run and holds the digest of its weights: the presets' networks, the other architectures, and
a backbone of timm trained in each way, with weights that a seed draws. Bits are the same only
for one machine, one set of versions and one number of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any, Final

import torch

from sentinode.config.presets import load_preset
from sentinode.phantom.phantom import write_phantom
from sentinode.runs.material import gather
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override

_SHORT: Final = {"fit.epochs": 2, "sample": "none"}
_TIMM: Final = {
    "model.architecture": "timm",
    "model.backbone": "test_efficientnet",
    "model.pretrained": "none",
    "preprocess.size_px": 96,
}
_STAGES: Final = {**_TIMM, "fit.train": "stages"}
_HEAD: Final = {
    **_TIMM,
    "fit.train": "head",
    "fit.penalties": [0.1, 0.01],
    "model.features.kind": "stages",
    "model.features.skipped_maps": 1,
}
_COPIES: Final = {"fit.copies.count": 2, "fit.copies.stain_jitter": 0.3}
_EMA: Final = {"fit.average.kind": "ema", "fit.average.decay": 0.9}

RUNS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "quick": ("quick", {}),
    "fair before": ("fair", {"fit.batch_size": 16}),
    "fair after": ("fair", {"model.norm": "after", "fit.patience": 1}),
    "seed": (
        "seed",
        {
            "balance.drop_negative_fraction": 0.31,
            "fit.epoch_fraction": None,
            "fit.steps_per_epoch": 3,
            "fit.validation_steps": 2,
        },
    ),
    "sampled": ("fair", {"sample.per_class": 120, "sample.training_per_class": 60, "split.folds": 3, "split.fold": 2}),
    "flips and swa": ("fair", {"fit.augment.symmetries": "flips", "fit.average.kind": "swa"}),
    "cosine and ema": (
        "fair",
        {"fit.schedule.kind": "cosine", "fit.schedule.warmup_epochs": 0.5, "fit.weight_decay": 0.01, **_EMA},
    ),
    "mixed": ("fair", {"fit.precision": "mixed", "fit.label_smoothing": 0.1}),
    "p4m": ("fair", {"model.architecture": "p4m"}),
    "timm, all": ("fair", _TIMM),
    "timm, stages": ("fair", {**_STAGES, "fit.frozen_stages": 2, "fit.layer_decay": 0.5, **_EMA}),
    "timm, head": ("fair", _HEAD),
    "timm, head of copies": ("fair", {**_HEAD, **_COPIES}),
    "timm, head first": (
        "fair",
        {
            **_STAGES,
            "fit.head_first.penalties": [0.1, 0.01],
            "fit.head_first.copies.count": 1,
            "fit.head_first.copies.stain_jitter": 0.3,
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="KIND", help="one of the kinds of run, in place of all")
    only = parser.parse_args().only
    if only not in (None, *RUNS):
        parser.error(f"there is no kind {only!r}: choose one of {', '.join(RUNS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        data, folder = Path(scratch) / "data", Path(scratch) / "runs"
        write_phantom(data, patches=400, slides=10, seed=7, workers=1)
        session = Session(Path(scratch) / "cache", torch.device("cpu"), workers=1)
        for name, (preset, own) in RUNS.items():
            if only in (None, name):
                config = override(override(load_preset(preset).run_config(), _SHORT), own)
                run = train_run(gather(data, config, session).material, config, folder / name)
                weights = (run.folder / "model.safetensors").read_bytes()
                print(f"{name}: {hashlib.sha256(weights).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
