"""What the machine offers: threads that sleep when they wait, free processors, and places for files of one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sentinode import machine
from sentinode.device import use_threads
from sentinode.errors import ConfigError, SentinodeWarning
from sentinode.session import Session

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def told_by_openmp(code: str, **environment: str) -> dict[str, str]:
    """What PyTorch's OpenMP says of its settings when it is loaded after `code`."""
    library = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    clean = {name: value for name, value in os.environ.items() if name not in WAITING}
    code += f"; import ctypes, os; os.environ['OMP_DISPLAY_ENV'] = 'VERBOSE'; ctypes.CDLL({str(library)!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    pairs = (line.partition("=")[::2] for line in done.stderr.splitlines() if "=" in line)
    return {name.split()[-1]: value.strip(" '") for name, value in pairs}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PyTorch brings GNU's OpenMP on Linux only")
def test_threads_wait_passively_when_the_process_says_so_before_it_loads_pytorch() -> None:
    asked = "import sentinode; sentinode.wait_passively()"
    assert told_by_openmp(asked)["GOMP_SPINCOUNT"] == "5000"
    assert told_by_openmp("pass")["GOMP_SPINCOUNT"] != "5000"
    assert told_by_openmp(asked, OMP_WAIT_POLICY="ACTIVE")["OMP_WAIT_POLICY"] == "ACTIVE"


def test_what_comes_too_late_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    with pytest.warns(SentinodeWarning, match="came after `import torch`"):
        machine.wait_passively()
    assert not any(name in os.environ for name in WAITING)


@pytest.mark.parametrize(
    ("processors", "affinity", "load", "running", "free"),
    [
        (2, 2, 0.3, 1, 2),  # idle
        (2, 2, 1.9, 1, 2),  # a run of two threads has just ended
        (2, 2, 0.2, 3, 2),  # a moment's work
        (2, 2, 1.1, 2, 1),
        (2, 2, 9.0, 9, 1),  # never none
        (16, 16, 4.2, 6, 12),
        (16, 2, 4.2, 6, 2),  # the busy ones have place elsewhere
        (16, 1, 0.0, 1, 1),
    ],
)
def test_free_processors_are_those_that_nobody_else_keeps_busy(
    monkeypatch: pytest.MonkeyPatch, processors: int, affinity: int, load: float, running: int, free: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    read = Path.read_text
    told = {Path("/proc/loadavg"): f"{load} {load} {load} {running}/300 12345\n", Path("/proc/self/cgroup"): "0::/\n"}
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: told[self] if self in told else read(self, *a, **k))
    monkeypatch.setattr(machine, "_quota", lambda: float("inf"))
    assert machine.free_processors() == free


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),  # a container's own namespace
        ("0::/\n", {"cpu.max": "max 100000\n"}, float("inf")),
        ("0::/user/job\n", {"user/cpu.max": "200000 100000", "user/job/cpu.max": "max 100000"}, 2.0),
        ("3:cpu,x:/job\n", {"cpu/job/cpu.cfs_quota_us": "5000", "cpu/job/cpu.cfs_period_us": "10000"}, 0.5),
        ("3:cpu:/gone\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ("no line of a kind\n", {}, float("inf")),
    ],
)  # fmt: skip
def test_a_containers_quota_counts(tmp_path: Path, cgroup: str, files: dict[str, str], quota: float) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine._quota(tmp_path) == quota


def test_a_session_sets_the_threads_of_the_process(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        Session(tmp_path, torch.device("cpu"), threads=before + 1)
        assert torch.get_num_threads() == before + 1
        Session(tmp_path, torch.device("cpu"))
        assert torch.get_num_threads() == before + 1
    finally:
        use_threads(before)
    with pytest.raises(ConfigError, match="0 threads"):
        Session(tmp_path, torch.device("cpu"), threads=0)


def test_the_variable_names_the_cache_of_the_library_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SENTINODE_CACHE", str(tmp_path / "mine"))
    assert Session().cache_root == tmp_path / "mine"
    monkeypatch.setenv("SENTINODE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.default_cache() == tmp_path / "sentinode"


@pytest.mark.parametrize("home", [None, "~/.cache/sentinode", "/proc/none/sentinode"])  # two of none, one read-only
def test_without_a_home_the_cache_is_temporary_and_said_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str | None
) -> None:
    def cache_of(*_: object, **__: object) -> str:
        if home is None:
            raise RuntimeError("could not determine the home directory")
        return home

    monkeypatch.delenv("SENTINODE_CACHE", raising=False)
    monkeypatch.setattr(machine.platformdirs, "user_cache_dir", cache_of)
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).startswith("/proc"))
    with pytest.warns(SentinodeWarning, match="SENTINODE_CACHE"):
        place = machine.default_cache()
    assert place.parent == tmp_path
    assert place.stat().st_mode & 0o777 == 0o700
    with pytest.warns(SentinodeWarning):
        assert machine.default_cache() == place


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has a temporary folder for each user")
@pytest.mark.parametrize("planted", ["open to all", "a link"])
def test_what_others_may_have_put_into_the_temporary_folder_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planted: str
) -> None:
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path))
    place = tmp_path / f"sentinode-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    if planted == "a link":
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    other = machine.private_temporary_folder()
    assert other not in (place, tmp_path / "elsewhere")
    assert other.stat().st_mode & 0o777 == 0o700
