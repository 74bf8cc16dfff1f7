"""Memory that is kept once it was used: fresh pages cost a small network as much as its arithmetic."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Final

# Of glibc's malloc.h. Setting either ends its own guessing, so both are set.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 2**30
_LARGEST_BLOCK_BYTES: Final = 2**25  # the most that glibc takes; larger blocks are mapped and given back as before


@cache
def keep_freed_memory() -> bool:
    """Ask the C library not to give freed blocks back to the system; returns whether it will, once a process.

    A training step of a small network allocates and frees the same few megabytes over and over. By default
    glibc returns them each time, and the system hands out and clears every page anew. Nothing else changes:
    no result, and at most 1 GiB stays with the process. Without glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES))
