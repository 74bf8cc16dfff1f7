"""A whole model as one ONNX file, which ONNX Runtime, OpenVINO and `sentinode.load` open."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import torch

from sentinode.errors import ExportError, MissingExtraError
from sentinode.exports.certificate import Logits
from sentinode.exports.openvino_ir import openvino_runtime
from sentinode.exports.whole import Whole
from sentinode.inference.exported import PATCHES, SEAL, UNSEALED, Exported, open_exported, sealed

ONNX: Final = "model.onnx"
OPSET: Final = 20
"""Of 2023: ONNX Runtime 1.17 and OpenVINO 2024 read it."""


def onnx_file(module: Whole, record: Exported) -> bytes:
    """The content of the file. Raises ExportError where torch's exporter cannot follow a network."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"ONNX files are written with onnx and onnxscript, and {error.name!r} is not installed",
            remedy="Run: pip install 'sentinode[export]'",
        ) from error
    example = torch.zeros(2, record.patch_size_px, record.patch_size_px, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own code
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
                input_names=[PATCHES],
                output_names=module.outputs,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever a user's own network brings up
        raise ExportError(
            f"{record.name} cannot be written as ONNX ({_reason(error)})",
            remedy="Export it to torchscript, or write the network in operations that torch.export follows.",
        ) from error
    assert program is not None
    model = program.model_proto
    model.producer_name, model.producer_version = "sentinode", record.sentinode
    model.doc_string = f"{record.name}: tumour in the centre of 96 x 96 patches. For research; not a medical device."
    onnx.helper.set_model_props(model, {**record.as_properties(), SEAL: UNSEALED})
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


def _reason(error: BaseException) -> str:
    """The first line of what is at the bottom of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
