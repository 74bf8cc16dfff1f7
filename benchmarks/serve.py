"""How fast `sentinode serve` answers on the loopback: a patch, fifty clients, a patch beside a job, tiles of a slide.

    python benchmarks/serve.py RUN [--threads 2] [--json serve.json]

The service runs as a process of its own, its clients in this one, on the same processors. A patch is a TIFF of the
phantom, sent as the page sends it. Rates alternate with the library's own on the same patches. A slide has 100,000
pixels a side, 0.243 um each, in deflated tiles: a painted section, repeated, in 7 % of it, and glass. There are two
kinds, with levels of half the size, as the phantom's slides have them, and of a quarter, as scanners write them. A step
of zoom is all tiles of a view of 1,280 x 800 pixels, over six connections as a browser's, at a place of tissue.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

import sentinode

SIDE_PX: Final = 100_000
LEVELS: Final = {"the phantom's": tuple(2**k for k in range(9)), "a scanner's": (1, 4, 16, 64)}
"""Downsamples of the levels of a slide of each kind."""
TILE_PX: Final = 256
PERIOD_PX: Final = 1280  # of the painted section, at 0.972 um
SPACING_UM: Final = 0.243
GLASS: Final = 243
TISSUE_PX: Final = (30_720, 56_320)  # from and to, along both axes: five periods
VIEW_PX: Final = (1280, 800)
CONNECTIONS: Final = 6
GOALS: Final = {"one patch, p50": 20.0} | {
    name: goal
    for kind in LEVELS
    for name, goal in ((f"first tile of {kind} slide, most", 300.0), (f"zoom step on {kind} slide, p95", 150.0))
}
"""In ms."""


def main() -> None:
    sentinode.wait_passively()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    import torch  # here and below: what waits how is decided before it is loaded

    from sentinode.artefacts import write_json
    from sentinode.data.images import encode_tiff
    from sentinode.device import use_threads
    from sentinode.phantom.tissue import paint_section
    from sentinode.runs.environment import describe_environment

    use_threads(args.threads)
    rng = np.random.default_rng(0)
    section = paint_section(rng, side_px=PERIOD_PX, tumour_share=0.2).rgb
    corners = rng.integers(0, PERIOD_PX - 96, (512, 2))
    patches = np.stack([section[y : y + 96, x : x + 96] for y, x in corners])
    bodies = [in_a_form(encode_tiff(patch)) for patch in patches[:64]]
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        slides = Path(place) / "slides"
        slides.mkdir()
        for kind, levels in LEVELS.items():
            write_slide(slides / f"{name_of(kind)}-0.tif", section, levels)
            for number in (1, 2, 3):
                os.link(slides / f"{name_of(kind)}-0.tif", slides / f"{name_of(kind)}-{number}.tif")
        with service(args.run, slides, Path(place) / "heatmaps", args.threads) as port:
            measured |= percentiles("one patch", one_after_the_other(port, bodies, 400))
            measured |= fifty_clients(port, bodies)
            measured |= rates(args.run, port, patches)
            for kind in LEVELS:
                measured |= of_a_slide(port, kind, rng)
            measured |= beside_a_job(port, bodies)
    print(f"{args.run.name}, {args.threads} threads; ms, but for rates")
    for name, value in measured.items():
        goal = GOALS.get(name)
        told = "" if goal is None else f"  goal {goal:.0f}: {'reached' if value < goal else 'missed'}"
        print(f"{name:44} {value:8.1f}{told}")
    if args.json:
        write_json(
            args.json,
            {"environment": describe_environment(torch.device("cpu")), "threads": args.threads, "measured": measured},
        )


def in_a_form(file: bytes) -> tuple[bytes, str]:
    """A body of one file, and its Content-Type."""
    head = b'--cut\r\nContent-Disposition: form-data; name="files"; filename="patch.tif"\r\n\r\n'
    return head + file + b"\r\n--cut--\r\n", "multipart/form-data; boundary=cut"


def name_of(kind: str) -> str:
    return kind.split()[-1].removesuffix("'s")


def write_slide(path: Path, section: np.ndarray, levels: tuple[int, ...]) -> None:
    """The slide, tile by tile; tiles that are alike are encoded once."""
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for downsample in levels:
            side, per_cm = -(-SIDE_PX // downsample), 1e4 / (SPACING_UM * downsample)
            writer.write(
                tiles_of_level(section, downsample),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="zlib",
                subfiletype=1 if downsample > 1 else 0,
                metadata=None,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
            )


def tiles_of_level(section: np.ndarray, downsample: int) -> Iterator[bytes]:
    """Row by row, deflated."""
    from PIL import Image

    period = 4 * PERIOD_PX // downsample
    painted = np.asarray(Image.fromarray(section).resize((period, period), Image.Resampling.BOX))
    first, last = (edge // downsample for edge in TISSUE_PX)
    shown = []  # the rows, or columns, of the section that each row of tiles shows; -1 for glass
    for start in range(0, -(-SIDE_PX // downsample), TILE_PX):
        at = np.arange(start, start + TILE_PX)
        shown.append(np.where((at >= first) & (at < last), at % period, -1))
    keys = [at.tobytes() if (at >= 0).any() else b"" for at in shown]
    known: dict[tuple[bytes, bytes], bytes] = {}
    for row, of_row in zip(shown, keys, strict=True):
        for column, of_column in zip(shown, keys, strict=True):
            key = (of_row, of_column) if of_row and of_column else (b"", b"")
            if key not in known:
                tile = painted[row][:, column]
                tile[(row < 0)[:, None] | (column < 0)] = GLASS
                known[key] = zlib.compress(tile.tobytes(), 6)
            yield known[key]


@contextmanager
def service(run: Path, slides: Path, heat_maps: Path, threads: int) -> Iterator[int]:
    """The port of the service, once it is ready and its card is read."""
    command = [
        sys.executable,
        "-m",
        "sentinode",
        "serve",
        run,
        "--port",
        0,
        "--slides",
        slides,
        "--heatmaps",
        heat_maps,
    ]
    process = subprocess.Popen([*map(str, command), "--threads", str(threads)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("http://127.0.0.1:")[1].split()[0])
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                asked(http.client.HTTPConnection("127.0.0.1", port), "GET", "/v1/model")
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def asked(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", kind: str = "") -> bytes:
    connection.request(method, path, body or None, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status < 300, content
    return content


def timed(work: Callable[[], object]) -> float:
    """In ms."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def percentiles(name: str, ms: list[float]) -> dict[str, float]:
    return {f"{name}, p{share}": float(np.percentile(ms, share)) for share in (50, 95)}


