"""A whole model as OpenVINO's intermediate representation: model.xml and, beside it, model.bin with the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8

from sentinode.errors import MissingExtraError
from sentinode.exports.certificate import FEW_PATCHES, Logits
from sentinode.inference.exported import LOGIT, Exported

IR: Final = "model.xml"


def write_ir(onnx: bytes, record: Exported, folder: Path) -> None:
    """From the content of the model's ONNX file, with the same metadata; weights stay float32."""
    openvino = _openvino()
    model = openvino.Core().read_model(model=onnx)
    for name, value in record.as_properties().items():
        model.set_rt_info(value, ["sentinode", name])
    openvino.save_model(model, folder / IR, compress_to_fp16=False)


def openvino_runtime(model: Path) -> dict[str, Logits]:
    """A model, ONNX or IR, in OpenVINO on the CPU, in float32 also where the processor has bfloat16."""
    name, compiled = compiled_by_openvino(model)

    def logits(pixels: UInt8[np.ndarray, "n 96 96 3"]) -> Float[np.ndarray, " n"]:
        parts = [pixels[start : start + FEW_PATCHES] for start in range(0, len(pixels), FEW_PATCHES)]
        return np.concatenate([compiled(np.ascontiguousarray(part))[LOGIT] for part in parts])

    return {name: logits}


def compiled_by_openvino(model: Path) -> tuple[str, Any]:
    """OpenVINO with its version, and the model as its function of the input."""
    openvino = _openvino()
    compiled = openvino.Core().compile_model(str(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return f"openvino {openvino.__version__.split('-')[0]}", compiled


def _openvino() -> Any:
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "OpenVINO's format is written by openvino, which is not installed",
            remedy="Run: pip install 'sentinode[export,openvino]'",
        ) from error
    return openvino
