"""sentinode and its peers in turn: the same data, the same threads, several rounds; a table and JSON.

    make bench                                  # installs the peers, runs everything
    make bench BENCH="fit --quick"              # a minute's try
    python benchmarks/bench.py fit predict --rounds 9 --data FOLDER

The data are a phantom in the competition's layout, or the competition folder that is given. Every contender starts
and warms up on its own; then one block of each is timed, round after round, never two at once. A ratio is that of
the two blocks of one round.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from harness import OURS, PEERS, Benchmark, Command, Server, peer_versions, run, table
from sentinode.artefacts import write_json, write_text
from sentinode.config.presets import load_preset
from sentinode.config.run import RunConfig
from sentinode.phantom.phantom import write_phantom
from sentinode.runs.environment import describe_environment
from sentinode.runs.material import gather
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override, to_toml

RATE, SECONDS = "patches per second", "seconds"
STARTUP_IMAGES = 10
PREDICT_BATCH = 512


def notebook_run() -> RunConfig:
    """The notebook's settings, but on all patches and in whole epochs."""
    changes = {"balance": None, "sample": None}
    epochs = {"fit.epochs": 1, "fit.epoch_fraction": None}
    return override(load_preset("seed").run_config(), changes | epochs)


def prepare(scratch: Path, data: Path | None, patches: int, threads: int) -> int:
    """Lay out what the contenders read, and return the number of patches of the training side:

    competition/    train/<id>.tif and train_labels.csv
    classes/0, 1/   copies of the files of the training side, as the notebook has them
    run.toml        the settings of sentinode's runs
    run-1, run-8/   a run that predicts from one view, and one from 8
    cache/          packed patches
    ten/            a few patches in a folder of the same layout
    """
    competition = scratch / "competition"
    if data is None:
        write_phantom(competition, patches=patches, slides=max(3, patches // 250), workers=threads)
    else:
        competition.symlink_to(data.resolve(), target_is_directory=True)
    config, session = notebook_run(), Session(scratch / "cache", torch.device("cpu"), threads)
    write_text(scratch / "run.toml", to_toml(config))
    material = gather(competition, config, session).material
    training = material.split(config).training.tolist()
    for label in (0, 1):
        (scratch / "classes" / str(label)).mkdir(parents=True)
    for patch in training:
        name = f"{patch}.tif"
        shutil.copyfile(competition / "train" / name, scratch / "classes" / str(material.labels_by_id[patch]) / name)
    for views in (1, 8):
        settings = override(config, {"predict.views": views})
        train_run(material, settings, scratch / f"run-{views}")
    ten = scratch / "ten"
    (ten / "competition" / "train").mkdir(parents=True)
    for path in sorted((competition / "train").iterdir())[:STARTUP_IMAGES]:
        shutil.copyfile(path, ten / "competition" / "train" / path.name)
    (ten / "run-1").symlink_to(scratch / "run-1", target_is_directory=True)
    return len(training)


def fit(data: Path, threads: int) -> Iterator[Benchmark]:
    for batch_size in (32, 64):
        server = partial(Server, threads=threads)
        options = ("--data", data, "--batch-size", batch_size)
        yield Benchmark(
            f"fit: the notebook's network, batch {batch_size}",
            RATE,
            True,
            {
                "sentinode, packed": server(OURS, "ours/fit.py", *options),
                "Keras, ImageDataGenerator (the notebook's way)": server(PEERS, "peers/keras_generator.py", *options),
                "Keras, cached tf.data": server(PEERS, "peers/keras_cached.py", *options),
                "PyTorch, DataLoader and torchvision": server(PEERS, "peers/torch_loader.py", *options),
                "timm's loader, transforms and loop": server(PEERS, "peers/timm_loader.py", *options),
                "PyTorch, floats in memory, no augmentation": server(PEERS, "peers/torch_memory.py", *options),
            },
        )


def ingest(data: Path, threads: int) -> Iterator[Benchmark]:
    yield Benchmark(
        "ingest: TIFF files, read and checked",
        RATE,
        True,
        {
            f"sentinode, to its cache, {threads} workers": Server(
                OURS, "ours/ingest.py", "--data", data, threads=threads
            ),
            "Pillow, to memory, one thread": Server(PEERS, "peers/pillow_ingest.py", "--data", data, threads=threads),
        },
    )


def predict(data: Path, threads: int) -> Iterator[Benchmark]:
    for views in (1, 8):
        options = ("--data", data, "--views", views, "--batch-size", PREDICT_BATCH)
        yield Benchmark(
            f"predict: from TIFF files to a table, views: {views}",
            RATE,
            True,
            {
                "sentinode": Server(OURS, "ours/predict.py", *options, threads=threads),
                "PyTorch, eager, Pillow": Server(PEERS, "peers/torch_predict.py", *options, threads=threads),
            },
        )
        check_same_predictions(data / f"sentinode-{views}.csv", data / f"peer-{views}.csv")


def classifier(data: Path, threads: int) -> Iterator[Benchmark]:
    for views in (1, 8):
        options = ("--data", data, "--views", views)
        yield Benchmark(
            f"a model in a program: 100,000 patches from memory, views: {views}",
            RATE,
            True,
            {
                "sentinode.load": Server(OURS, "ours/classifier.py", *options, threads=threads),
                "sentinode predict, packed before": Server(
                    OURS, "ours/predict.py", *options, "--packed", threads=threads
                ),
            },
        )


def check_same_predictions(ours: Path, theirs: Path) -> None:
    """Raise an error unless both sides gave every patch the same probability, to rounding."""
    both = [pd.read_csv(path).set_index("id")["label"].sort_index() for path in (ours, theirs)]
    if list(both[0].index) != list(both[1].index) or not np.allclose(both[0], both[1], atol=1e-5):
        raise RuntimeError("sentinode and its peer predict differently: there is nothing to compare")


def startup(data: Path, threads: int) -> Iterator[Benchmark]:
    command = partial(Command, threads=threads)
    sentinode = Path(OURS).with_name("sentinode")
    yield Benchmark(
        "start-up: help",
        SECONDS,
        False,
        {"sentinode --help": command(sentinode, "--help"), "import torch": command(PEERS, "-c", "import torch")},
    )
    ten, cache, out = data / "ten", data / "ten" / "cache", data / "ten" / "out.csv"
    images = ten / "competition" / "train"
    yield Benchmark(
        f"start-up: predict {STARTUP_IMAGES} images",
        SECONDS,
        False,
        {
            "sentinode predict": command(
                *(sentinode, "predict", ten / "run-1", images, "--out", out, "--cache", cache, "--device", "cpu"),
                before=lambda: shutil.rmtree(cache, ignore_errors=True),
            ),
            "PyTorch, eager, Pillow": command(
                PEERS, Path(__file__).with_name("peers") / "torch_predict.py", "--data", ten
            ),
            "import tensorflow, no more": command(PEERS, "-c", "import tensorflow"),
        },
    )


BENCHMARKS: dict[str, Callable[[Path, int], Iterator[Benchmark]]] = {
    "fit": fit,
    "ingest": ingest,
    "predict": predict,
    "classifier": classifier,
    "startup": startup,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", choices=[*BENCHMARKS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--patches", type=int, default=6000, help="of the phantom, its test part included")
    parser.add_argument("--data", type=Path, help="a competition folder in place of the phantom")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file to write everything to that was measured")
    parser.add_argument("--quick", action="store_true", help="600 patches and 2 rounds: to see that it works")
    args = parser.parse_args()
    if not Path(PEERS).exists():
        parser.error("the peers are not installed: make bench does that")
    patches, rounds = (600, 2) if args.quick else (args.patches, args.rounds)
    torch.set_num_threads(args.threads)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        training_side = prepare(data, args.data, patches, args.threads)
        files = len(list((data / "competition" / "train").iterdir()))
        print(f"{files:,} files, {training_side:,} of them to train on; {args.threads} threads; {rounds} rounds")
        print("Medians (least to most).\n", flush=True)
        about = {
            "patches": files,
            "trained_on": training_side,
            "threads": args.threads,
            "rounds": rounds,
            "sentinode": describe_environment(torch.device("cpu")),
            "peers": peer_versions(),
        }
        for name in BENCHMARKS if "all" in args.benchmarks else args.benchmarks:
            for benchmark in BENCHMARKS[name](data, args.threads):
                results.append(run(benchmark, rounds))
                print(table(results[-1]), flush=True)
                if args.json:  # after each, so that an interruption loses only the one at work
                    write_json(args.json, {**about, "benchmarks": results})


if __name__ == "__main__":
    main()
