"""Time and memory of the search for overlaps against the number of patches.

    python benchmarks/overlaps.py                       generated slides, up to 32,000 patches
    python benchmarks/overlaps.py --patches 220025      the size of the competition's training set
    python benchmarks/overlaps.py --pixels pixels.npy   any (N, 96, 96, 3) uint8 array of your own

The last column is processor time / (N log N), relative to the first row: at or below 1, up to noise, the
search grows no faster than N log N. On generated slides the pairs are known from where the patches were
cut, and the table says how many of them were found.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from memory import PeakMemory
from sentinode.audit.duplicates import hash_pixels
from sentinode.audit.overlaps import MIN_SHARED_PX, Overlap, find_anchors, match_anchors
from sentinode.data.chunks import in_blocks, map_chunks

PATCH_PX = 96
GRID_PX = 16
SLIDE_PX = 1024
PATCHES_PER_SLIDE = 500  # about 12 overlaps a patch, more than in the real set


def generate(path: Path, count: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """Cut patches from slides of smooth noise into a memory map; also counts the true pairs."""
    rng = np.random.default_rng(seed)
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (count, PATCH_PX, PATCH_PX, 3))
    places = (SLIDE_PX - PATCH_PX) // GRID_PX + 1
    pairs = 0
    for start in range(0, count, PATCHES_PER_SLIDE):
        smooth = ndimage.uniform_filter(rng.normal(size=(SLIDE_PX, SLIDE_PX, 3)).astype(np.float32), (5, 5, 1))
        slide = np.clip(150 + smooth * 200, 0, 255).astype(np.uint8)
        amount = min(PATCHES_PER_SLIDE, count - start)
        corners = GRID_PX * np.stack(np.divmod(rng.choice(places**2, amount, replace=False), places), axis=1)
        for row, (y, x) in enumerate(corners, start):
            pixels[row] = slide[y : y + PATCH_PX, x : x + PATCH_PX]
        distances = np.abs(corners[:, None] - corners[None]).max(axis=2)
        pairs += int((np.triu(distances <= PATCH_PX - MIN_SHARED_PX, 1)).sum())
    pixels.flush()
    return pixels, pairs


def find_overlaps(pixels: np.ndarray, *, workers: int = 2) -> list[Overlap]:
    """As an audit does, without what else it looks for."""

    def anchors_of(first_row: int, chunk: np.ndarray) -> np.ndarray:
        return find_anchors(chunk, hash_pixels(chunk), first_row, len(pixels))

    chunks = map_chunks(anchors_of, pixels, workers=workers)
    return match_anchors(pixels, [np.concatenate(block) for block in in_blocks(chunks)], workers=workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, nargs="+", default=[2_000, 4_000, 8_000, 16_000, 32_000])
    parser.add_argument("--pixels", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    find_overlaps(np.zeros((64, PATCH_PX, PATCH_PX, 3), np.uint8))  # the first call pays for imports
    names = ("patches", "true", "found", "seconds", "CPU s", "us/patch", "MB", "/ N log N")
    print("".join(f"{name:>10}" for name in names))
    first_rate = None
    for count in sorted(options.patches):
        with tempfile.TemporaryDirectory() as folder:
            if options.pixels is None:
                pixels, known = generate(Path(folder) / "pixels.npy", count)
                true = f"{known:,}"
            else:
                stored = np.load(options.pixels, mmap_mode="r")
                if count > len(stored):
                    break
                chosen = np.random.default_rng(0).permutation(len(stored))[:count]
                pixels, true = stored if count == len(stored) else stored[np.sort(chosen)], "?"
            with PeakMemory() as memory:
                start, cpu_start = time.perf_counter(), time.process_time()
                found = find_overlaps(pixels, workers=options.workers)
                duration_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
            del pixels
        rate = cpu_s / (count * math.log2(count))
        first_rate = first_rate or rate
        print(
            f"{count:>10,}{true:>10}{len(found):>10,}{duration_s:>10.2f}{cpu_s:>10.2f}"
            f"{duration_s / count * 1e6:>10.0f}{memory.anonymous_bytes / 1e6:>10.0f}{rate / first_rate:>10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
