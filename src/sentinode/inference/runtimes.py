"""The fastest exact way to compute a network on this machine's processor: tried once, kept in the user's cache.

    pytorch            as it was trained, channels last: what every other way is compared with
    pytorch, folded    the same with batch norm folded into the convolutions, for EfficientNet-Lite
    onnxruntime        its graph in ONNX Runtime
    openvino           its graph in OpenVINO, in float32 also where the processor has bfloat16

Each way that is installed computes the first patches, in turn, and the fastest is taken whose logits are within 1e-4
of PyTorch's. What was found is kept for these weights, versions, processor and number of threads. Taken from the cache,
it is compared with PyTorch again: weights do not tell what a network of a user's own does with them.

All but the first compute 8 patches at a time, whatever the batch: so what a patch gets does not depend on the others.
The last two do so on one thread each, as many blocks at once as there are threads: a layer of few values is not worth
sharing, so that two threads at one block are slower than at two, and what a patch gets does not depend on their number.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import sentinode
from sentinode.artefacts import write_bytes
from sentinode.errors import ExportError, FailureError, RunError, StorageError
from sentinode.inference.network import BLOCK, RuntimeName
from sentinode.machine import default_cache, optional_module, processor_name
from sentinode.models.folded import folded_backbone
from sentinode.models.onnx_graph import onnx_graph
from sentinode.records import Number, read_record, write_record

RUNTIMES: Final[tuple[RuntimeName, ...]] = get_args(RuntimeName)
EXACT: Final = 1e-4
"""How far a logit may be from PyTorch's."""
CHOICE: Final = "choice.json"
GRAPH: Final = "network.onnx"
_FOLDER: Final = "runtimes"
_ROUNDS: Final = 3
_LEAST_TRIED: Final = 32  # patches
_KEPT_DAYS: Final = 30
_SECONDS_A_DAY: Final = 86_400
_INPUT, _OUTPUT = "pixels", "logit"

Forward = Callable[[Float[Tensor, "n 3 s s"]], Float[Tensor, "n 1"]]
"""Pixels in [0, 1] -> logits, of whole blocks."""


def patches_tried() -> int:
    """Of so many it is measured what is fastest: several blocks for each thread."""
    return max(_LEAST_TRIED, 2 * BLOCK * torch.get_num_threads())


@dataclass(frozen=True)
class Tried:
    """What one way did on the first patches."""

    patches_per_second: float
    """Of one view."""
    largest_logit_difference: Number
    """From PyTorch's logits."""


@dataclass(frozen=True)
class Choice:
    """The record of choice.json."""

    network: str
    runtime: RuntimeName
    tried: dict[RuntimeName, Tried]
    not_tried: dict[RuntimeName, str]
    """And why."""
    graph_sha256: str
    """Of network.onnx beside it; "" where the runtime needs none."""

    def __str__(self) -> str:
        fastest, eager = (self.tried[way].patches_per_second for way in (self.runtime, "pytorch"))
        if self.runtime == "pytorch":
            return f"{self.network} is computed by PyTorch: nothing that is installed is faster here"
        return f"{self.network} is computed by {self.runtime}, {fastest / eager:.1f} times as fast as PyTorch here"


