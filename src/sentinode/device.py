"""Where tensors live, the CPU, a CUDA GPU or Apple's MPS, in what precision and how many threads they are computed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from sentinode.errors import ConfigError

Precision = Literal["float32", "mixed"]

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or with "auto" the best there is; raises ConfigError where it is absent."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if name not in DEVICES:
        raise ConfigError(f"unknown device {name!r}", remedy=f"Choose one of {', '.join(DEVICES)}.")
    if not available[name]:
        raise ConfigError(f"the device {name!r} is not available here", remedy="Choose --device cpu or auto.")
    return torch.device(name)


def use_threads(count: int) -> None:
    """Let this process compute in so many threads: PyTorch, the compiled loops, which follow it, and linear algebra.

    Raises ConfigError for less than one.
    """
    from threadpoolctl import threadpool_limits

    if count < 1:
        raise ConfigError(f"cannot compute in {count} threads", where="threads", remedy="Give 1 or more.")
    threadpool_limits(count)  # of the libraries that are loaded, so torch's own count comes after it
    torch.set_num_threads(count)


def compute_exactly(device: torch.device) -> None:
    """Let this process's convolutions on a CUDA GPU be in float32, and the same each time; elsewhere they are anyway.

    Left alone, cuDNN rounds their factors to 10 bits (TF32), which moves logits by hundredths, and takes algorithms
    that add in another order each time, so that a resumed run is another run.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


def in_precision(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which "mixed" networks compute in bfloat16, where the device has the arithmetic; else in float32."""
    if precision == "float32" or not has_bfloat16(device):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 pays there: on GPUs that compute in it, and on processors with instructions for it."""
    match device.type:
        case "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        case "cpu":
            return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        case _:
            return False
