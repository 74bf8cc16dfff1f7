"""How long the maps of a model's logits take, method by method, as it lies.

    python benchmarks/explain.py RUN IMAGES [--patches 1820] [--rounds 3] [--threads 2] [--json explain.json]

The rounds of all methods alternate; each round times the whole of a method on the same patches, which are in memory.
What is refused is told: integrated gradients that do not converge are given up after a few patches.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from sentinode.api.load import load
from sentinode.artefacts import write_json
from sentinode.data.folder import pack_all, read_images
from sentinode.device import use_threads
from sentinode.errors import ConfigError
from sentinode.inference.attribution import METHODS, ExplainedLogit, attribute
from sentinode.runs.environment import describe_environment
from sentinode.session import Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--patches", type=int, default=1820)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    use_threads(args.threads)
    session = Session()
    images = read_images(args.images, part="test").listing
    pixels = np.ascontiguousarray(pack_all(images, session).pixels[: args.patches])
    explained = ExplainedLogit.of(load(args.run, session=session), views=1)
    explained.logits(pixels)  # the fastest runtime is tried, and told, before anything is timed
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    refused: dict[str, str] = {}
    for _ in range(args.rounds):
        for method in METHODS:
            began = time.perf_counter()
            try:
                found = attribute(explained, pixels, method)
                refused |= {} if found.refused is None else {method: found.refused}
            except ConfigError as error:
                refused[method] = error.what
            seconds[method].append(time.perf_counter() - began)
    print(
        f"{args.run.name}: {len(pixels):,} patches, {args.threads} threads, {args.rounds} rounds; median (range) in s"
    )
    for method, took in seconds.items():
        told = f"; refused: {refused[method]}" if method in refused else ""
        print(f"{method:22} {np.median(took):8.1f} ({min(took):.1f} to {max(took):.1f}){told}")
    print(f"{'all three':22} {sum(float(np.median(took)) for took in seconds.values()):8.1f}")
    if args.json:
        environment = describe_environment(torch.device("cpu"))
        write_json(args.json, {"seconds": seconds, "refused": refused, "environment": environment})


if __name__ == "__main__":
    main()
