"""What the machine at hand offers: threads that wait without spinning, processors that are free, places for files.

Of all modules below `apps/` this one alone reads the environment: where a cache lies and how threads wait are facts of
the machine and its user, wanted by the library as by the command line, and no result depends on them, rounding apart.
"""

from __future__ import annotations

import math
import os
import platform
import stat
import sys
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import platformdirs

from sentinode.errors import MissingExtraError, SentinodeWarning

# GNU's OpenMP, which PyTorch and Numba bring, reads the first two; LLVM's and Intel's the first and the last. 5,000
# turns of a loop bridge the gaps between a training's steps on an idle machine; without any it was a fifth slower.
_PASSIVE: Final = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "0"}
_READERS: Final = ("torch", "sklearn")


def wait_passively() -> None:
    """Let threads that wait sleep after a moment, unless the environment already says how they wait.

    By default, OpenMP threads wait in a busy loop. Beside other busy programs they then keep each other from working,
    and a step takes ten times as long. The libraries read the setting when they are loaded, so call this before `torch`
    is imported, as the command line does; later it has no effect, and a SentinodeWarning says so. Child processes
    inherit it.
    """
    if any(name in os.environ for name in _PASSIVE):
        return
    if loaded := [name for name in _READERS if name in sys.modules]:
        text = f"wait_passively() came after `import {loaded[0]}` and changes nothing; call it first"
        warnings.warn(SentinodeWarning(text), stacklevel=2)
        return
    os.environ.update(_PASSIVE)


def free_processors() -> int:
    """How many processors this process may use and nobody else keeps busy now; at least one.

    What it may use is its affinity and its container's quota. Of the others' programs only those count that want to
    run now and did over the last minute, so neither a run that has just ended nor a moment's work takes a thread.
    """
    total = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return max(1, math.ceil(min(allowed, _quota(), total - round(_busy_beside_us()))))


def _busy_beside_us() -> float:
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return 0.0
    try:
        running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0]
        return min(load, int(running) - 1)
    except (OSError, ValueError, IndexError):
        return load


def _quota(root: Path = Path("/")) -> float:
    """Processors' worth of time that control groups grant this process; infinite where they say nothing."""
    found = [math.inf]
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return math.inf
    for line in lines:
        controllers, _, own = line.partition(":")[2].partition(":")
        mount = root / "sys/fs/cgroup"
        if controllers:
            if "cpu" not in controllers.split(","):
                continue
            mount /= "cpu"
        # A group's parents bind it too. Within a container its own path may not be there, but the mount is its group.
        place = Path(own.lstrip("/"))
        for group in (mount / place, *(mount / parent for parent in place.parents), mount):
            found.append(_quota_of(group))
    return min(found)


def _quota_of(group: Path) -> float:
    try:
        if (group / "cpu.max").is_file():  # version 2: "max 100000" or "150000 100000"
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):  # none, or "max"
        return math.inf


@cache
def _of_processor(what: str) -> str | None:
    """What Linux tells of it; None elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(what):
                return line.partition(":")[2].strip()
    return None


def processor_name() -> str:
    """What the system calls the processor."""
    return _of_processor("model name") or platform.processor() or platform.machine()


def may_have_avx512() -> bool:
    """Whether libraries may compute 16 numbers at once, whatever some of them are told to use; True where unknown."""
    flags = _of_processor("flags")
    return "avx512f" in flags if flags is not None else platform.machine().lower() in ("x86_64", "amd64")


def give_way() -> None:
    """Let this process have what all others leave of the processors, from now on, its threads too."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        kernel.SetPriorityClass(kernel.GetCurrentProcess(), 0x40)  # IDLE_PRIORITY_CLASS
        return
    os.nice(19)  # Linux's idle class made patches no faster, and beside other busy programs the work stood still


def optional_module(name: str, *, what: str, extra: str) -> Any:
    """A module of an optional dependency, imported now; `what` it does is what MissingExtraError says is missing."""
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # OSError: a binding without its library
        raise MissingExtraError(
            f"{what} needs {name}, which is not installed", remedy=f"Run: pip install 'sentinode[{extra}]'"
        ) from error


def default_cache() -> Path:
    """Where packed patches are kept: `SENTINODE_CACHE`, else the user's cache folder, else a temporary one.

    The last, with a SentinodeWarning, where the user has no home or may not write there, as in many containers.
    """
    given = os.environ.get("SENTINODE_CACHE")
    if given:
        return Path(given)
    own = user_cache()
    if own is not None:
        return own
    place = private_temporary_folder()
    text = f"this user has no cache folder that can be written: {place} is used. Set SENTINODE_CACHE to keep one"
    warnings.warn(SentinodeWarning(text), stacklevel=2)
    return place


def user_cache() -> Path | None:
    """sentinode's folder in the user's cache; None where it cannot be written."""
    try:
        place = Path(platformdirs.user_cache_dir("sentinode", appauthor=False))
    except RuntimeError:  # no home, and no user of this number who could have one
        return None
    if not place.is_absolute():  # older releases leave the "~"
        return None
    try:
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
    except (OSError, StopIteration):
        return None
    return place if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else None


def private_temporary_folder() -> Path:
    """A folder in the system's temporary one that only this user can read or write; the same for all its processes.

    Others may write beside it, so what is found under its name is used only if it is this user's alone.
    """
    if not hasattr(os, "getuid"):  # Windows: the temporary folder is the user's own
        place = Path(tempfile.gettempdir()) / "sentinode"
        place.mkdir(exist_ok=True)
        return place
    place = Path(tempfile.gettempdir()) / f"sentinode-{os.getuid()}"
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        found = place.lstat()
        if not (stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077):
            return Path(tempfile.mkdtemp(prefix="sentinode-"))
    return place


def environment_of(threads: int) -> dict[str, str]:
    """The environment of a process that is begun to compute in so many threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def keep_ray_to_itself(*, loopback: bool) -> None:
    """Let Ray, which reads this when it is imported, report nothing home; with `loopback`, listen on the loopback only.

    By itself it listens on every address of the machine, whatever address a node is given. The variable is meant for
    systems on which Ray makes no clusters.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if loopback:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
