"""A finished model in one ONNX file, as `export` wrote it -> a `Classifier` on ONNX Runtime, without PyTorch.

The graph takes patches as they are, (n, 96, 96, 3) uint8, and gives their `logit`, (n,); downsampling, views, members
and their weights are in it. What is known of the model beside its graph stands in the file's metadata, a property for
each field of `Exported`, in JSON. One property more is the seal: the SHA-256 of the whole file with zeros in its place.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field

from sentinode.artefacts import null_for_nan
from sentinode.config.run import PreprocessConfig
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.errors import MissingExtraError, RunError
from sentinode.evaluation.calibration import Calibration, Method
from sentinode.evaluation.threshold import OperatingPoint, PointName
from sentinode.files import read_bytes
from sentinode.inference.classifier import Card, Classifier, TrainedRun
from sentinode.inference.network import BatchSize, Network, Probabilities, RuntimeName, Sliceable, in_batches
from sentinode.inference.predictions import Predictions
from sentinode.progress import StepProgress
from sentinode.records import VERSION, Numbers, parse_record, plain

PATCHES: Final = "patches"
"""The graph's input."""
LOGIT: Final = "logit"
SEAL: Final = "seal"
UNSEALED: Final = f"sentinode-sha256:{'0' * 64}"
_SEALED: Final = re.compile(rb"sentinode-sha256:([0-9a-f]{64})")
_LARGEST_MB: Final = 2048  # of a file of Protocol Buffers
_IMAGES_AT_ONCE: Final = 32  # the graph computes all views of a batch together: of 160 pixels, a gigabyte of maps
_REMEDY: Final = "Give a file that `sentinode export` wrote, or export the run again."


@dataclass(frozen=True, eq=False)
class Validation:
    """The probabilities that the validation patches of each class got: with them any threshold has its rates."""

    negative: Annotated[Float[np.ndarray, " n"], Numbers(digits=9)]
    positive: Annotated[Float[np.ndarray, " m"], Numbers(digits=9)]

    @classmethod
    def of(cls, predictions: Predictions) -> Validation:
        return cls(*(np.sort(predictions.probabilities[predictions.labels == label]) for label in (0, 1)))

    def predictions(self) -> Predictions:
        """The same as predictions; their ids are not known any more."""
        labels = np.repeat(np.array([0, 1], np.int8), [len(self.negative), len(self.positive)])
        return Predictions(np.full(len(labels), ""), labels, np.concatenate([self.negative, self.positive]))


@dataclass(frozen=True, eq=False)
class Exported:
    """What an exported model is told of itself."""

    sentinode: str
    """The version that wrote it."""
    name: str
    digest: str
    """Of the weights, and of how they are blended: the run's, or those of a study's runs together."""
    patch_size_px: int
    spacing_um_per_px: float
    labels: tuple[str, str]
    """What 0 and 1 say of a patch's central 32 x 32 pixels."""
    views: int
    calibrations: dict[Method, Annotated[Calibration, Field(discriminator="method")]]
    operating_points: dict[PointName, OperatingPoint]
    """Thresholds on the probability before any calibration."""
    undecided: str
    """Why there are no calibrations and operating points, if so."""
    card: Card
    validation: Validation

    def as_properties(self) -> dict[str, str]:
        """The file's metadata."""
        fields = {"version": VERSION, **plain(self)}
        return {name: json.dumps(null_for_nan(value), ensure_ascii=False) for name, value in fields.items()}


def sealed(content: bytes) -> bytes:
    """The file with its digest in its metadata, where `UNSEALED` stands."""
    assert content.count(UNSEALED.encode()) == 1
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(UNSEALED.encode(), UNSEALED.replace("0" * 64, digest).encode())


def open_exported(path: Path) -> Classifier:
    """The model in an ONNX file that `export` wrote; it is computed on the CPU.

    Raises RunError, in one line, for a file that is missing, changed or another program's, before it is parsed;
    MissingExtraError without ONNX Runtime.
    """
    content = read_bytes(path, limit_mb=_LARGEST_MB, remedy=_REMEDY, kind=RunError)
    _require_sealed(content, path)
    session = onnx_session(content, path)
    if [seen.name for seen in session.get_inputs()] != [PATCHES]:
        raise RunError(
            "takes images and not patches",
            where=path,
            remedy="Run it in ONNX Runtime or OpenVINO, or give the model that `sentinode export --to onnx` writes.",
        )
    record = _record(session.get_modelmeta().custom_metadata_map, path)
    return Classifier(
        record.name,
        [TrainedRun((OnnxNetwork(session, record.views),))],
        calibrations=record.calibrations,
        operating_points=record.operating_points,
        undecided=record.undecided,
        decided_in=path,
        spacing_um_per_px=record.spacing_um_per_px,
        validation=record.validation.predictions,
        card=lambda: record.card,
    )


class OnnxNetwork(Network):
    """A whole model as one network: all of a run, an ensemble or a study's choice is in its graph."""

    def __init__(self, session: Any, views: int) -> None:
        # Patches are left as they are: the graph has the model's own preprocessing.
        self.preprocess = PreprocessConfig(crop_px=PATCH_SIZE_PX, size_px=PATCH_SIZE_PX)
        self.views, self.device, self._session = views, "cpu", session
        self.batch_size = BatchSize(_IMAGES_AT_ONCE // views, search=True)

    @property
    def runtime(self) -> str:
        """ONNX Runtime, with its version."""
        return f"onnxruntime {version('onnxruntime')}"

    @property
    def way(self) -> RuntimeName:
        """ONNX Runtime."""
        return "onnxruntime"

    def probabilities(self, prepared: Sliceable, *, on_progress: StepProgress | None = None) -> Probabilities:
        """The mean probability over the views, members and runs of each patch, in the order given."""
        return in_batches(prepared, self.batch_size, self._of_batch, on_progress)

    def _of_batch(self, patches: UInt8[np.ndarray, "n 96 96 3"]) -> Probabilities:
        (logits,) = self._session.run([LOGIT], {PATCHES: np.ascontiguousarray(patches)})
        # In double precision, as on PyTorch: in single, every logit above 17 would become the same probability, 1.
        return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


def _require_sealed(content: bytes, path: Path) -> None:
    seals = _SEALED.findall(content)
    if len(seals) != 1:
        raise RunError("is not an ONNX file that sentinode exported", where=path, remedy=_REMEDY)
    unsealed = content.replace(b"sentinode-sha256:" + seals[0], UNSEALED.encode())
    if hashlib.sha256(unsealed).hexdigest() != seals[0].decode():
        raise RunError("has changed since it was exported", where=path, remedy=_REMEDY)


def onnx_session(content: bytes, path: Path) -> Any:
    """ONNX Runtime's session of a model on the CPU, in as many threads as PyTorch has, where it is loaded."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"an ONNX file needs ONNX Runtime, and {error.name!r} is not installed",
            where=path,
            remedy="Run: pip install 'sentinode[runtime]'",
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if torch := sys.modules.get("torch"):  # where `threads` were asked for, it was told
        options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class of their own
        told = " ".join(str(error).split())[:200]
        remedy = "Install a newer onnxruntime, or export the run again."
        raise RunError(
            f"cannot be run by ONNX Runtime {onnxruntime.__version__} ({told})", where=path, remedy=remedy
        ) from error


def _record(properties: dict[str, str], path: Path) -> Exported:
    fields = ", ".join(f"{json.dumps(name)}: {value}" for name, value in properties.items() if name != SEAL)
    return parse_record(f"{{{fields}}}".encode(), Exported, path)
