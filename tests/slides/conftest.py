"""Small slides of painted tissue, and a real classifier with weights that a seed decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile
import torch

from sentinode import Classifier
from sentinode.config.presets import load_preset
from sentinode.inference import runtimes as ways
from sentinode.inference import trained
from sentinode.inference.classifier import TrainedRun
from sentinode.inference.network import RuntimeName
from sentinode.inference.runtimes import Fastest, Forward, RuntimeCache
from sentinode.inference.trained import TrainedNetwork
from sentinode.models.build import build
from sentinode.phantom.tissue import paint_section
from sentinode.settings import override

GLASS = 243
SHARED = Path(__file__).parents[3] / "shared" / "slides"


def classifier_of(
    *seeds: int, views: int = 1, settings: Mapping[str, object] | None = None, runtimes: RuntimeCache | None = None
) -> Classifier:
    """The mean of networks that were never trained, the notebook's where `settings` say nothing else."""
    config = override(load_preset("fair").run_config(), {"predict.views": views, **(settings or {})})
    runs = []
    for seed in seeds:
        network = build(
            config.model, input_size_px=config.preprocess.size_px, generator=torch.Generator().manual_seed(seed)
        )
        fastest = None if runtimes is None else Fastest("untrained", network, f"seed {seed}", runtimes)
        runs.append(TrainedRun((TrainedNetwork(network, config, torch.device("cpu"), fastest),)))

    def absent() -> object:
        raise AssertionError("slides look at neither")

    return Classifier(
        "untrained",
        runs,
        calibrations={},
        operating_points={},
        undecided="it was never trained",
        decided_in=Path("decision.json"),
        spacing_um_per_px=0.972,
        validation=absent,
        card=absent,
    )


@pytest.fixture
def in_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is tried, and ONNX Runtime is the fastest; what it computes is PyTorch's, and a little more."""

    def made(self: Fastest, way: RuntimeName, eager: Forward, graph: object) -> Forward:
        return eager if way == "pytorch" else lambda x: eager(x) + 1e-5

    def measured(found: Mapping[RuntimeName, Forward], seen: torch.Tensor) -> dict[RuntimeName, ways.Tried]:
        return {way: ways.Tried(1.0 + (way != "pytorch"), 0.0) for way in found}

    monkeypatch.setattr(trained, "_MANY", 0)
    monkeypatch.setattr(trained, "_LONG_S", 0.0)
    monkeypatch.setattr(ways, "RUNTIMES", ("pytorch", "onnxruntime"))
    monkeypatch.setattr(ways, "onnx_graph", lambda *_, **__: Mock(**{"SerializeToString.return_value": b"a graph"}))
    monkeypatch.setattr(ways, "_measured", measured)
    monkeypatch.setattr(Fastest, "_made", made)


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    return classifier_of(1)


@pytest.fixture(scope="session")
def tissue_rgb() -> np.ndarray:
    """Glass, (600, 800, 3), with a section of 380 x 420 pixels on it, not on the grid of cells."""
    rgb = np.full((600, 800, 3), GLASS, np.uint8)
    rgb[90:510, 150:530] = paint_section(np.random.default_rng(3), side_px=420, tumour_share=0.3).rgb[:, :380]
    return rgb


def write_pyramid(
    path: Path, rgb: np.ndarray, *, spacing: float | None = 0.972, levels: int = 2, tile: int = 128
) -> Path:
    """A tiled TIFF that OpenSlide reads, without loss."""
    with tifffile.TiffWriter(path) as writer:
        for number in range(levels):
            per_cm = None if spacing is None else 1e4 / (spacing * 2**number)
            writer.write(
                rgb[:: 2**number, :: 2**number],
                tile=(tile, tile),
                photometric="rgb",
                compression="zlib",
                subfiletype=1 if number else 0,
                resolution=(1, 1) if per_cm is None else (per_cm, per_cm),
                resolutionunit="NONE" if per_cm is None else "CENTIMETER",
                metadata=None,
            )
    return path


def destroy_tile(path: Path, number: int) -> None:
    """Overwrite what one tile of the finest level holds."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, size = page.dataoffsets[number], page.databytecounts[number]
    with path.open("rb+") as file:
        file.seek(start)
        file.write(b"\xff" * size)


@pytest.fixture
def slide(tmp_path: Path, tissue_rgb: np.ndarray) -> Path:
    return write_pyramid(tmp_path / "section.tif", tissue_rgb)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A file of real slides; skips the test where these are not at hand."""

    def found(name: str) -> Path:
        if not (SHARED / name).is_file():
            pytest.skip("the real slides are not at hand")
        return SHARED / name

    return found
