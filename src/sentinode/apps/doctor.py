"""What an installation can do, row by row."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

import sentinode
from sentinode.data.cache import damaged_chunks, entries, map_pixels, read_manifest
from sentinode.device import choose_device
from sentinode.kernels import at_hand
from sentinode.machine import free_processors
from sentinode.models.backbones.lite_weights import PACKAGES

_LIBRARIES: Final = (
    "torch", "numpy", "pandas", "scipy", "scikit-learn", "pydantic", "optuna", "safetensors", "pillow", "h5py",
    "matplotlib", "jinja2",
)  # fmt: skip
_EXTRAS: Final = {
    "fast": ("numba",),
    "zoo": ("torchvision", "timm", *(name.replace("-", "_") for name in PACKAGES.values())),
    "serve": ("fastapi", "python_multipart", "uvicorn"),
}


def examine(cache_root: Path) -> list[list[str]]:
    """Rows of what and found: versions, device, threads, free disk, and what each extra lacks."""
    rows = [
        ["sentinode", sentinode.__version__],
        ["python", f"{platform.python_version()} on {platform.platform()}"],
        *([name, metadata.version(name)] for name in _LIBRARIES),
        ["device", str(choose_device("auto"))],
        ["cuda", "available" if torch.cuda.is_available() else "not available"],
        ["mps", "available" if torch.backends.mps.is_available() else "not available"],
        ["threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors, of which {free_processors()} free"],
        ["instructions", f"{_loops()}, PyTorch {torch.backends.cpu.get_cpu_capability()}"],
        ["cache", _disk(cache_root)],
        ["packed pixels", _packed(cache_root)],
    ]
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        install = f"missing {', '.join(missing)}: pip install 'sentinode[{extra}]'"
        rows.append([f"extra {extra}", install if missing else "installed"])
    return rows


def _loops() -> str:
    if not at_hand():
        return "no compiled loops"
    from sentinode.kernels.jit import processor

    return f"loops for {processor()[0]}"


def _packed(cache_root: Path) -> str:
    """Whether all packed pixels are still those that were packed."""
    held = [entry for entry in entries(cache_root) if read_manifest(entry.path) is not None]
    damaged = [entry.path for entry in held if _is_damaged(entry.path)]
    if damaged:
        return f"damaged: {', '.join(map(str, damaged))}. They are decoded again when used; check that disk"
    return f"{len(held)} sets, {sum(entry.size_bytes for entry in held) / 1e9:,.2f} GB, all intact"


def _is_damaged(folder: Path) -> bool:
    manifest = read_manifest(folder)
    pixels = None if manifest is None or not manifest.kept else map_pixels(folder, manifest)
    return manifest is not None and pixels is not None and bool(damaged_chunks(pixels, manifest, whole=True))


def _disk(folder: Path) -> str:
    existing = next(place for place in [folder, *folder.parents] if place.exists())
    return f"{folder}, {shutil.disk_usage(existing).free / 1e9:,.1f} GB free"
