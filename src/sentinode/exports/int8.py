"""model.int8.onnx: a model whose convolutions compute in eight bits, kept only where that is faster and no worse here.

ONNX Runtime quantises statically: weights by channel, maps by the ranges that they had on training patches, with
nodes that quantise and dequantise around each (QDQ), so that other runtimes read the file, too. What stands around the
networks, and heads on statistics of maps, stay float32: their numbers need more than eight bits.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Shaped

from sentinode.evaluation.bootstrap import PairedInterval, bootstrap
from sentinode.evaluation.clusters import CLUSTER_NAMES, ClusterKind
from sentinode.exports.certificate import FEW_PATCHES, EightBits, Pixels, Reference
from sentinode.inference.exported import PATCHES, SEAL, UNSEALED, open_exported, sealed
from sentinode.machine import optional_module
from sentinode.progress import Progress, of_step
from sentinode.randomness import Purpose

INT8: Final = "model.int8.onnx"
TIMES_AS_FAST: Final = 1.2
"""At least so many times as fast as float32."""
WORST_AUC: Final = -0.003
"""The interval of the difference of the AUC lies above it."""
CALIBRATED_ON: Final = 64
"""So many training patches."""
_TIMED: Final = 16
_ROUNDS: Final = 5
_KEPT_OPS: Final = ("Relu", "Clip", "MaxPool", "Add")
_PASSED_ON: Final = ("Flatten", "Reshape", "Transpose")


@dataclass(frozen=True, eq=False)
class Judges:
    """What a model in eight bits is calibrated on, and what its AUC's interval draws."""

    training: Pixels
    clusters: Shaped[np.ndarray, " n"]
    """Of the reference's patches."""
    kind: ClusterKind
    seed: int


def write_int8(model: Path, reference: Reference, judges: Judges, progress: Progress) -> EightBits:
    """Beside an exported ONNX file the same in eight bits, if it is worth it; what it was worth.

    Raises MissingExtraError without onnx and onnxruntime.
    """
    told = of_step(progress, "int8")
    told(0, 3)
    path = model.with_name(INT8)
    path.write_bytes(_quantised(model, judges.training))
    told(1, 3)
    ways = [open_exported(way) for way in (path, model)]
    seconds: list[list[float]] = [[], []]
    shown = reference.pixels[:_TIMED]
    for _ in range(_ROUNDS):  # in turn; other programs only make a round slower
        for way, took in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            way(shown)
            took.append(time.perf_counter() - began)
    times = min(seconds[1]) / min(seconds[0])
    told(2, 3)
    verdict = _verdict(times, lambda: _auc_difference(ways[0](reference.pixels), reference, judges))
    if not verdict.written:
        path.unlink()
    told(3, 3)
    return verdict


def _verdict(times: float, auc_difference: Callable[[], PairedInterval]) -> EightBits:
    speed = f"{times:.2f} times as fast as float32"
    if times < TIMES_AS_FAST:
        return EightBits(False, f"not written: {speed} here, and {TIMES_AS_FAST:g} times was asked", times)
    found = auc_difference()
    auc = f"its AUC differs by {found.estimate:+.4f} ({found.ends_in_words('+.4f')})"
    if not found.low > WORST_AUC:  # nor NaN
        return EightBits(False, f"not written: {auc}, not surely above {WORST_AUC:g}; {speed} here", times, found)
    return EightBits(True, f"{speed} here, and {auc}", times, found)


def _auc_difference(said: Float[np.ndarray, " n"], reference: Reference, judges: Judges) -> PairedInterval:
    both = np.stack([said, 1 / (1 + np.exp(-reference.logits))])[:, None]
    rng, unit = Purpose.SCORES.rng(judges.seed), CLUSTER_NAMES[judges.kind]
    found = bootstrap(reference.labels, both, judges.clusters, rng=rng, metrics=("auc",), unit=unit)
    return found.difference(0, 1, "auc")


def _quantised(model: Path, training: Pixels) -> bytes:
    onnx = optional_module("onnx", what="a model in eight bits", extra="export")
    optional_module("onnxruntime", what="a model in eight bits", extra="export")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches:
        """A `CalibrationDataReader` to ONNX Runtime, as whatever has `get_next`."""

        def __init__(self) -> None:
            self._batches = _batches(training)

        def get_next(self) -> dict[str, Pixels] | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared, out = Path(scratch) / "prepared.onnx", Path(scratch) / "int8.onnx"
        quant_pre_process(
            str(model), str(prepared), skip_symbolic_shape=True
        )  # batch norm becomes part of convolutions
        quantize_static(
            str(prepared),
            str(out),
            Batches(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # seven bits of weights: without VNNI the products of eight overflow their sums
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=_nodes(onnx.load(prepared)),
        )
        graph = onnx.load(out)
    told = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {**told, SEAL: UNSEALED})
    return sealed(graph.SerializeToString(deterministic=True))


def _nodes(model: Any) -> list[str]:
    """Convolutions, what is computed on their maps before anything else, and dense layers on such maps."""
    constant = {tensor.name for tensor in model.graph.initializer}
    of_maps: set[str] = set()
    chosen = []
    for node in model.graph.node:  # in the order of computation
        seen = [name for name in node.input if name and name not in constant]
        on_maps = bool(seen) and of_maps.issuperset(seen)
        if node.op_type == "Conv" or (on_maps and node.op_type in (*_KEPT_OPS, *_PASSED_ON)):
            of_maps.update(node.output)
        if node.op_type == "Conv" or (on_maps and node.op_type in (*_KEPT_OPS, "Gemm", "MatMul")):
            chosen.append(node.name)
    return chosen


def _batches(training: Pixels) -> Iterator[dict[str, Pixels]]:
    for start in range(0, len(training), FEW_PATCHES):
        yield {PATCHES: np.ascontiguousarray(training[start : start + FEW_PATCHES])}
