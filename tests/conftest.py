"""Shared fixtures: a small phantom, and a tiny in-memory set of patches."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import hypothesis
import jaxtyping
import numpy as np
import pytest
from filelock import FileLock

if TYPE_CHECKING:  # what imports the package first checks its shapes
    from sentinode.config.run import RunConfig
    from sentinode.data.patches import PatchSet
    from sentinode.runs.material import Material
    from sentinode.session import Session

# Shapes in signatures are checked while the tests run; users pay nothing for them.
_CHECKED = [
    f"sentinode.{part}"
    for part in (
        "data",
        "audit",
        "phantom",
        "splits",
        "inputs",
        "inference",
        "fitting",
        "evaluation",
        "explain",
        "slides",
    )
]
_FIRST_CALLS = 50
_CALLS: Counter[Any] = Counter()
"""How often the test that runs now has called each function."""


def _names_a_shape(found: Any) -> bool:
    """Whether a function's or class's annotations, or those of the classes above it, name a shape, by any name."""
    for each in found.__mro__ if isinstance(found, type) else [found]:
        hints = inspect.get_annotations(each).values()
        known = vars(sys.modules[each.__module__])
        if any("jaxtyping" in repr(known.get(word)) for word in re.findall(r"\w+", " ".join(map(str, hints)))):
            return True
    return False


def _checked(**options: Any) -> Callable[[Any], Any]:
    """jaxtyping's decorator, without what costs most and tells nothing new.

    What names no array is left to mypy, and of a function that a test calls again and again, the first calls tell. The
    check of a function is made when it is first called, for most are called in one of the processes alone, or in none.
    """

    def decorate(found: Any) -> Any:
        if not _names_a_shape(found):
            return found
        if isinstance(found, type):
            return jaxtyped(**options)(found)
        checked = cache(lambda: jaxtyped(**options)(found))

        @wraps(found)
        def checked_at_first(*given: Any, **named: Any) -> Any:
            _CALLS[found] += 1
            return (checked() if _CALLS[found] <= _FIRST_CALLS else found)(*given, **named)

        return checked_at_first

    return decorate


# The process that shares the tests among others runs none, and needs nothing of the package.
_SHARES = "PYTEST_XDIST_WORKER" not in os.environ and any(w.startswith(("-n", "--numproc")) for w in sys.argv)
if not _SHARES:
    import torch

    jaxtyped = jaxtyping.jaxtyped
    jaxtyping.jaxtyped = _checked
    jaxtyping.install_import_hook(_CHECKED, "beartype.beartype")  # for good: much is imported in functions
    importlib.import_module("sentinode.api.study")

    torch.set_num_threads(1)  # tiny networks: more threads only wait for each other

_SHOWN: dict[str, str] = {}
_LONGEST_FIRST = (
    "engine/test_on_ray.py",
    "apps/test_cli.py",
    "evaluation/test_bootstrap.py",
    "report/pages/test_page.py",
    "fitting/test_chain.py",
    "test_real_sample.py",
    "api/test_study.py",
    "runs/test_evaluate.py",
    "test_processes.py",
    "apps/web/test_page.py",
    "engine/test_local.py",
    "test_notebook.py",
    "test_wheel.py",
    "runs/test_backbones.py",
    "studies/test_training.py",
    "audit/test_overlaps.py",
)


hypothesis.settings.register_profile("untimed", deadline=None)  # a machine may be busy: no test asserts a time
hypothesis.settings.load_profile("untimed")


def pytest_configure() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and so are its children; tests press Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest go first, for processes that share the files to end at nearly the same time."""
    here = Path(__file__).parent
    rank = {here / name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """What was imported stays until the end, and is no longer searched for garbage; the rest is more seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_setup() -> None:
    _CALLS.clear()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Say with which instructions of the processor the numbers were computed, to the process that shows it."""
    if _SHARES:
        return
    from sentinode.kernels.jit import processor

    name, features = processor()
    loops = "AVX-512" if "+avx512f" in features else "AVX2" if "+avx2" in features else "no AVX2"
    said = f"instructions: loops for {name} ({loops}), PyTorch {torch.backends.cpu.get_cpu_capability()}"
    getattr(session.config, "workeroutput", _SHOWN)["instructions"] = said


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of several has ended."""
    _SHOWN.update({"instructions": said} if (said := node.workeroutput.get("instructions")) else {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _SHOWN.values():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition folder of 240 synthetic patches from 8 slides; never written to, and of several processes one's."""
    from sentinode.phantom.phantom import write_phantom

    top = tmp_path_factory.getbasetemp()
    folder = (top.parent if "PYTEST_XDIST_WORKER" in os.environ else top) / "phantom" / "data"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        write_phantom(folder, patches=240, slides=8, seed=7, workers=1)  # unless it is there
    return folder


@pytest.fixture
def session(tmp_path: Path) -> Session:
    from sentinode.session import Session

    return Session(tmp_path / "cache", torch.device("cpu"), workers=1)


@pytest.fixture(scope="session", autouse=True)
def volatile() -> Iterator[None]:
    """Nothing waits for the disk: tests kill processes, whose writes outlive them, and cut no power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@contextmanager
def blank_figures() -> Iterator[None]:
    """Charts are laid out as ever, but not drawn, which takes half of a small study's time: where none is looked at."""

    def leave_blank(_: object, buffer: TextIO, **_options: object) -> None:
        buffer.write('<svg viewBox="0 0 1 1"></svg>')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.backends.backend_svg.FigureCanvasSVG.print_svg", leave_blank)
        yield


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Blank figures in all pages that the tests of a file write."""
    with blank_figures():
        yield


def make_patches(count: int = 96, *, slides: int = 6, seed: int = 0) -> PatchSet:
    """Noise whose centre is darker in positives: easy to learn; arrays of whoever asks, who may change them."""
    return deepcopy(_patches(count, slides, seed))


@lru_cache(maxsize=8)
def _patches(count: int, slides: int, seed: int) -> PatchSet:
    from sentinode.data.patches import PatchSet

    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int8)
    pixels = rng.integers(120, 255, (count, 96, 96, 3), dtype=np.uint8)
    pixels[labels == 1, 32:64, 32:64] //= 2
    names = np.array([f"s{i % slides}" for i in rng.permutation(count)])
    ids = np.array([f"patch{i:04d}" for i in range(count)])
    return PatchSet(ids, labels, names, np.full(count, "", dtype=str), pixels)


@pytest.fixture(scope="session")
def material() -> Material:
    from sentinode.runs.material import Material

    patches = make_patches()
    return Material(patches, patches.groups)


@pytest.fixture
def run_config() -> RunConfig:
    """Three quick epochs of the notebook's network."""
    from sentinode.config.presets import load_preset
    from sentinode.settings import override

    settings = {"fit.epochs": 3, "fit.batch_size": 16, "predict.views": 1, "fit.augment.stain_jitter": 0.1}
    return override(load_preset("fair").run_config(), settings)
