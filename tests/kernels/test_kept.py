"""Compiled loops are kept for the code, the compiler and the processor that they are of, and for no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest

import sentinode
from sentinode.kernels import jit

PACKAGE = Path(sentinode.__file__).parent
CALLEE = """
from sentinode.kernels.jit import compiled
@compiled
def factor(x):
    return {number} * x
"""
CALLER = """
from sentinode.kernels.callee import factor
from sentinode.kernels.jit import compiled
@compiled
def scaled(x):
    return factor(x)
"""
ASK = "from sentinode.kernels.caller import scaled; print(scaled(2.0), sum(scaled.stats.cache_hits.values()))"

TOGETHER = """
import numpy as np
from sentinode.kernels.cross_entropy import cross_entropy
print("ready", flush=True)
input()
cross_entropy(*np.ones((4, 8), np.float32))
print(*(sum(found.values()) for found in (cross_entropy.stats.cache_hits, cross_entropy.stats.cache_misses)))
"""


def ask(package: Path) -> tuple[float, int]:
    """What the function of a copied package says, and how often it was found compiled."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment = {**clean, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    value, hits = done.stdout.split()
    return float(value), int(hits)


def test_a_loop_whose_callee_in_another_file_was_edited_is_compiled_anew(tmp_path: Path) -> None:
    """Numba alone looks at the caller's file, and would go on with the old callee that it holds."""
    package = tmp_path / "sentinode"
    (package / "kernels").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "machine.py", "kernels/__init__.py", "kernels/jit.py"):
        shutil.copyfile(PACKAGE / name, package / name)
    (package / "kernels/caller.py").write_text(CALLER)
    (package / "kernels/callee.py").write_text(CALLEE.format(number=3.0))
    assert ask(package) == (6.0, 0)
    assert ask(package) == (6.0, 1)
    (package / "kernels/callee.py").write_text(CALLEE.format(number=5.0))
    assert ask(package) == (10.0, 0)


def test_processes_that_begin_together_compile_a_loop_once(tmp_path: Path) -> None:
    """Each says when it begins to compile and when it ends; the other waits meanwhile, and finds it kept."""
    command = [sys.executable, "-c", TOGETHER]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n", timeout=60)[0].split() for process in started]
    assert sorted(said) == [["0", "1"], ["1", "0"]]  # found kept, compiled


def test_the_name_of_the_folder_holds_sources_versions_and_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text("a = 1")
    (tmp_path / "b.py").write_text("b = 2")
    names = {first := jit._digest(tmp_path)}
    assert jit._digest(tmp_path) == first
    (tmp_path / "b.py").write_text("b = 3")
    names.add(jit._digest(tmp_path))
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    names.add(jit._digest(tmp_path))
    for changed, value in (("CPU_NAME", "another"), ("CPU_FEATURES", "+sse4.2")):
        monkeypatch.setitem(vars(numba.config), changed, value)
        names.add(jit._digest(tmp_path))
    monkeypatch.setattr(numba, "__version__", "0.0")
    names.add(jit._digest(tmp_path))
    monkeypatch.setattr(jit.llvmlite, "__version__", "0.0")
    names.add(jit._digest(tmp_path))
    assert len(names) == 7


def test_features_decide_the_width_of_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(numba.config), "CPU_FEATURES", "+avx512f,-sse4a")
    assert jit.has_feature("avx512f")
    assert not jit.has_feature("sse4a")
    monkeypatch.setitem(vars(numba.config), "CPU_FEATURES", "")  # what Numba makes of the processor "generic"
    assert not jit.has_feature("avx512f")


@pytest.mark.parametrize("home", [True, False])
def test_a_package_that_cannot_be_written_keeps_them_with_the_user_or_in_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: bool
) -> None:
    (tmp_path / "package").write_text("no folder can be made in a file")
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "package" / "jit.py"))
    monkeypatch.setitem(vars(numba.config), "CACHE_DIR", "")
    monkeypatch.setattr(jit, "user_cache", lambda: tmp_path / "home" if home else None)
    monkeypatch.setattr(jit, "private_temporary_folder", lambda: tmp_path / "temporary")
    folder = jit._folder.__wrapped__()
    assert folder.is_dir()
    assert folder.parent == tmp_path / ("home" if home else "temporary")


def test_only_what_nobody_used_for_a_month_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = time.time()
    for name, days in (("loops-old", 31), ("loops-new", 29), ("another", 300)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (now - days * 86_400,) * 2)
    monkeypatch.setitem(vars(numba.config), "CACHE_DIR", str(tmp_path))
    folder = jit._folder.__wrapped__()
    assert {path.name for path in tmp_path.iterdir()} == {"loops-new", "another", folder.name}


def test_without_a_folder_for_compiled_code_it_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def njit(*, cache: bool = False, **options: object) -> object:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert jit.compiled(ask) is ask
    assert asked == [True, False]
    monkeypatch.setattr(jit, "_folder", lambda: None)
    assert jit.compiled(ask) is ask
    assert asked == [True, False, False]
