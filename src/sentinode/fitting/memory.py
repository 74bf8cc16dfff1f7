"""Memory that is kept once it was used: fresh pages cost a small network as much as its arithmetic."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Final

# Of glibc's malloc.h. Setting either ends its own guessing, so both are set.
_TRIM_THRESHOLD: Final = -1
_MAPPED_BLOCKS: Final = -4
_KEPT_BYTES: Final = 2**30


@cache
def keep_freed_memory() -> bool:
    """Ask the C library not to give freed blocks back to the system; returns whether it will, once a process.

    A training step allocates and frees the same blocks over and over, from kilobytes to the maps of a batch. By default
    glibc returns them each time, and the system hands out and clears every page anew. So all blocks come from the
    heap, none from mappings of their own, and its free end is given back beyond 1 GiB. No result changes. Without glibc
    nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_MAPPED_BLOCKS, 0))
