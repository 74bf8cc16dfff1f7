"""Plain eager PyTorch with Pillow: from a folder of TIFFs to a table, with 1 view of each patch or all 8."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import numpy as np
import torch
from images import downsample
from safetensors.torch import load_file
from torch_network import notebook_network

from blocks import arguments, serve


def views(images: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """A batch itself, or its 8 symmetries."""
    mirrored = [images] if count == 1 else [images, images.flip(3)]
    return (torch.rot90(batch, turn, (2, 3)) for batch in mirrored for turn in range(count // len(mirrored)))


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    files = sorted((args.data / "competition" / "train").iterdir())
    network = notebook_network()
    network.load_state_dict(load_file(args.data / f"run-{args.views}" / "model.safetensors"), strict=False)
    network.eval()

    @torch.no_grad()
    def predict() -> int:
        with (args.data / f"peer-{args.views}.csv").open("w", newline="") as out:
            table = csv.writer(out)
            table.writerow(("id", "label"))
            for start in range(0, len(files), args.batch_size):
                batch = files[start : start + args.batch_size]
                pixels = torch.from_numpy(np.stack([downsample(path) for path in batch]))
                images = pixels.permute(0, 3, 1, 2).float() / 255
                seen = [torch.sigmoid(network(view).squeeze(1)) for view in views(images, args.views)]
                probabilities = torch.stack(seen).mean(0).tolist()
                table.writerows((path.stem, value) for path, value in zip(batch, probabilities, strict=True))
        return len(files)

    serve(args.wire, predict)


if __name__ == "__main__":
    main()
