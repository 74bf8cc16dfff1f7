"""A whole model as one ONNX file, which ONNX Runtime, OpenVINO and `sentinode.load` open."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch

from sentinode.errors import MissingExtraError
from sentinode.exports.certificate import Logits
from sentinode.exports.openvino_ir import openvino_runtime
from sentinode.exports.whole import Whole
from sentinode.inference.exported import PATCHES, SEAL, UNSEALED, Exported, open_exported, sealed
from sentinode.models.onnx_graph import onnx_graph

ONNX: Final = "model.onnx"


def onnx_file(module: Whole, record: Exported) -> bytes:
    """The content of the file. Raises ExportError where torch's exporter cannot follow a network."""
    example = torch.zeros(2, record.patch_size_px, record.patch_size_px, 3, dtype=torch.uint8)
    any_number = {0: torch.export.Dim("n", min=1)}
    graph = onnx_graph(module, example, name=record.name, inputs=[PATCHES], outputs=module.outputs, dynamic=any_number)
    return finished(graph, record)


def finished(model: Any, record: Exported) -> bytes:
    """The file of a graph: with what is known of the model beside it, and sealed."""
    model.producer_name, model.producer_version = "sentinode", record.sentinode
    model.doc_string = f"{record.name}: tumour in the centre of 96 x 96 patches. For research; not a medical device."
    for name, value in {**record.as_properties(), SEAL: UNSEALED}.items():
        model.metadata_props.add(key=name, value=value)
    return sealed(model.SerializeToString(deterministic=True))


def onnx_runtimes(path: Path) -> tuple[dict[str, Logits], dict[str, str]]:
    """The file in each runtime that is installed, and why not in the others."""
    runtimes: dict[str, Logits] = {}
    missing: dict[str, str] = {}
    try:
        import onnxruntime

        runtimes[f"onnxruntime {onnxruntime.__version__}"] = open_exported(path).logits
    except ModuleNotFoundError:
        missing["onnxruntime"] = "not installed"
    try:
        runtimes |= openvino_runtime(path)
    except MissingExtraError:
        missing["openvino"] = "not installed"
    return runtimes, missing
