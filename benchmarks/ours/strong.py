"""`sentinode predict` of a strong model, loaded before: from TIFFs to a table, in the fastest runtime or on PyTorch."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import sentinode
from blocks import arguments, serve
from sentinode import Session


class EnoughError(Exception):
    """Enough was predicted: the runtimes were tried on the first patches."""


def stop(_done: int, _total: int) -> None:
    raise EnoughError


def main() -> None:
    args = arguments()
    with TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        cpu, runtime = torch.device("cpu"), "pytorch" if args.plain else "fastest"
        session = Session(cache, cpu, args.threads, threads=args.threads, notify=print, runtime=runtime)
        model = sentinode.load(args.data / "run", session=session)
        if not args.plain:
            with suppress(EnoughError):  # as if a day's work were to come
                model(np.random.default_rng(0).integers(0, 256, (8192, 96, 96, 3), np.uint8), on_progress=stop)
        out = args.data / ("plain.csv" if args.plain else "sentinode.csv")
        packed = Session(cache / "packed", cpu, args.threads)
        serve(
            args.wire,
            lambda: len(sentinode.predict(model, args.data / "files", out, packed)),
            before=lambda: shutil.rmtree(cache / "packed", ignore_errors=True),
        )


if __name__ == "__main__":
    main()
