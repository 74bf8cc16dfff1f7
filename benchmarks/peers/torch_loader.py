"""PyTorch's usual way: a Dataset of class folders, torchvision's transforms, a DataLoader with workers."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader
from torch_network import notebook_network, train_step
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from blocks import arguments, serve


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    transform = v2.Compose(
        [
            v2.Resize((32, 32), v2.InterpolationMode.NEAREST),
            v2.RandomAffine(0, scale=(0.8, 1.2), interpolation=v2.InterpolationMode.BILINEAR),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(args.data / "classes"), transform),
        args.batch_size,
        shuffle=True,
        num_workers=args.threads,
        persistent_workers=True,
    )
    network = notebook_network().train()
    optimizer = torch.optim.Adam(network.parameters())

    def epoch() -> int:
        seen = 0
        for images, labels in loader:
            train_step(network, optimizer, images, labels)
            seen += len(labels)
        return seen

    serve(args.wire, epoch)


if __name__ == "__main__":
    main()
