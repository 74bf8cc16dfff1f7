"""What a result was computed with: versions, commit, machine, threads."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel

import sentinode
from sentinode.evaluation.clusters import ClusterKind
from sentinode.machine import processor_name
from sentinode.records import read_record, write_record

_LIBRARIES = ("torch", "numpy", "numba", "pandas", "scikit-learn", "scipy", "pillow", "h5py", "optuna", "safetensors")


class TeacherRecord(BaseModel, extra="forbid", frozen=True):
    """What a teacher contributed: unlabelled patches that joined, by the label it gave them, and those that did not."""

    teacher: str
    teacher_sha256: str
    calibration: Literal["temperature", "none"]
    confidence: float | None
    """Lowest probability of a hard label; None where labels are soft."""
    share: float | None
    """Its share in the target of a labelled patch; None where labels are hard."""
    positive: int
    negative: int
    left_out: dict[str, int]
    table_sha256: str = ""
    """Of teacher.csv, the patches themselves."""

    @property
    def joined(self) -> int:
        """Unlabelled patches that joined training."""
        return self.positive + self.negative


class _Environment(BaseModel, extra="allow"):
    """What others read of a run's environment.json; more stands there."""

    clusters: ClusterKind
    notices: list[str]
    split: str
    teacher: TeacherRecord | None = None


def read_environment(path: Path) -> dict[str, Any]:
    """A run's environment.json, in plain types; raises RunError where it is none."""
    found = read_record(path, _Environment).model_dump()
    absent = {"version"} | ({"teacher"} if found["teacher"] is None else set())
    return {name: value for name, value in found.items() if name not in absent}


def write_environment(path: Path, environment: Mapping[str, Any]) -> None:
    """Save what `read_environment` gives."""
    write_record(path, _Environment(**environment))


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, git commit of the code (and whether it was changed), machine, device and threads."""
    return {
        "sentinode": sentinode.__version__,
        "git": _git_state(Path(sentinode.__file__).parent),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "platform": platform.platform(),
        "processor": processor_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type,
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _git_state(package: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that holds this code; None where it is an installed copy.

    Asked once a process: a long study goes on with the code that it has loaded, whatever is committed meanwhile.
    """

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "errors.py")  # not tracked: another project's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None
