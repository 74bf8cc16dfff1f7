"""PyTorch at its plainest: all patches as floats in memory, and no augmentation."""

from __future__ import annotations

import torch
from images import read_small
from torch_network import notebook_network, train_step

from blocks import arguments, serve


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    pixels, truth = read_small(args.data / "classes")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    labels = torch.from_numpy(truth)
    network = notebook_network().train()
    optimizer = torch.optim.Adam(network.parameters())

    def epoch() -> int:
        for rows in torch.randperm(len(images)).split(args.batch_size):
            train_step(network, optimizer, images[rows], labels[rows])
        return len(images)

    serve(args.wire, epoch)


if __name__ == "__main__":
    main()
