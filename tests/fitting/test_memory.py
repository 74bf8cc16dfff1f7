"""Freed memory stays with the process: a step that repeats asks the system for no new pages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from sentinode.fitting.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
for step in range(60):
    if step == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.full((int(sys.argv[2]), 1000), 1.0) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def fresh_pages(mode: str, thousands: int) -> int:
    """In 40 steps with blocks of so many thousand floats, before glibc guesses better thresholds than its own."""
    start = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", STEPS, mode, str(thousands)]
    return int(subprocess.run(command, env=os.environ | start, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
@pytest.mark.parametrize("thousands", [1000, 10_000])  # 4 MB, and more than glibc's largest threshold of 32 MB
def test_steps_that_repeat_touch_no_fresh_pages(thousands: int) -> None:
    # By default every page of every block is fresh, anew in every step.
    assert fresh_pages("default", thousands) > 40 * 4 * 0.9 * thousands * 4000 / os.sysconf("SC_PAGESIZE")
    assert fresh_pages("keep", thousands) < 400
