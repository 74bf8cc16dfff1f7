"""map.onnx: a whole model over an image of any size -> a map of probabilities, a cell for each 32 x 32 pixels.

Each cell's value is that of the patch around it, as the model has it of patches: the graph cuts the image into patches
itself. Networks that can go over an image at once would be faster, and a little off, because a patch alone is
surrounded by zeros and not by tissue (`inference/dense.py`); an export is exact or it is none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.errors import MissingExtraError
from sentinode.exports.certificate import Logits, Pixels
from sentinode.exports.onnx_file import finished
from sentinode.exports.openvino_ir import compiled_by_openvino
from sentinode.exports.whole import Whole
from sentinode.inference.exported import LOGIT, Exported, onnx_session
from sentinode.models.onnx_graph import onnx_graph

MAP: Final = "map.onnx"
IMAGE: Final = "image"
_CELLS_A_PATCH: Final = PATCH_SIZE_PX // CENTRE_SIZE_PX
_SIDE: Final = 2  # patches of a mosaic, along a side


class OverImage(nn.Module):
    """(32 rows + 64, 32 columns + 64, 3), bytes -> what `Whole` gives of the patches around the cells, (rows, columns).

    The outer 32 pixels on every side are only what the cells at the border see around them.
    """

    def __init__(self, module: Whole) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Shaped[Tensor, "height width 3"]) -> tuple[Tensor, ...]:
        patches = _patches_of_cells(image)
        found = self.module(patches.flatten(0, 1))
        return tuple(values.reshape(patches.shape[:2]) for values in found)


def _patches_of_cells(image: Shaped[Tensor, "height width 3"]) -> Shaped[Tensor, "rows columns 96 96 3"]:
    """Of every cell, from the squares of 32 pixels: its own and the eight around it."""
    height, width, side = image.shape[0], image.shape[1], CENTRE_SIZE_PX
    squares = image.reshape(height // side, side, width // side, side, 3).permute(0, 2, 1, 3, 4)
    tall = torch.cat([squares[:-2], squares[1:-1], squares[2:]], dim=2)
    return torch.cat([tall[:, :-2], tall[:, 1:-1], tall[:, 2:]], dim=3)


def write_map(module: Whole, record: Exported, folder: Path) -> None:
    """Raises ExportError where torch's exporter cannot follow a network."""
    example = torch.zeros(4 * CENTRE_SIZE_PX, 5 * CENTRE_SIZE_PX, 3, dtype=torch.uint8)
    sides = {axis: CENTRE_SIZE_PX * torch.export.Dim(name, min=3) for axis, name in enumerate(("high", "wide"))}
    graph = onnx_graph(
        OverImage(module), example, name=record.name, inputs=[IMAGE], outputs=module.outputs, dynamic=sides
    )
    (folder / MAP).write_bytes(finished(graph, record))


def map_runtimes(path: Path) -> tuple[dict[str, Logits], dict[str, str]]:
    """The file in each runtime that is installed, asked about mosaics of patches, and why not in the others."""
    runtimes: dict[str, Logits] = {}
    missing: dict[str, str] = {}
    try:
        session = onnx_session(path.read_bytes(), path)
        runtimes[f"onnxruntime {version('onnxruntime')}"] = _of_mosaics(
            lambda image: session.run([LOGIT], {IMAGE: image})[0]
        )
    except MissingExtraError:
        missing["onnxruntime"] = "not installed"
    try:
        name, compiled = compiled_by_openvino(path)
        runtimes[name] = _of_mosaics(lambda image: compiled(image)[LOGIT])
    except MissingExtraError:
        missing["openvino"] = "not installed"
    return runtimes, missing


def _of_mosaics(compute: Callable[[Pixels], Float[np.ndarray, "rows columns"]]) -> Logits:
    """The logits of patches, asked for as an image of four of them side by side, which has cells between them, too."""

    def logits(pixels: Pixels) -> Float[np.ndarray, " n"]:
        said = []
        for start in range(0, len(pixels), _SIDE**2):
            some = pixels[start : start + _SIDE**2]
            filled = np.concatenate([some, np.repeat(some[-1:], _SIDE**2 - len(some), axis=0)])
            rows = filled.reshape(_SIDE, _SIDE, PATCH_SIZE_PX, PATCH_SIZE_PX, 3).transpose(0, 2, 1, 3, 4)
            image = np.ascontiguousarray(rows.reshape(_SIDE * PATCH_SIZE_PX, _SIDE * PATCH_SIZE_PX, 3))
            said.append(compute(image)[::_CELLS_A_PATCH, ::_CELLS_A_PATCH].ravel()[: len(some)])
        return np.concatenate(said)

    return logits
