"""Where tensors live: the CPU, a CUDA GPU or Apple's MPS."""

from __future__ import annotations

import torch

from sentinode.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or with "auto" the best there is; raises ConfigError where it is absent."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if name not in DEVICES:
        raise ConfigError(f"there is no device {name!r}", remedy=f"Choose one of {', '.join(DEVICES)}.")
    if not available[name]:
        raise ConfigError(f"the device {name!r} is not available here", remedy="Choose --device cpu or auto.")
    return torch.device(name)
