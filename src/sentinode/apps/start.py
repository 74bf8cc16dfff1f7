"""What the command line does before anything else: how threads wait, what the environment may not break, streams."""

from __future__ import annotations

import io
import os
import sys
from typing import Final

from sentinode.machine import private_temporary_folder, user_cache, wait_passively

# For other programs than this one, whose values would break the libraries or change what they draw: a notebook's kernel
# names a backend that only it has, and the pages need none; some of the loops are written in the compiler's own terms
# and cannot do without it.
_NOT_OURS: Final = ("MPLBACKEND", "MATPLOTLIBRC", "NUMBA_DISABLE_JIT")
_COUNTS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def _open_what_is_closed() -> None:
    """Let closed standard streams lead nowhere, or the next file to be opened would become one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def prepare_process() -> None:
    """Set up this process for the libraries, none of which may be loaded yet, and for any character in a name."""
    _open_what_is_closed()
    wait_passively()
    for name in _NOT_OURS:
        os.environ.pop(name, None)
    for name in _COUNTS:  # set to nothing, or to a word: each library would complain in its own way
        if not os.environ.get(name, "1").replace(",", "").isdecimal():
            del os.environ[name]
    if user_cache() is None:  # matplotlib would make a new temporary folder each time, and say so
        os.environ.setdefault("MPLCONFIGDIR", str(private_temporary_folder()))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that it cannot show, or no character, is spelled out
            stream.reconfigure(errors="backslashreplace")
