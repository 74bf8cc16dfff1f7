"""`sentinode predict` without the start of its process: from TIFFs, packed before with `--packed`, to a table."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from blocks import arguments, serve
from sentinode import predict
from sentinode.session import Session


def main() -> None:
    args = arguments()
    with TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        session = Session(cache, torch.device("cpu"), args.threads)
        model, images = args.data / f"run-{args.views}", args.data / "competition" / "train"
        out = args.data / f"sentinode-{args.views}.csv"
        serve(
            args.wire,
            lambda: len(predict(model, images, out, session)),
            before=lambda: None if args.packed else shutil.rmtree(cache, ignore_errors=True),
        )


if __name__ == "__main__":
    main()
