"""Checkpoints: weights, optimizer, random state and position in one safetensors file, written atomically."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from sentinode.artefacts import write_bytes
from sentinode.errors import RunError
from sentinode.fitting.epochs import FitState, trainable

_FORMAT: Final = "sentinode-checkpoint-3"
_DIGEST: Final = "sha256"
_HISTORY: Final = TypeAdapter(list[dict[str, float | int | None]])
_MODEL, _AVERAGE, _FIRST, _SECOND, _RANDOM = "model.", "average.", "adam.first.", "adam.second.", "random"


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's parameters and buffers as safetensors."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    _write(path, tensors, {})


def load_weights(path: Path, network: nn.Module) -> None:
    """Read weights into a network of the same form; raises RunError where the file is anything else."""
    tensors = _read(path)[0]
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"holds weights of another network ({reason})", where=path, remedy="Restore the run's own file."
        ) from error


def count_weights(path: Path) -> int:
    """How many numbers a file of weights says that it holds, parameters and buffers; its head alone is read."""
    with _opened(path) as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in list(file.keys()))


def save_checkpoint(path: Path, state: FitState, history: list[dict[str, Any]]) -> None:
    """Write all that resuming needs. The generator's state is torch's own, for networks that draw."""
    tensors = {_MODEL + name: tensor for name, tensor in state.network.state_dict().items()}
    for name, (first, second) in zip(trainable(state.network), state.optimizer.moments, strict=True):
        tensors |= {_FIRST + name: first, _SECOND + name: second}
    if state.average is not None:
        tensors |= {_AVERAGE + name: tensor for name, tensor in state.average.network.state_dict().items()}
    tensors[_RANDOM] = torch.get_rng_state()
    on_cpu = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    metadata = {
        "format": _FORMAT,
        "epochs_done": str(state.epochs_done),
        "steps_done": str(state.optimizer.steps_done),
        "averaged": str(state.average.updates if state.average else 0),
        "history": json.dumps(history, allow_nan=False),
    }
    _write(path, on_cpu, metadata)


def load_checkpoint(path: Path, state: FitState) -> list[dict[str, Any]]:
    """Put a checkpoint into a fresh state of the same network; returns the history so far."""
    tensors, metadata = _read(path)
    if metadata.get("format") != _FORMAT:
        raise RunError(
            "is not a checkpoint of this version of sentinode", where=path, remedy="Remove the file to start again."
        )
    try:
        state.network.load_state_dict(_part(tensors, _MODEL))
        if state.average is not None:
            state.average.network.load_state_dict(_part(tensors, _AVERAGE))
            state.average.updates = int(metadata["averaged"])
        for name, (first, second) in zip(trainable(state.network), state.optimizer.moments, strict=True):
            first.copy_(tensors[_FIRST + name])
            second.copy_(tensors[_SECOND + name])
        state.optimizer.steps_done = int(metadata["steps_done"])
        state.epochs_done = int(metadata["epochs_done"])
        history = _HISTORY.validate_json(metadata["history"])
        torch.set_rng_state(tensors[_RANDOM])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"does not fit this run ({reason})", where=path, remedy="Remove the file to start again."
        ) from error
    return history


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors, contiguous and on the CPU, with the digest of all that is in the file."""
    write_bytes(path, safetensors.torch.save(tensors, {**metadata, _DIGEST: _digest(tensors, metadata)}))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `_write` wrote; raises RunError where anything of it has changed since."""
    with _opened(path) as file:
        tensors, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, dict(file.metadata() or {})
    if metadata.pop(_DIGEST, None) != _digest(tensors, metadata):
        raise RunError(
            "has changed since it was written, or is damaged",
            where=path,
            remedy="Restore the file, or train the run again.",
        )
    return tensors, metadata


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise RunError("is missing", where=path, remedy="Restore the file, or train the run again.") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(
            f"is not a safetensors file ({error})",
            where=path,
            remedy="Restore the file, or train the run again.",
        ) from error
