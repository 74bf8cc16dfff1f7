"""Pack competition TIFFs into the cache, against Pillow in one thread.

    python benchmarks/packing.py [DATA] [--repeats 5] [--workers 2]

Without DATA a phantom of 4,000 patches is painted. Files are read once before timing, so that both sides
find them in the operating system's cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sentinode.data.cache import pack
from sentinode.data.competition import read_competition
from sentinode.data.listing import Listing, PatchFiles
from sentinode.data.phantom import write_phantom


def pack_with_sentinode(listing: Listing, workers: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        return pack(listing, Path(folder), workers=workers)[0].pixels


def decode_with_pillow(files: PatchFiles) -> np.ndarray:
    pixels = np.empty((len(files), 96, 96, 3), np.uint8)
    for row, name in enumerate(files.names):
        with Image.open(files.folder / name) as image:
            pixels[row] = np.asarray(image)
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.data or Path(scratch) / "phantom"
        if args.data is None:
            write_phantom(root)
        listing = read_competition(root).training
        files = listing.pixels
        assert isinstance(files, PatchFiles)
        assert np.array_equal(pack_with_sentinode(listing, args.workers), decode_with_pillow(files))
        rates: dict[str, list[float]] = {"sentinode": [], "Pillow": []}
        for _ in range(args.repeats):
            for name in rates:
                started = time.perf_counter()
                if name == "Pillow":
                    decode_with_pillow(files)
                else:
                    pack_with_sentinode(listing, args.workers)
                rates[name].append(len(listing) / (time.perf_counter() - started))
    print(f"{len(listing):,} patches, {args.workers} workers, {args.repeats} repeats; patches a second")
    for name, values in rates.items():
        print(f"{name:10} median {statistics.median(values):8,.0f}   {min(values):8,.0f} to {max(values):8,.0f}")
    pairs = [ours / theirs for ours, theirs in zip(rates["sentinode"], rates["Pillow"], strict=True)]
    print(f"ratio      median {statistics.median(pairs):8.1f}   {min(pairs):8.1f} to {max(pairs):8.1f}")


if __name__ == "__main__":
    main()
