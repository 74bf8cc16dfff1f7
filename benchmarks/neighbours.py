"""How long the search for similar training patches takes where there are as many as in the whole competition.

    python benchmarks/neighbours.py [--features 128 1280] [--threads 2]

Features are random, which no index could make use of; the search is exact and compares with every patch.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from sentinode.explain.nearest import KnownFeatures

PATCHES = 220_025
ASKED = (1, 24)
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[128, 1280])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, PATCHES)
    for width in options.features:
        # As a network's: none is negative, and half of them are zero.
        features = np.maximum(rng.standard_normal((PATCHES, width), np.float32), 0)
        began = time.perf_counter()
        known = KnownFeatures(features)
        print(f"{width} features: {time.perf_counter() - began:.1f} s to make them ready, once")
        for count in ASKED:
            asked = np.maximum(rng.standard_normal((count, width), np.float32), 0)
            search = []
            known.alike(asked)  # loops are compiled
            for _ in range(ROUNDS):
                began = time.perf_counter()
                for alike in known.alike(asked):
                    alike.largest(labels >= 0, 10)
                    for label in (0, 1):
                        alike.largest(labels == label, 3)
                search.append(time.perf_counter() - began)
            near = known.alike(asked)[0]
            least = np.sort(near.nearly - near.within)[-10]
            compared = int((near.nearly + near.within >= least).sum())
            each = ", ".join(f"{1000 * seconds / count:.0f}" for seconds in sorted(search))
            print(f"{width} features, {count} asked: {each} ms a patch; of the first, {compared} compared exactly")
        print(f"memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
