"""How long a slide takes: all of `sentinode slides`, and WSInfer's way with the same network on some of its patches.

    python benchmarks/slides.py RUN [--side 5120] [--threads 2] [--keep SLIDE]

The slide is painted here: a phantom's section, repeated to a square of `--side` pixels at 0.972 um (10288: a node
slide), at 0.243 um/px with levels of half the size. WSInfer's way, as its documentation describes it: patches side by
side, each read from level 0 through OpenSlide at the size of its magnification, resized by Pillow, in batches of 32.
Both use the same run and threads. TIAToolbox's way is in `peers/tiatoolbox_slides.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import sentinode

PERIOD_PX = 1280  # of the section, at 0.972 um
LEVELS, TILE_PX = 4, 256
PATCH_PX = 384  # of level 0: 96 pixels at four times the spacing
COMPARED = 320  # patches that are judged in WSInfer's way


def main() -> None:
    sentinode.wait_passively()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--side", type=int, default=5120, help="pixels at 0.972 um")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="SLIDE", help="where the slide stays, for other programs")
    asked = parser.parse_args()
    from sentinode import Session  # here and below: what waits how is decided before PyTorch is loaded
    from sentinode.phantom.tissue import paint_section

    session = Session(threads=asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = asked.keep or Path(folder) / "slide.tif"
        write_slide(path, paint_section(np.random.default_rng(0), side_px=PERIOD_PX, tumour_share=0.2).rgb, asked.side)
        began, cpu_began = time.perf_counter(), time.process_time()
        record = sentinode.judge_slides(asked.run, [path], Path(folder) / "out", session)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        row = record.rows[0]
        cells = round(row.tissue_mm2 * row.judged_share / 0.031104**2)
        rates = f"{cells / seconds:,.0f} per second, {cells / cpu_s:,.0f} per processor second"
        print(f"sentinode: {cells:,} cells in {seconds:.1f} s, {rates}, all files written")
        rate, by_cpu = in_wsinfers_way(asked.run, path)
        print(f"WSInfer's way: {rate:,.0f} patches per second, {by_cpu:,.0f} per processor second")
        print(f"ratios: {cells / seconds / rate:.1f}, of processor time {cells / cpu_s / by_cpu:.1f}")


def write_slide(path: Path, section: np.ndarray, side: int) -> None:
    """The section, side by side, as a pyramid of four levels from 0.243 um/px on; no level is ever held whole."""
    import tifffile
    from PIL import Image

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level in range(LEVELS):
            # Of the finest levels each pixel is repeated, for there is nothing finer to show.
            at = Image.fromarray(section).resize((PERIOD_PX * 4 >> level,) * 2, Image.Resampling.NEAREST)
            image, length = np.asarray(at), side * 4 >> level
            starts = range(0, length, TILE_PX)
            lines = [(start + np.arange(TILE_PX)) % len(image) for start in starts]
            per_cm = 1e4 / (0.243 * 2**level)
            writer.write(
                (np.ascontiguousarray(image[rows][:, columns]) for rows in lines for columns in lines),
                shape=(length, length, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="zlib",
                predictor=True,
                subfiletype=1 if level else 0,
                metadata=None,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
            )


def in_wsinfers_way(run: Path, path: Path) -> tuple[float, float]:
    """Patches per second and per processor second, from level 0, one after the other."""
    import openslide

    classifier = sentinode.load(run, device="cpu")
    classifier(np.zeros((32, 96, 96, 3), np.uint8))
    with openslide.OpenSlide(path) as slide:
        across = slide.dimensions[0] // PATCH_PX
        began, cpu_began = time.perf_counter(), time.process_time()
        for start in range(0, COMPARED, 32):
            batch = []
            for number in range(start, start + 32):
                y, x = divmod(number, across)
                image = slide.read_region((x * PATCH_PX, y * PATCH_PX), 0, (PATCH_PX, PATCH_PX)).convert("RGB")
                batch.append(np.asarray(image.resize((96, 96))))
            classifier(np.stack(batch))
        return COMPARED / (time.perf_counter() - began), COMPARED / (time.process_time() - cpu_began)


if __name__ == "__main__":
    main()
