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

def fresh_pages(thousands):
    for step in range(20):
        if step == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.full((thousands, 1000), 1.0) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
sizes = [int(word) for word in sys.argv[1:]]
print(*map(fresh_pages, sizes))
assert keep_freed_memory()
print(*map(fresh_pages, sizes))
"""


THOUSANDS = (1000, 9000)  # floats: 4 MB, and more than glibc's largest threshold of 32 MB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_steps_that_repeat_touch_no_fresh_pages() -> None:
    """The thresholds are those that glibc starts with, before it guesses better ones."""
    start = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", STEPS, *map(str, THOUSANDS)]
    said = subprocess.run(command, env=os.environ | start, capture_output=True, text=True, check=True).stdout
    by_default, with_memory_kept = ([int(word) for word in line.split()] for line in said.splitlines())
    for thousands, default, kept in zip(THOUSANDS, by_default, with_memory_kept, strict=True):
        # By default every page of every block is fresh, anew in every step.
        assert default > 10 * 4 * 0.9 * thousands * 4000 / os.sysconf("SC_PAGESIZE")
        assert kept < 100
