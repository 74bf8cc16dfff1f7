"""How long a slide takes: all of `sentinode slides`, and WSInfer's way with the same network on some of its patches.

    python benchmarks/slides.py RUN [--side 5120] [--threads 2] [--keep SLIDE] [--dense] [--runtime pytorch]

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
from typing import TYPE_CHECKING

import numpy as np

import sentinode

if TYPE_CHECKING:
    from sentinode import Session

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
    parser.add_argument("--keep", type=Path, metavar="SLIDE", help="where the slide is, or stays, for other programs")
    parser.add_argument("--dense", action="store_true", help="judge it once more, dense")
    parser.add_argument("--runtime", default="fastest", help="or pytorch")
    asked = parser.parse_args()
    from sentinode import Session  # here and below: what waits how is decided before PyTorch is loaded
    from sentinode.phantom.tissue import paint_section

    session = Session(threads=asked.threads, runtime=asked.runtime)
    with tempfile.TemporaryDirectory() as folder:
        path = asked.keep or Path(folder) / "slide.tif"
        if not path.exists():
            section = paint_section(np.random.default_rng(0), side_px=PERIOD_PX, tumour_share=0.2).rgb
            write_slide(path, section, asked.side)
        first, *others = [
            judged(asked.run, path, Path(folder) / str(number), session, dense=dense)
            for number, dense in enumerate([False, True] if asked.dense else [False])
        ]
        for of_dense in others:
            print(f"dense beside tiled: {_ratios(of_dense, first)}")
        in_its_way = in_wsinfers_way(asked.run, path)
        print("WSInfer's way: {:,.0f} patches per second, {:,.0f} per processor second".format(*in_its_way))
        print(f"ratios: {_ratios(first, in_its_way)}")


def _ratios(rates: tuple[float, float], others: tuple[float, float]) -> str:
    return f"{rates[0] / others[0]:.1f}, of processor time {rates[1] / others[1]:.1f}"


def judged(run: Path, path: Path, out: Path, session: Session, *, dense: bool) -> tuple[float, float]:
    """Cells per second and per processor second, all files written."""
    began, cpu_began = time.perf_counter(), time.process_time()
    (row,) = sentinode.judge_slides(run, [path], out, session, dense=dense).rows
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    assert row.state == "done", row.reason
    cells = round(row.tissue_mm2 * row.judged_share / 0.031104**2)
    rates = f"{cells / seconds:,.0f} per second, {cells / cpu_s:,.0f} per processor second"
    how = "dense" if dense else "sentinode"
    print(f"{how}: {cells:,} cells in {seconds:.1f} s ({cpu_s:.1f} of processors), {rates}")
    return cells / seconds, cells / cpu_s


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
