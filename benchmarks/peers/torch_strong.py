"""Plain eager PyTorch, timm and Pillow: an ensemble of timm's networks from a folder of TIFFs to a table, all views."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import timm
import torch
from images import decode
from safetensors.torch import load_file
from torch.nn.functional import interpolate
from torch_predict import views

from blocks import arguments, serve


class Network(torch.nn.Module):
    """One of timm's networks, whose head sees the mean and deviation of each stage's maps."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        told = json.loads((folder / "blend.json").read_text())
        seen = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
        self.body = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self.head = load_file(folder / "head.safetensors")
        self.weight, self.maps, self.side = told["weight"], told["maps"], seen["input_size"][-1]
        self.mean, self.std = (torch.tensor(seen[name]).view(3, 1, 1) for name in ("mean", "std"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (interpolate(x, size=(self.side, self.side), mode="bilinear") - self.mean) / self.std
        maps = [m.flatten(2) for m in self.body.forward_intermediates(x, self.maps, intermediates_only=True)]
        f = torch.cat([s for m in maps for s in (m.mean(2), (m.var(2, correction=0) + 1e-6).sqrt())], 1)
        head = self.head
        return ((f - head["centre"]) / head["scale"] @ head["weight"].T + head["bias"]).squeeze(1)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    files = sorted((args.data / "files").iterdir())
    networks = [Network(folder) for folder in sorted((args.data / "networks").iterdir())]

    @torch.inference_mode()
    def predict() -> int:
        with (args.data / "peer.csv").open("w", newline="") as out:
            table = csv.writer(out)
            table.writerow(("id", "label"))
            for start in range(0, len(files), args.batch_size):
                batch = files[start : start + args.batch_size]
                images = torch.from_numpy(np.stack([decode(path) for path in batch])).permute(0, 3, 1, 2).float() / 255
                logits = torch.zeros(len(batch), dtype=torch.float64)
                for network in networks:
                    seen = [torch.sigmoid(network(view).double()) for view in views(images, args.views)]
                    logits += network.weight * torch.logit(torch.stack(seen).mean(0))
                rows = zip(batch, torch.sigmoid(logits).tolist(), strict=True)
                table.writerows((path.stem, value) for path, value in rows)
        return len(files)

    serve(args.wire, predict)


if __name__ == "__main__":
    main()
