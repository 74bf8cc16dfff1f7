"""`sentinode.load`: from patches in memory to probabilities, as often as fills 100,000 patches."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import sentinode
from blocks import arguments, serve
from sentinode.data.competition import read_competition
from sentinode.data.folder import pack_all
from sentinode.session import Session

PATCHES = 100_000


def main() -> None:
    args = arguments()
    classifier = sentinode.load(args.data / f"run-{args.views}", device="cpu")
    with TemporaryDirectory() as scratch:
        packed = pack_all(
            read_competition(args.data / "competition").training, Session(Path(scratch), workers=args.threads)
        )
        pixels = np.array(packed.pixels)
    times = -(-PATCHES // len(pixels))
    serve(args.wire, lambda: len(classifier(pixels for _ in range(times))))


if __name__ == "__main__":
    main()
