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
from sentinode.inference.device import choose_device
from sentinode.models.pretrained import PACKAGES

_LIBRARIES: Final = (
    "torch", "numpy", "numba", "pandas", "scipy", "scikit-learn", "pydantic", "optuna", "safetensors", "pillow", "h5py",
    "matplotlib", "jinja2",
)  # fmt: skip
_EXTRAS: Final = {"zoo": ("torchvision", "timm", *(name.replace("-", "_") for name in PACKAGES.values()))}


def examine(cache_root: Path) -> list[list[str]]:
    """Rows of what and found: versions, device, threads, free disk, and what each extra lacks."""
    rows = [
        ["sentinode", sentinode.__version__],
        ["python", f"{platform.python_version()} on {platform.platform()}"],
        *([name, metadata.version(name)] for name in _LIBRARIES),
        ["device", str(choose_device("auto"))],
        ["cuda", "available" if torch.cuda.is_available() else "not available"],
        ["mps", "available" if torch.backends.mps.is_available() else "not available"],
        ["threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"],
        ["cache", _disk(cache_root)],
    ]
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        install = f"missing {', '.join(missing)}: pip install 'sentinode[{extra}]'"
        rows.append([f"extra {extra}", install if missing else "installed"])
    return rows


def _disk(folder: Path) -> str:
    existing = next(place for place in [folder, *folder.parents] if place.exists())
    return f"{folder}, {shutil.disk_usage(existing).free / 1e9:,.1f} GB free"
