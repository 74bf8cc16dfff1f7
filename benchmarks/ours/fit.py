"""sentinode's own training, as a user has it: `train_run` on a folder whose patches were packed before.

A block is epochs until a second is full. Their rate is the one that the run itself notes: batches, augmentation, steps
and what the training side's scores need, without validation, as the peers have none.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from blocks import READY, SHORTEST_BLOCK_S, arguments
from sentinode.config.run import RunConfig
from sentinode.runs.material import gather
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override, read_toml

_MORE_THAN_WANTED = 10_000


class EnoughError(Exception):
    """No further epoch is wanted."""


def main() -> None:
    args = arguments()
    config = override(
        read_toml(args.data / "run.toml", RunConfig),
        {"fit.batch_size": args.batch_size, "fit.epochs": _MORE_THAN_WANTED},
    )
    cpu = torch.device("cpu")
    session = Session(args.data / "cache", cpu, args.threads)
    material = gather(args.data / "competition", config, session).material

    patches, seconds = 0, 0.0

    def on_epoch(row: dict[str, Any]) -> None:
        nonlocal patches, seconds
        warm = row["epoch"] > 1
        if warm:
            patches += row["training_patches"]
            seconds += row["training_patches"] / row["patches_per_s"]
            if seconds < SHORTEST_BLOCK_S:
                return
        args.wire.say(patches / seconds if warm else READY)
        patches, seconds = 0, 0.0
        if not args.wire.wait():
            raise EnoughError

    with TemporaryDirectory() as scratch, suppress(EnoughError):
        train_run(material, config, Path(scratch) / "run", on_epoch=on_epoch)


if __name__ == "__main__":
    main()
