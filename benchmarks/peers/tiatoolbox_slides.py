"""TIAToolbox's way with a slide: its `PatchPredictor`, with the network of a run, a patch every 32 pixels at 0.972 um.

    VENV/bin/python benchmarks/peers/tiatoolbox_slides.py RUN SLIDE [--threads 2] [--batch-size 64]

RUN is one of the notebook's networks, batch norm before the activation, of which one view is taken; SLIDE what
`benchmarks/slides.py --keep SLIDE` left. TIAToolbox wants an older PyTorch than sentinode is measured with, so VENV is
one of its own: `pip install tiatoolbox==2.1.3 safetensors`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import zarr
from safetensors.torch import load_file
from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
from tiatoolbox.models.engine.patch_predictor import PatchPredictor
from tiatoolbox.models.models_abc import ModelABC
from torch_network import notebook_network

PATCH_PX, STRIDE_PX, MPP = 96, 32, 0.972


class Network(ModelABC):
    """The notebook's network as TIAToolbox has its own: (n, 96, 96, 3) of bytes to probabilities (n, 2)."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = notebook_network()
        self.network.load_state_dict(load_file(weights), strict=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2).float(), 3).round() / 255
        positive = torch.sigmoid(self.network(pixels))
        return torch.cat([1 - positive, positive], dim=1)

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> np.ndarray:
        with torch.inference_mode():
            return model(batch_data.to(device)).cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = Network(asked.run / "model.safetensors").eval()
    engine = PatchPredictor(model=model, batch_size=asked.batch_size, num_workers=0, device="cpu", verbose=False)
    config = IOPatchPredictorConfig(
        input_resolutions=[{"units": "mpp", "resolution": MPP}],
        patch_input_shape=[PATCH_PX, PATCH_PX],
        stride_shape=[STRIDE_PX, STRIDE_PX],
    )
    with tempfile.TemporaryDirectory() as folder:
        began, cpu_began = time.perf_counter(), time.process_time()
        out = engine.run(
            images=[asked.slide],
            patch_mode=False,
            ioconfig=config,
            auto_get_mask=True,
            return_probabilities=True,
            save_dir=Path(folder) / "out",
            output_type="zarr",
        )
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        (written,) = out.values()
        patches = zarr.open(str(written), mode="r")["probabilities"].shape[0]
    rates = f"{patches / seconds:,.0f} per second, {patches / cpu_s:,.0f} per processor second"
    print(f"TIAToolbox: {patches:,} patches in {seconds:.1f} s, {rates}")


if __name__ == "__main__":
    main()
