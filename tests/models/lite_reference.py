"""What efficientnet_lite_pytorch itself says of scikit-learn's sample images; test_zoo.py holds our mapping to it.

Run by hand (the tests do not need that package), and copy what it prints:

    pip install efficientnet-lite-pytorch==0.1.0 && PYTHONPATH=tests python tests/models/lite_reference.py
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

from sentinode.models.backbones.lite_weights import weights_file


def sample_image(name: str) -> Tensor:
    """The middle of a sample image as (1, 3, 208, 208) in [0, 1], shrunk by means of 2 x 2 pixels."""
    pixels = load_sample_image(name).astype(np.float64)
    top, left = (pixels.shape[0] - 416) // 2, (pixels.shape[1] - 416) // 2
    small = pixels[top : top + 416, left : left + 416].reshape(208, 2, 208, 2, 3).mean(axis=(1, 3))
    return torch.from_numpy(small / 255).float().permute(2, 0, 1)[None]


def main() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    for number in range(3):
        # Its convolutions pad for the size that they are told beforehand.
        network = EfficientNet.from_name(f"efficientnet-lite{number}", image_size=208)
        weights = weights_file(f"tf_efficientnet_lite{number}")
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        network.eval()
        for name in ("flower.jpg", "china.jpg"):
            with torch.no_grad():
                logits = network((sample_image(name) * 255 - 127) / 128)[0]
            top = logits.topk(5)
            values = [round(value, 5) for value in top.values.tolist()]
            print(number, name, top.indices.tolist(), values, round(logits.norm().item(), 4))


if __name__ == "__main__":
    main()
