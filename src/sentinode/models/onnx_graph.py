"""A network, or a module around several, as an ONNX graph by torch's exporter; the extra `export`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from sentinode.errors import ExportError
from sentinode.machine import optional_module

OPSET: Final = 20
"""Of 2023: ONNX Runtime 1.17 and OpenVINO 2024 read it."""


def onnx_graph(
    module: nn.Module,
    example: Tensor,
    *,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: dict[int, Any] | None = None,
) -> Any:
    """The `onnx.ModelProto` of a module of one tensor, whose axes in `dynamic` are as long as their `Dim` allows.

    Raises MissingExtraError without onnx and onnxscript, ExportError where torch's exporter cannot follow the network;
    `name` is what the error calls it.
    """
    for needed in ("onnx", "onnxscript"):  # by torch's exporter
        optional_module(needed, what="writing ONNX", extra="export")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own code
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=(dynamic,) if dynamic else None,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever a user's own network brings up
        raise ExportError(
            f"{name} cannot be written as ONNX ({_reason(error)})",
            remedy="Export it to torchscript, or write the network in operations that torch.export follows.",
        ) from error
    assert program is not None
    return program.model_proto


def _reason(error: BaseException) -> str:
    """The first line of what is at the bottom of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
