"""Loops over pixels compiled for this machine's processor by Numba, in as many threads as PyTorch has.

A loop is compiled when it is first called and kept on disk. Sums are formed patch by patch and joined in the patches'
order, so no result depends on the number of threads.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import llvmlite
import numba
from filelock import FileLock
from llvmlite import binding
from numba.core.compiler_lock import global_compiler_lock

from sentinode.machine import private_temporary_folder, user_cache

Function = TypeVar("Function", bound=Callable[..., Any])

# What the compiler may do to an expression: fuse a product with its sum, forget the sign of zero. It may not reorder
# sums, and NaN stays NaN, for training tells by it that it has diverged.
_FAST_MATHS: Final = {"contract", "nsz"}
# Of all that Numba could turn into parallel loops, only those that say so.
_ONLY_PRANGE: Final = {
    **dict.fromkeys(("comprehension", "numpy", "reduction", "setitem", "stencil", "fusion"), False),
    "prange": True,
}
_NAME: Final = "loops-"
_KEPT_DAYS: Final = 30
_SECONDS_A_DAY: Final = 86_400
_PATIENCE_S: Final = 120.0  # several times what the largest loop takes

_settings: Final[dict[str, Any]] = vars(numba.config)
# As many as Numba may ever start: those of the machine, unless the environment asks for fewer.
_LAUNCHED_THREADS: Final[int] = _settings["NUMBA_NUM_THREADS"]


def compiled(function: Function) -> Function:
    """A loop within one thread."""
    return _compiled(function)


def parallel(function: Function) -> Function:
    """A function whose `prange` loops are shared among threads; call `share_threads` before it."""
    return _compiled(function, parallel=_ONLY_PRANGE)


def share_threads() -> None:
    """Let compiled loops use as many threads as PyTorch's operations use now."""
    import torch

    _launch()
    numba.set_num_threads(min(torch.get_num_threads(), _LAUNCHED_THREADS))


@cache
def _launch() -> None:
    """Start Numba's threads: it tells OpenMP their number, and PyTorch, which shares OpenMP, would take it over."""
    import torch

    threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(threads)


def processor() -> tuple[str, tuple[str, ...]]:
    """The processor that loops are compiled for, and its features, those that are switched off with a minus.

    The machine's own, unless `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` name others.
    """
    name, features = _settings["CPU_NAME"], _settings["CPU_FEATURES"]
    if features is None:
        features = binding.get_host_cpu_features().flatten()
    return name or binding.get_host_cpu_name(), tuple(sorted(filter(None, features.split(","))))


def has_feature(feature: str) -> bool:
    """Whether loops are compiled for a processor that has it, such as "avx512f"."""
    return f"+{feature}" in processor()[1]


def _compiled(function: Function, **options: Any) -> Function:
    options = {"fastmath": _FAST_MATHS, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, **options}
    folder = _folder()
    if folder is None:
        alone: Function = numba.njit(**options)(function)
        return alone
    before = _settings["CACHE_DIR"]
    _settings["CACHE_DIR"] = str(folder)  # where Numba looks first, at this moment
    try:
        kept: Function = numba.njit(cache=True, **options)(function)
        _compile_in_turn(kept, folder)
    except RuntimeError:  # it cannot be written after all
        kept = numba.njit(**options)(function)
    finally:
        _settings["CACHE_DIR"] = before
    return kept


def _compile_in_turn(function: Any, folder: Path) -> None:
    """Whoever needs a loop that another process is compiling waits for it, and finds it kept.

    Processes that begin together, such as those of a training on several GPUs, would else each compile all of it.
    """
    name = f"{function.py_func.__module__}.{function.py_func.__name__}.lock"
    compile_it, lock = function.compile, FileLock(folder / name, timeout=_PATIENCE_S, thread_local=False)

    def in_turn(signature: Any) -> Any:
        # The compiler's own lock first, as within a loop's callers: two threads never wait for each other.
        with ExitStack() as held:
            held.enter_context(global_compiler_lock)
            with suppress(OSError, NotImplementedError):  # no locks there, or a lost one: everyone compiles
                held.enter_context(lock)
            return compile_it(signature)

    function.compile = in_turn


@cache
def _folder() -> Path | None:
    """Where this code for this processor is kept; None where nothing can be.

    Numba's own file of a function names the source file that it stands in. That is too little: a function may hold
    what others of its package were compiled to, and it knows neither what they say now nor the compiler's new version.
    So the folder names all of it.
    """
    name = _NAME + _digest(Path(__file__).parent)
    places: list[Callable[[], Path | None]] = [
        lambda: Path(_settings["CACHE_DIR"]) if _settings["CACHE_DIR"] else None,
        lambda: Path(__file__).parent / "__pycache__",
        user_cache,
        private_temporary_folder,
    ]
    for place in places:
        try:
            parent = place()
            if parent is None:
                continue
            fresh = not (parent / name).is_dir()
            (parent / name).mkdir(parents=True, exist_ok=True)
            os.utime(parent / name)  # used now; fails where it is another user's
            if os.access(parent / name, os.W_OK | os.X_OK):
                if fresh:
                    _remove_unused(parent)
                return parent / name
        except OSError:
            continue
    return None


def _digest(sources: Path) -> str:
    """One name for all that compiled code depends on: every source, compiler, interpreter, processor."""
    seen = hashlib.sha256()
    versions = (
        numba.__version__,
        llvmlite.__version__,
        sys.implementation.cache_tag,
        *processor()[:1],
        *processor()[1],
    )
    for part in versions:
        seen.update(f"{part}\n".encode())
    for path in sorted(sources.glob("*.py")):
        text = path.read_bytes()
        seen.update(f"{path.name} {len(text)}\n".encode() + text)
    return seen.hexdigest()[:16]


def _remove_unused(parent: Path) -> None:
    """Remove the compiled code of other sources, versions and processors that nobody has used for a month."""
    import shutil

    for folder in parent.glob(f"{_NAME}*"):
        if folder.stat().st_mtime < time.time() - _KEPT_DAYS * _SECONDS_A_DAY:
            shutil.rmtree(folder, ignore_errors=True)