def untold(_: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class RuntimeCache:
    """Where it is kept what is fastest, and who hears of a trial."""

    root: Callable[[], Path] = default_cache
    """Asked for its folder when something is to be read or written."""
    notify: Callable[[str], None] = untold


class Fastest:
    """Finds the fastest way to compute one network on the CPU in float32, and keeps it."""

    def __init__(self, name: str, network: nn.Module, digest: str, cache: RuntimeCache) -> None:
        """`digest` is that of the weights."""
        self.name, self._network, self._digest = name, network, digest
        self._cache, self._notify = cache.root, cache.notify

    def kept(self, eager: Forward, seen: Float[Tensor, "n 3 s s"]) -> tuple[Choice, Forward] | None:
        """What an earlier trial found, if it still computes of the patches `seen` what PyTorch does; else None."""
        folder = self._folder(seen.shape[-1])
        try:
            choice = read_record(folder / CHOICE, Choice)
            graph = (folder / GRAPH).read_bytes() if choice.graph_sha256 else b""
            if choice.graph_sha256 and hashlib.sha256(graph).hexdigest() != choice.graph_sha256:
                return None
            forward = self._opened(choice.runtime, eager, lambda: graph, seen[:BLOCK])
            if choice.runtime != "pytorch" and not _apart(forward(seen[:BLOCK]), eager(seen[:BLOCK])) <= EXACT:
                return None
        except (RunError, FailureError, OSError):  # not there, damaged, or its runtime is not
            return None
        with suppress(OSError):  # in a cache that may only be read
            os.utime(folder)  # used now
        return choice, forward

    def named(self, way: RuntimeName, eager: Forward, seen: Float[Tensor, "n 3 s s"]) -> Forward:
        """A way that was chosen elsewhere or before; raises FailureError where it is not installed here."""
        kept = self.kept(eager, seen)
        if kept is not None and kept[0].runtime == way:
            return kept[1]
        return self._opened(way, eager, self._graph_for(seen[:BLOCK]), seen[:BLOCK])

    def _graph_for(self, example: Float[Tensor, "n 3 s s"]) -> Callable[[], bytes]:
        """What writes the network as ONNX, once, if it is asked."""

        @cache
        def graph() -> bytes:
            module = folded_backbone(self._network) or self._network
            model = onnx_graph(module, example, name=self.name, inputs=[_INPUT], outputs=[_OUTPUT])
            written: bytes = model.SerializeToString(deterministic=True)
            return written

        return graph

    def tried(self, eager: Forward, seen: Float[Tensor, "n 3 s s"]) -> tuple[Choice, Forward]:
        """Try every way on the patches `seen`, whole blocks of them, and keep what is found."""
        self._notify(f"{self.name}: trying what computes it fastest here")
        example = seen[:BLOCK]
        graph = self._graph_for(example)
        ways: dict[RuntimeName, Forward] = {}
        missing: dict[RuntimeName, str] = {}
        for way in RUNTIMES:
            try:
                ways[way] = self._opened(way, eager, graph, example)
            except FailureError as error:
                missing[way] = error.what
        tried = _measured(ways, seen)
        exact = [way for way, of in tried.items() if of.largest_logit_difference <= EXACT]
        best = max(exact, key=lambda way: tried[way].patches_per_second)
        needs_graph = best in ("onnxruntime", "openvino")
        digest = hashlib.sha256(graph()).hexdigest() if needs_graph else ""
        choice = Choice(self.name, best, tried, missing, digest)
        self._notify(str(choice))
        try:
            self._keep(choice, graph() if needs_graph else b"", self._folder(seen.shape[-1]))
        except (StorageError, OSError) as error:
            self._notify(f"{self.name}: what is fastest here could not be kept ({error})")
        return choice, ways[best]

    def _opened(self, way: RuntimeName, eager: Forward, graph: Callable[[], bytes], block: Tensor) -> Forward:
        """Tried on one block. Raises FailureError for what is not installed, or cannot compute the network."""
        try:
            forward = self._made(way, eager, graph)
            forward(block)
        except FailureError:
            raise
        except Exception as error:  # the errors of runtimes share no class
            raise _cannot(f"{way} cannot compute it ({' '.join(str(error).split())[:200]})") from error
        return forward

    def _made(self, way: RuntimeName, eager: Forward, graph: Callable[[], bytes]) -> Forward:
        match way:
            case "pytorch":
                return eager
            case "pytorch, folded":
                module = folded_backbone(self._network)
                if module is None:
                    raise _cannot("its batch norm cannot be folded")
                return _block_by_block(module.to(memory_format=torch.channels_last))
            case "onnxruntime":
                return _in_onnxruntime(graph)
            case "openvino":
                return _in_openvino(graph)

    def _folder(self, side_px: int) -> Path:
        """Named for all that the choice depends on."""
        told = [
            self._digest,
            side_px,
            sentinode.__version__,
            torch.__version__,
            *(_installed(package) for package in ("timm", "onnx", "onnxscript", "onnxruntime", "openvino")),
            processor_name(),
            torch.backends.cpu.get_cpu_capability(),
            torch.get_num_threads(),
        ]
        name = hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest()[:16]
        return self._cache() / _FOLDER / name

    def _keep(self, choice: Choice, graph: bytes, folder: Path) -> None:
        if graph:
            write_bytes(folder / GRAPH, graph)
        write_record(folder / CHOICE, choice)
        for other in folder.parent.iterdir():
            with suppress(OSError):  # another process may remove it, too
                if other.stat().st_mtime < time.time() - _KEPT_DAYS * _SECONDS_A_DAY:
                    shutil.rmtree(other, ignore_errors=True)


def _measured(ways: Mapping[RuntimeName, Forward], seen: Float[Tensor, "n 3 s s"]) -> dict[RuntimeName, Tried]:
    """All ways in turn, round after round; the best round of each, for other programs only make it slower."""
    said = {way: forward(seen) for way, forward in ways.items()}
    seconds: dict[RuntimeName, list[float]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for way, forward in ways.items():
            began = time.perf_counter()
            forward(seen)
            seconds[way].append(time.perf_counter() - began)
    return {way: Tried(len(seen) / min(seconds[way]), _apart(said[way], said["pytorch"])) for way in ways}


def _apart(said: Tensor, reference: Tensor) -> float:
    return float((said - reference).abs().max())


@cache
def _installed(package: str) -> str:
    """Its version, "" where it is not; asked of the system once, for that takes a millisecond."""
    with suppress(PackageNotFoundError):
        return version(package)
    return ""


def _block_by_block(forward: Forward) -> Forward:
    """One block after the other."""
    return lambda x: torch.cat([forward(block) for block in torch.split(x, BLOCK)])


def _blocks_at_once(forward: Forward) -> Forward:
    """As many blocks at once as there are threads."""
    threads = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="blocks")
    return lambda x: torch.cat(list(threads.map(forward, torch.split(x, BLOCK))))


def _in_onnxruntime(graph: Callable[[], bytes]) -> Forward:
    onnxruntime = optional_module("onnxruntime", what="ONNX Runtime", extra="runtime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph(), options, providers=["CPUExecutionProvider"])

    def forward(block: Tensor) -> Tensor:
        (logits,) = session.run([_OUTPUT], {_INPUT: block.contiguous().numpy()})
        return torch.from_numpy(logits)

    return _blocks_at_once(forward)


def _in_openvino(graph: Callable[[], bytes]) -> Forward:
    openvino = optional_module("openvino", what="OpenVINO", extra="openvino")
    threads = torch.get_num_threads()
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    compiled = core.compile_model(core.read_model(model=graph()), "CPU", settings)
    of_thread = threading.local()  # one request computes one batch

    def forward(block: Tensor) -> Tensor:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        return torch.from_numpy(np.array(of_thread.request.infer([block.contiguous().numpy()])[0]))

    return _blocks_at_once(forward)


def _cannot(what: str) -> ExportError:
    return ExportError(what, remedy="Another runtime is taken.")
