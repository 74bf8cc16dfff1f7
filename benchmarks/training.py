"""Train the notebook's network from prepared patches, against a plain PyTorch loop.

    python benchmarks/training.py [--patches 6400] [--batch-size 64] [--repeats 5] [--preset fair]

Both sides have the same random patches in memory, the same network, batch size and threads. The peer is what a
newcomer writes: float tensors in row-by-row memory, torch.optim.Adam, nn.BatchNorm2d, no augmentation.
sentinode's side includes its seeded batches and the preset's augmentation.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sentinode.config import RunConfig, load_preset
from sentinode.data.batches import BatchStream
from sentinode.data.patches import PatchSet
from sentinode.data.preprocess import prepare
from sentinode.fitting.epochs import FitState, train_step
from sentinode.models.build import build
from sentinode.settings import override


def make_stream(count: int, config: RunConfig) -> BatchStream:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
    labels = rng.integers(0, 2, count).astype(np.int8)
    none = np.full(count, "", dtype=str)
    patches = PatchSet(np.arange(count).astype(str), labels, none, none, pixels)
    prepared = prepare(patches, np.arange(count), config.preprocess, budget_mb=4000)
    return BatchStream(prepared, labels, batch_size=config.fit.batch_size, seed=1, shuffle=True)


def sentinode_epoch(stream: BatchStream, config: RunConfig, state: FitState) -> None:
    state.network.train()
    for number in range(stream.batches_per_pass):
        batch = stream.batch(number)
        train_step(state, batch.images, batch.labels, config.augment, stream.augmentation_generator(number))


def plain_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3),
        nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3),
        nn.Flatten(), nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 1),
    )  # fmt: skip


def plain_epoch(
    images: torch.Tensor, labels: torch.Tensor, batch_size: int, network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    for rows in torch.randperm(len(images)).split(batch_size):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(network(images[rows]).squeeze(1), labels[rows])
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=6400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--preset", default="fair")
    args = parser.parse_args()
    config = override(load_preset(args.preset).run_config(), {"fit.batch_size": args.batch_size})
    stream = make_stream(args.patches, config)
    network = build(config.model, input_size_px=32, generator=torch.Generator().manual_seed(0))
    state = FitState.start(network, config.fit)
    images = torch.from_numpy(stream.prepared[slice(0, None)]).permute(0, 3, 1, 2).contiguous().float() / 255
    plain = plain_network()
    optimizer = torch.optim.Adam(plain.parameters())
    rates: dict[str, list[float]] = {"sentinode": [], "plain PyTorch": []}
    for repeat in range(args.repeats + 1):
        for name in rates:
            started = time.perf_counter()
            if name == "sentinode":
                sentinode_epoch(stream, config, state)
            else:
                plain_epoch(images, stream.labels, args.batch_size, plain, optimizer)
            if repeat:  # the first epoch warms up
                rates[name].append(args.patches / (time.perf_counter() - started))
    print(f"{args.patches:,} patches, batch {args.batch_size}, preset {args.preset}, {torch.get_num_threads()} threads")
    for name, values in rates.items():
        print(
            f"{name:14} median {statistics.median(values):7,.0f}   {min(values):7,.0f} to {max(values):7,.0f} a second"
        )
    pairs = [ours / theirs for ours, theirs in zip(rates["sentinode"], rates["plain PyTorch"], strict=True)]
    print(f"ratio          median {statistics.median(pairs):7.2f}   {min(pairs):7.2f} to {max(pairs):7.2f}")


if __name__ == "__main__":
    main()
