"""timm's dataset, loader and loop as its inference script puts them together, one network and one view at a time.

The script itself is no part of the installed package, and its networks have an output for each class. It knows no
views: all of them are so many passes over the files, of which one over each network is timed.
"""

from __future__ import annotations

import torch
from timm.data import create_dataset, create_loader
from timm.data.readers import add_img_extensions
from torch_strong import Network

from blocks import arguments, serve


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    add_img_extensions(".tif")
    networks = [Network(folder) for folder in sorted((args.data / "networks").iterdir())]
    loader = create_loader(  # its workers start once
        create_dataset("", root=str(args.data / "files")),
        batch_size=args.batch_size,
        use_prefetcher=False,
        num_workers=args.threads,
        device=torch.device("cpu"),
        input_size=(3, 96, 96),
        interpolation="bilinear",
        crop_pct=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )

    @torch.inference_mode()
    def one_view() -> float:
        """Of every network; how many patches that is the work of."""
        patches = 0
        for network in networks:
            patches = sum(len(network(images).numpy()) for images, _ in loader)
        return patches / args.views

    serve(args.wire, one_view)


if __name__ == "__main__":
    main()
