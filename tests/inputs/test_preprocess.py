"""Prepared pixels: the same wherever they are held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import make_patches
from sentinode.config.run import PreprocessConfig
from sentinode.data import patches as patches_module
from sentinode.inputs.preprocess import downsample, prepare


def test_many_pixels_lie_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, rows = make_patches(24), np.array([5, 1, 23, 7])
    in_memory = prepare(patches, rows, PreprocessConfig(), budget_mb=10, scratch=tmp_path / "cache")
    monkeypatch.setattr(patches_module, "_HELD_IN_MEMORY", 100)
    in_file = prepare(patches, rows, PreprocessConfig(), budget_mb=10, scratch=tmp_path / "cache")
    assert in_file.held is not None
    assert isinstance(in_file.held.base, np.memmap)
    assert in_memory.held is not None
    assert not isinstance(in_memory.held.base, np.memmap)
    assert np.array_equal(in_file.held, in_memory.held)
    assert in_file.held.flags.writeable  # PyTorch warns of arrays that are not
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_folder_for_them_they_are_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches_module, "_HELD_IN_MEMORY", 100)
    prepared = prepare(make_patches(4), np.arange(4), PreprocessConfig(), budget_mb=10)
    assert prepared.held is not None
    assert not isinstance(prepared.held.base, np.memmap)


@pytest.mark.parametrize("size_px", [96, 48, 32])
def test_what_is_prepared_is_never_the_patches_themselves(size_px: int) -> None:
    """They may be a memory map that nobody may write to; PyTorch warns of that."""
    patches = np.zeros((2, 96, 96, 3), np.uint8)
    patches.flags.writeable = False
    prepared = downsample(patches, PreprocessConfig(crop_px=96, size_px=size_px))
    assert prepared.flags.writeable
    assert not np.shares_memory(prepared, patches)
