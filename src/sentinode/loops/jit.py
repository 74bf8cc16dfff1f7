"""Loops over pixels compiled for this machine's processor by Numba, in as many threads as PyTorch has.

A loop is compiled when it is first called and kept on disk beside its source, or in the user's cache folder. Sums
are formed patch by patch and joined in the patches' order, so no result depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

import numba
import torch

Function = TypeVar("Function", bound=Callable[..., Any])

# What the compiler may do to an expression: fuse a product with its sum, forget the sign of zero. It may not reorder
# sums, and NaN stays NaN, for training tells by it that it has diverged.
_FAST_MATHS: Final = {"contract", "nsz"}
# Of all that Numba could turn into parallel loops, only those that say so.
_ONLY_PRANGE: Final = {
    **dict.fromkeys(("comprehension", "numpy", "reduction", "setitem", "stencil", "fusion"), False),
    "prange": True,
}


# As many as Numba may ever start: those of the machine, unless the environment asks for fewer.
_LAUNCHED_THREADS: Final[int] = vars(numba.config)["NUMBA_NUM_THREADS"]


def compiled(function: Function) -> Function:
    """A loop within one thread."""
    return _compiled(function)


def parallel(function: Function) -> Function:
    """A function whose `prange` loops are shared among threads; call `share_threads` before it."""
    return _compiled(function, parallel=_ONLY_PRANGE)


def share_threads() -> None:
    """Let compiled loops use as many threads as PyTorch's operations use now."""
    _launch()
    numba.set_num_threads(min(torch.get_num_threads(), _LAUNCHED_THREADS))


@cache
def _launch() -> None:
    """Start Numba's threads: it tells OpenMP their number, and PyTorch, which shares OpenMP, would take it over."""
    threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(threads)


def _compiled(function: Function, **options: Any) -> Function:
    options = {"fastmath": _FAST_MATHS, "nogil": True, "error_model": "numpy", **options}
    try:
        kept: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        kept = numba.njit(**options)(function)
    return kept
