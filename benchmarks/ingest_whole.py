"""Pack as many patches as the competition has, once, for real: time, memory, disk.

    python benchmarks/ingest_whole.py --scratch FOLDER                   220,025 patches; 12.3 GB for a while
    python benchmarks/ingest_whole.py --scratch FOLDER --patches 20000   the same with fewer
    python benchmarks/ingest_whole.py --scratch FOLDER --cold            read from the disk, not from memory (Linux)

A phantom of a few thousand patches is painted, and its pixels are repeated in so many files of their own: links
would be one file to the operating system. Memory is that of the process and its workers. Anonymous memory is what
it asked for; the resident also counts pages of files, which the system takes back whenever it needs them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil

from memory import PeakMemory
from sentinode.data.cache import pack
from sentinode.data.competition import read_competition
from sentinode.data.images import PATCH_BYTES, TIFF_BYTES
from sentinode.phantom.phantom import write_phantom

COMPETITION_PATCHES = 220_025
PAINTED_PATCHES = 4_000


def lay_out(folder: Path, patches: int) -> None:
    """A competition folder of so many files, the pixels of a phantom again and again."""
    painted = folder.with_name("painted")
    write_phantom(painted, patches=PAINTED_PATCHES, slides=24)
    contents = [path.read_bytes() for path in sorted((painted / "train").iterdir())]
    shutil.rmtree(painted)
    (folder / "train").mkdir(parents=True)
    with (folder / "train_labels.csv").open("w", encoding="utf-8") as table:
        table.write("id,label\n")
        for number in range(patches):
            name = hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()  # as long as the real ones
            (folder / "train" / f"{name}.tif").write_bytes(contents[number % len(contents)])
            table.write(f"{name},{number % 2}\n")


def forget_pixels(folder: Path) -> None:
    """Let the operating system drop what it keeps of the files in memory; their names stay there."""
    for entry in os.scandir(folder / "train"):
        descriptor = os.open(entry.path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk_bytes(folder: Path) -> int:
    """What the files of a folder take on the disk, in whole blocks where the system tells."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(getattr(stat, "st_blocks", 0) * 512 or stat.st_size for stat in found)


def measure(folder: Path, cache: Path, workers: int) -> dict[str, float]:
    started = time.perf_counter()
    listing = read_competition(folder).training
    listing_s = time.perf_counter() - started
    before = psutil.Process().memory_info()
    with PeakMemory() as memory:
        started, cpu_started = time.perf_counter(), time.process_time()
        packed, unreadable = pack(listing, cache, workers=workers)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    assert len(packed) == len(listing)
    assert not unreadable
    step = max(1, len(packed) // 1000)
    for row in range(0, len(packed), step):
        content = (listing.pixels.folder / listing.pixels.names[row]).read_bytes()
        assert packed.pixels[row].tobytes() == content[-PATCH_BYTES:], "the cache holds other pixels"
    return {
        "files": len(packed),
        "file_bytes": len(packed) * TIFF_BYTES,
        "listing_s": listing_s,
        "seconds": seconds,
        "cpu_s": cpu_s,
        "patches_per_s": len(packed) / seconds,
        "mb_per_s": len(packed) * TIFF_BYTES / seconds / 1e6,
        "resident_before_mb": before.rss / 1e6,
        "peak_resident_mb": memory.resident_bytes / 1e6,
        "peak_anonymous_mb": memory.anonymous_bytes / 1e6,
        "cache_disk_mb": disk_bytes(cache) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scratch", type=Path, required=True, help="where there is room; what is laid there goes again"
    )
    parser.add_argument("--patches", type=int, default=COMPETITION_PATCHES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--cold", action="store_true", help="read from the disk: drop the files from memory first (Linux)"
    )
    options = parser.parse_args()

    wanted, free = options.patches * (TIFF_BYTES + 4096 + PATCH_BYTES), shutil.disk_usage(options.scratch).free
    if free < wanted:
        sys.exit(f"{options.scratch}: {wanted / 1e9:.1f} GB wanted, {free / 1e9:.1f} GB free. Give another --scratch.")
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name) / "competition"
        lay_out(folder, options.patches)
        os.sync()  # what was laid out is not to be written while the packing is timed
        if options.cold:
            forget_pixels(folder)
        result = measure(folder, Path(name) / "cache", options.workers)
    facts = {"workers": options.workers, "cold": options.cold, "cpus": os.cpu_count(), "system": platform.platform()}
    print(json.dumps({**facts, **result}, indent=2))
    print("\n| what | measured |\n| --- | --- |")
    for key, value in result.items():
        print(f"| {key} | {value:,.0f} |" if value >= 100 else f"| {key} | {value:.2f} |")


if __name__ == "__main__":
    main()
