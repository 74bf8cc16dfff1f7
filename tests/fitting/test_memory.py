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
    blocks = [torch.full((1000, 1000), 1.0) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def fresh_pages(mode: str) -> int:
    """In 40 steps, where glibc starts from its documented thresholds, before it guesses better ones."""
    start = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", STEPS, mode]
    return int(subprocess.run(command, env=os.environ | start, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_steps_that_repeat_touch_no_fresh_pages() -> None:
    assert fresh_pages("default") > 40 * 4 * 900  # every page of every block, anew in every step
    assert fresh_pages("keep") < 400