def one_after_the_other(port: int, bodies: list[tuple[bytes, str]], count: int) -> list[float]:
    """Of one client, which keeps its connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    ask = [lambda body=body, kind=kind: asked(connection, "POST", "/v1/predict", body, kind) for body, kind in bodies]
    for number in range(20):
        ask[number % len(ask)]()
    return [timed(ask[number % len(ask)]) for number in range(count)]


def fifty_clients(port: int, bodies: list[tuple[bytes, str]]) -> dict[str, float]:
    """Fifty clients, of which each asks twenty times as soon as it has its answer."""
    ready = threading.Barrier(50)

    def client(_: int) -> list[float]:
        ready.wait()
        return one_after_the_other(port, bodies, 20)

    with ThreadPoolExecutor(50) as clients:
        began = time.perf_counter()
        ms = [each for found in clients.map(client, range(50)) for each in found]
        seconds = time.perf_counter() - began
    answered = 50 * 40  # with those that warm up
    return percentiles("one patch of fifty clients", ms) | {"patches per second of fifty clients": answered / seconds}


def rates(run: Path, port: int, patches: np.ndarray) -> dict[str, float]:
    """Patches per second through the service, two clients with 256 at once, and by the library; medians of rounds."""
    classifier = sentinode.load(run, device="cpu")
    file = io.BytesIO()
    np.save(file, patches[:256])
    body, many = file.getvalue(), np.concatenate([patches] * 8)

    def client(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(8):
            asked(connection, "POST", "/v1/predict", body, "application/x-npy")

    found: dict[str, list[float]] = {"service": [], "library": []}
    for _ in range(4):
        found["library"].append(len(many) / timed(lambda: classifier(many)) * 1000)
        with ThreadPoolExecutor(2) as clients:
            found["service"].append(2 * 8 * 256 / timed(lambda pool=clients: list(pool.map(client, range(2)))) * 1000)
    shares = [ours / theirs for ours, theirs in zip(found["service"][1:], found["library"][1:], strict=True)]
    return {
        "patches per second, service": float(np.median(found["service"][1:])),  # the first warms up
        "patches per second, library": float(np.median(found["library"][1:])),
        "service's share of the library's rate": float(np.median(shares)),
    }


def of_a_slide(port: int, kind: str, rng: np.random.Generator) -> dict[str, float]:
    """The first tiles of slides that nobody asked for before, and steps of zoom into one of them."""
    connection, slide = http.client.HTTPConnection("127.0.0.1", port), name_of(kind)
    last = int(np.ceil(np.log2(SIDE_PX)))
    first = [
        timed(lambda number=number: asked(connection, "GET", f"/v1/slides/{slide}-{number}/image_files/8/0_0.jpeg"))
        for number in range(4)
    ]
    ways = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    free, singles, steps = threading.local(), list[float](), list[float]()

    def begin() -> None:
        free.way = ways.pop()

    def tile(path: str) -> float:
        return timed(lambda: asked(free.way, "GET", path))

    with ThreadPoolExecutor(CONNECTIONS, initializer=begin) as browser:
        for _ in range(8):
            x, y = rng.uniform(*TISSUE_PX, 2)
            for level in range(9, last + 1):
                scale = 2 ** (last - level)
                left, top = (int(at / scale - side / 2) for at, side in zip((x, y), VIEW_PX, strict=True))
                most = (SIDE_PX // scale) // TILE_PX
                columns = range(max(left // TILE_PX, 0), min((left + VIEW_PX[0]) // TILE_PX, most) + 1)
                rows = range(max(top // TILE_PX, 0), min((top + VIEW_PX[1]) // TILE_PX, most) + 1)
                paths = [f"/v1/slides/{slide}-3/image_files/{level}/{c}_{r}.jpeg" for r in rows for c in columns]
                began = time.perf_counter()
                singles += browser.map(tile, paths)
                steps.append((time.perf_counter() - began) * 1000)
    return (
        {f"first tile of {kind} slide, most": max(first)}
        | percentiles(f"zoom step on {kind} slide", steps)
        | percentiles(f"one tile of it, {kind} slide", singles)
    )


def beside_a_job(port: int, bodies: list[tuple[bytes, str]]) -> dict[str, float]:
    """One patch again, while a slide is judged."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    number = json.loads(asked(connection, "POST", "/v1/slides/phantom-0/heatmap"))["id"]
    job: dict[str, Any] = {"done": 0}
    while not job["done"]:
        time.sleep(0.2)
        job = json.loads(asked(connection, "GET", f"/v1/jobs/{number}"))
        assert job["state"] != "failed", job
    began, before = time.perf_counter(), job["done"]
    found = percentiles("one patch beside a job", one_after_the_other(port, bodies, 300))
    connection = http.client.HTTPConnection("127.0.0.1", port)  # the other was idle for too long
    job = json.loads(asked(connection, "GET", f"/v1/jobs/{number}"))
    return found | {"cells per second of that job": (job["done"] - before) / (time.perf_counter() - began)}


if __name__ == "__main__":
    main()
