"""timm's dataset, loader, transforms, optimizer and loop as its train script puts them together.

The script itself is no part of the installed package, and its networks have an output for each class.
"""

from __future__ import annotations

import torch
from timm.data import create_dataset, create_loader
from timm.data.readers import add_img_extensions
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter
from torch import nn
from torch_network import notebook_network

from blocks import arguments, serve


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    device = torch.device("cpu")
    add_img_extensions(".tif")
    loader = create_loader(
        create_dataset("", root=str(args.data / "classes"), is_training=True, batch_size=args.batch_size),
        input_size=(3, 32, 32),
        batch_size=args.batch_size,
        is_training=True,
        scale=(0.64, 1.0),
        ratio=(0.8, 1.25),
        hflip=0.0,
        color_jitter=None,
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        num_workers=args.threads,
        device=device,
    )
    network = notebook_network().train()
    optimizer = create_optimizer_v2(network, opt="adam", lr=1e-3)
    loss_of = nn.BCEWithLogitsLoss()

    def epoch() -> int:
        losses = AverageMeter()
        for images, labels in loader:
            loss = loss_of(network(images).squeeze(1), labels.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(labels))
        return int(losses.count)

    serve(args.wire, epoch)


if __name__ == "__main__":
    main()
