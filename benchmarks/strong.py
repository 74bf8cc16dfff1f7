"""How fast strong networks predict: from TIFF files to a table under all views, sentinode and its peers in turn.

    python benchmarks/strong.py RUN [--data FOLDER] [--files 64] [--rounds 5] [--json strong.json]

RUN is a sealed run of the preset `strong`, or another of timm's networks or an ensemble of them. Its networks are
written as timm opens them. Before the first block sentinode tries its runtimes, as it does where many patches are to
come; that is told and not timed. The files are of `--data`, a competition folder, or a phantom's. timm's inference
script knows one view of one network, so its rate is that of as many passes as sentinode makes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from harness import OURS, PEERS, Benchmark, Server, run, table
from sentinode.artefacts import write_json
from sentinode.exports.hugging_face import write_backbone
from sentinode.models.backbones.backbone import Backbone, Changes
from sentinode.phantom.phantom import write_phantom
from sentinode.runs.environment import describe_environment
from sentinode.runs.run import Run

KAGGLE_TEST = 57_458


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="a competition folder in place of the phantom")
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = Run.open(args.run)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        prepare(scratch, model, args.data, args.files)
        views = model.networks[0].config.predict.views
        options = ("--data", scratch, "--views", views, "--batch-size", 16)
        contenders = {
            "sentinode predict": Server(OURS, "ours/strong.py", *options, threads=args.threads),
            "sentinode predict --runtime pytorch": Server(
                OURS, "ours/strong.py", *options, "--plain", threads=args.threads
            ),
            "PyTorch, eager, Pillow": Server(PEERS, "peers/torch_strong.py", *options, threads=args.threads),
            "timm's inference script": Server(PEERS, "peers/timm_inference.py", *options, threads=args.threads),
        }
        name = (
            f"predict: {model.folder.resolve().name} from TIFF files, views: {views}, networks: {len(model.networks)}"
        )
        found = run(Benchmark(name, "patches per second", True, contenders), args.rounds)
        require_equal(scratch / "sentinode.csv", scratch / "peer.csv")
    print(table(found))
    rate = found["contenders"]["sentinode predict"]["median"]
    print(f"Kaggle's {KAGGLE_TEST:,} test patches: {KAGGLE_TEST / rate / 3600:.1f} h")
    if args.json:
        write_json(args.json, {**found, "environment": describe_environment(torch.device("cpu"))})


def prepare(scratch: Path, model: Run, data: Path | None, files: int) -> None:
    """run: the run; networks/: its networks as timm has them, with their weights; files/: TIFF files."""
    (scratch / "run").symlink_to(model.folder.resolve(), target_is_directory=True)
    weights = model.weights if model.members else [1.0]
    for at, (network, weight) in enumerate(zip(model.networks, weights, strict=True)):
        module = network.network(torch.device("cpu"))
        if not isinstance(module, Backbone) or module.kind == "last" or module.changes != Changes():
            raise SystemExit(f"{network.folder}: not one of timm's networks with statistics of its stages")
        place = scratch / "networks" / str(at)
        place.mkdir(parents=True)
        write_backbone(module, network.config.preprocess.size_px, {}, place)
        told = {"weight": weight, "resize_px": module.resize_px, "maps": list(module.seen)}
        write_json(place / "blend.json", told)
    if data is None:
        data = scratch / "phantom"
        write_phantom(data, patches=max(100, 2 * files), slides=4, workers=1)
    (scratch / "files").mkdir()
    for path in sorted((data / "train").glob("*.tif"))[:files]:
        shutil.copyfile(path, scratch / "files" / path.name)


def require_equal(ours: Path, theirs: Path) -> None:
    """Raise an error unless both gave every patch the same probability, to rounding."""
    both = [pd.read_csv(path).set_index("id")["label"].sort_index() for path in (ours, theirs)]
    if list(both[0].index) != list(both[1].index) or not np.allclose(both[0], both[1], atol=1e-5):
        raise RuntimeError("sentinode and its peer predict differently: there is nothing to compare")


if __name__ == "__main__":
    main()
