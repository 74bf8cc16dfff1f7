"""What a result was computed with, asked without leaving a trace."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import torch

import sentinode
from sentinode.runs import environment


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that holds a file of the package's name, as its own does."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "errors.py").write_text("one")
    git(tmp_path, "add", "errors.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    environment._git_state.cache_clear()
    return tmp_path


def test_the_state_of_the_code_is_asked_without_writing_into_its_checkout(checkout: Path) -> None:
    """A file that was only touched makes `git status` write a new index, unless it is told not to."""
    os.utime(checkout / "errors.py", (1_000_000_000, 1_000_000_000))
    index = checkout / ".git" / "index"
    before = index.stat().st_mtime_ns, index.read_bytes()
    assert environment._git_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    assert (index.stat().st_mtime_ns, index.read_bytes()) == before
    git(checkout, "status")
    assert index.read_bytes() != before[1]


def test_changed_code_is_dirty_and_an_installed_copy_has_no_state(checkout: Path, tmp_path: Path) -> None:
    (checkout / "errors.py").write_text("two")
    assert environment._git_state(checkout)["dirty"]
    environment._git_state.cache_clear()
    (tmp_path / "elsewhere").mkdir()
    assert environment._git_state(tmp_path / "elsewhere") is None


def test_versions_and_threads_are_told() -> None:
    told = environment.describe_environment(torch.device("cpu"))
    assert told["sentinode"] == sentinode.__version__
    assert told["torch_threads"] == torch.get_num_threads()
    assert told["libraries"]["torch"] == metadata.version("torch")
