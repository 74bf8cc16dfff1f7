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

from sentinode.explain.neighbours import most_alike, similarities

PATCHES = 220_025
ASKED = (1, 24)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[128, 1280])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, PATCHES)
    for width in options.features:
        known = rng.standard_normal((PATCHES, width), np.float32)
        for count in ASKED:
            asked = rng.standard_normal((count, width), np.float32)
            whole, search = [], []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                alike = similarities(asked, known)
                whole.append(time.perf_counter() - began)
                began = time.perf_counter()
                found = torch.matmul(torch.from_numpy(asked), torch.from_numpy(known).T).numpy()
                for row in found:
                    most_alike(row, 10)
                    for label in (0, 1):
                        most_alike(row[labels == label], 3)
                search.append(time.perf_counter() - began)
                assert alike.shape == found.shape
            each = ", ".join(f"{1000 * seconds / count:.0f}" for seconds in sorted(search))
            print(f"{width} features, {count} asked: {each} ms a patch; with standardising {min(whole):.1f} s in all")
        print(f"memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
