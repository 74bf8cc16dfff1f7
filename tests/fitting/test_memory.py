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

def fresh_pages():
    for step in range(20):
        if step == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.full((int(sys.argv[1]), 1000), 1.0) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
print(fresh_pages())
assert keep_freed_memory()
print(fresh_pages())
"""


def fresh_pages(thousands: int) -> list[int]:
    """In 10 steps with blocks of so many thousand floats, as it is and with memory kept.

    The thresholds are those that glibc starts with, before it guesses better ones.
    """
    start = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", STEPS, str(thousands)]
    said = subprocess.run(command, env=os.environ | start, capture_output=True, text=True, check=True).stdout
    return [int(word) for word in said.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
@pytest.mark.parametrize("thousands", [1000, 9000])  # 4 MB, and more than glibc's largest threshold of 32 MB
def test_steps_that_repeat_touch_no_fresh_pages(thousands: int) -> None:
    default, kept = fresh_pages(thousands)
    # By default every page of every block is fresh, anew in every step.
    assert default > 10 * 4 * 0.9 * thousands * 4000 / os.sysconf("SC_PAGESIZE")
    assert kept < 100
