"""A whole model as TorchScript, and as a folder of WSInfer's model zoo, which QuPath's extension reads as well.

PyTorch calls TorchScript deprecated, and still writes it; WSInfer and QuPath (by DJL) load nothing else.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.artefacts import write_json
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.errors import ExportError
from sentinode.exports.certificate import FEW_PATCHES, Logits
from sentinode.exports.whole import Whole
from sentinode.inference.exported import Exported

TORCHSCRIPT: Final = "model.pt"
WSINFER_MODEL: Final = "torchscript_model.pt"  # the names that WSInfer's zoo and QuPath look for
WSINFER_CONFIG: Final = "config.json"
_JIT: Final[Any] = torch.jit  # without types
_VERSION: Final = f"torch {torch.__version__.split('+')[0]}"
_FINER: Final = 4  # a slide of 0.243 um/px, of which WSInfer reads the finest level


class ForWsinfer(nn.Module):
    """(n, 3, height, width) in [0, 1] -> the logits of no tumour, which is 0, and tumour, (n, 2): for a softmax.

    WSInfer cuts patches from the finest level, QuPath from one near the spacing that is asked for. Whatever they cut is
    averaged to 96 x 96 here, in areas, as the competition's patches were made; resizers of theirs are not asked.
    """

    def __init__(self, module: Whole) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2"]:
        # Bytes again, first: sums of whole numbers are exact, and so are the bytes that come of them.
        averaged = F.adaptive_avg_pool2d(torch.round(x * 255.0), (PATCH_SIZE_PX, PATCH_SIZE_PX))
        logit = self.module.logit(torch.floor(averaged + 0.5).permute(0, 2, 3, 1))
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def write_torchscript(module: Whole, record: Exported, folder: Path) -> None:
    """model.pt, with the metadata of an ONNX file as extra file `sentinode.json` in it."""
    traced = _traced(module, torch.zeros(2, PATCH_SIZE_PX, PATCH_SIZE_PX, 3, dtype=torch.uint8), record.name)
    _save(traced, folder / TORCHSCRIPT, record)


def torchscript_runtimes(folder: Path) -> dict[str, Logits]:
    model = _loaded(folder / TORCHSCRIPT)

    def logits(pixels: UInt8[np.ndarray, "n 96 96 3"]) -> Float[np.ndarray, " n"]:
        with torch.no_grad():
            own = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
            parts = [model(part)[1] for part in torch.split(own, FEW_PATCHES)]
        return np.asarray(torch.cat(parts).numpy())

    return {_VERSION: logits}


def write_wsinfer(module: Whole, record: Exported, folder: Path) -> None:
    """torchscript_model.pt and config.json, as the model zoo's schema has them."""
    example = torch.zeros(2, 3, PATCH_SIZE_PX, PATCH_SIZE_PX)
    _save(_traced(ForWsinfer(module).eval(), example, record.name), folder / WSINFER_MODEL, record)
    config = {
        "spec_version": "1.0",
        "architecture": " + ".join(record.card.architectures),
        "num_classes": 2,
        "class_names": list(record.labels),
        "patch_size_pixels": record.patch_size_px,
        "spacing_um_px": record.spacing_um_per_px,
        "transform": [{"name": "ToTensor"}],
    }
    write_json(folder / WSINFER_CONFIG, config)


def wsinfer_runtimes(folder: Path) -> dict[str, Logits]:
    """As the two programs use it: their tensors of bytes in, the softmax of the two logits out."""
    model = _loaded(folder / WSINFER_MODEL)

    def logits_of(finer: int) -> Logits:
        def logits(pixels: UInt8[np.ndarray, "n 96 96 3"]) -> Float[np.ndarray, " n"]:
            said = []
            for start in range(0, len(pixels), FEW_PATCHES):
                cut = pixels[start : start + FEW_PATCHES].repeat(finer, axis=1).repeat(finer, axis=2)
                with torch.no_grad():
                    said.append(model(torch.from_numpy(cut).permute(0, 3, 1, 2).float() / 255))
            two = torch.cat(said).double()
            return np.asarray((two[:, 1] - two[:, 0]).numpy())

        return logits

    return {
        f"{_VERSION}, patches of {PATCH_SIZE_PX} px (QuPath)": logits_of(1),
        f"{_VERSION}, patches of {PATCH_SIZE_PX * _FINER} px, {_FINER} times as fine (WSInfer)": logits_of(_FINER),
    }


def _traced(module: nn.Module, example: Tensor, name: str) -> Any:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # that it is deprecated; and branches by shape, which are the same here
            return _JIT.trace(module, example, check_trace=False)
    except Exception as error:  # whatever a user's own network brings up
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{name} cannot be traced for TorchScript ({type(error).__name__}: {reason})",
            remedy="Export it to another format.",
        ) from error


def _save(traced: Any, path: Path, record: Exported) -> None:
    told = "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in record.as_properties().items()) + "}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _JIT.save(traced, path, _extra_files={"sentinode.json": told})


def _loaded(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _JIT.load(str(path), map_location="cpu")
