"""Contenders in turn, their rates and the ratios of neighbours, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from blocks import READY

if TYPE_CHECKING:
    from sentinode.config.run import RunConfig
    from sentinode.engine.engine import Engine
    from sentinode.engine.task import EngineTask
    from sentinode.runs.material import Material

HERE = Path(__file__).parent
OURS = sys.executable
PEERS = str(HERE / "peers" / ".venv" / "bin" / "python")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The options of `sentinode` that say who trains many runs."""
    parser.add_argument("--engine", default="here", help="here, local, ray or ray://HOST:PORT")
    parser.add_argument("--processes", type=int, help="with --engine: most at a time")
    parser.add_argument("--address", help="with --engine ray: join the Ray cluster there")


def asked_engine(asked: argparse.Namespace) -> Engine | None:
    """The engine that those options name."""
    from sentinode.apps.options import engine_of
    from sentinode.device import choose_device

    return engine_of(asked.engine, asked.processes, asked.address, choose_device("auto"))


def train_many(asked: Iterable[tuple[Material, RunConfig, Path]], engine: Engine) -> None:
    """Have an engine train what is not finished of runs in folders; raises TasksError where some could not be."""
    from sentinode.engine.engine import Watch, in_sight, require_done
    from sentinode.models.own import NONE
    from sentinode.progress import ALL_RUNS
    from sentinode.runs.run import is_finished
    from sentinode.runs.tasks import RunTasks

    makers: dict[int, tuple[RunTasks, Material]] = {}
    left = [each for each in asked if not is_finished(each[2])]

    def tasks() -> Iterator[EngineTask]:
        for material, config, folder in left:
            if id(material) not in makers:
                makers[id(material)] = RunTasks(material, NONE), material
            yield makers[id(material)][0].task(folder, config)

    if left:
        outcomes = engine.run(tasks(), Watch(ALL_RUNS, notify=lambda text: print(text, file=sys.stderr)))
        require_done(map(in_sight, outcomes), where=left[0][2].parent)


class Contender(Protocol):
    """One side of a benchmark, between its start and its end."""

    def __enter__(self) -> Contender: ...

    def __exit__(self, *_: object) -> None: ...

    def measure(self) -> float: ...


def environment(threads: int, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of every contender: so many threads, no GPU, the way to `blocks`; variables set to "" are taken out."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    every = {**os.environ, **counts, **quiet, "PYTHONPATH": str(HERE), **(variables or {})}
    return {name: value for name, value in every.items() if value or name not in (variables or {})}


class Server:
    """A script that stays alive between its blocks, so that it starts and warms up once; see `blocks.py`."""

    def __init__(
        self, python: str, script: str, *options: object, threads: int, variables: Mapping[str, str] | None = None
    ) -> None:
        self._command = [python, str(HERE / script), *map(str, options), "--threads", str(threads)]
        self._environment = environment(threads, variables)

    def __enter__(self) -> Server:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=self._environment,
            text=True,
        )
        if self._answer() != READY:
            raise RuntimeError(f"{self._command[1]} did not say that it was ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input ends it
        self._errors.close()

    def measure(self) -> float:
        """Patches a second of one block."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self._command[1]} ended:\n{self._errors.read()[-3000:]}")
        return json.loads(line)


class Command:
    """A command that is run anew each time; it finds its input at an end."""

    def __init__(self, *command: object, threads: int, before: Callable[[], None] = lambda: None) -> None:
        self._command, self._environment = [str(part) for part in command], environment(threads)
        self._before = before

    def __enter__(self) -> Command:
        self.measure()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def measure(self) -> float:
        """Seconds from start to end."""
        self._before()
        started = time.perf_counter()
        done = subprocess.run(
            self._command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self._environment
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"{' '.join(self._command)} failed:\n{done.stderr[-3000:]}")
        return seconds


@dataclass(frozen=True)
class Benchmark:
    """A question and who answers it: sentinode first, then its peers."""

    name: str
    unit: str
    more_is_better: bool
    contenders: dict[str, Contender]


def summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "values": list(values),
    }


def run(benchmark: Benchmark, rounds: int) -> dict[str, Any]:
    """All contenders in turn, round after round, and how many times as fast as each peer sentinode was in a round."""
    measured: dict[str, list[float]] = {name: [] for name in benchmark.contenders}
    with ExitStack() as alive:
        for contender in benchmark.contenders.values():
            alive.enter_context(contender)
        for _ in range(rounds):
            for name, contender in benchmark.contenders.items():
                measured[name].append(contender.measure())
    ours, *peers = measured
    ratios = {
        peer: [
            us / them if benchmark.more_is_better else them / us
            for us, them in zip(measured[ours], measured[peer], strict=True)
        ]
        for peer in peers
    }
    return {
        "name": benchmark.name,
        "unit": benchmark.unit,
        "contenders": {name: summary(values) for name, values in measured.items()},
        "times_as_fast": {name: summary(values) for name, values in ratios.items()},
    }


def table(result: dict[str, Any]) -> str:
    """A result as a Markdown table."""

    def cell(numbers: dict[str, Any] | None) -> str:
        if numbers is None:
            return ""
        digits = ",.0f" if numbers["median"] >= 100 else ".1f" if numbers["median"] >= 10 else ".2f"
        median, least, most = (format(numbers[key], digits) for key in ("median", "least", "most"))
        return f"{median} ({least} to {most})"

    rows = [("contender", result["unit"], "speed-up of sentinode")] + [
        (name, cell(numbers), cell(result["times_as_fast"].get(name))) for name, numbers in result["contenders"].items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([f"### {result['name']}", "", *(f"| {line} |" for line in lines), ""])


def peer_versions() -> dict[str, str]:
    """What is installed beside sentinode of the packages that `peers/requirements.txt` names."""
    lines = (HERE / "peers" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0] for line in lines if "==" in line]
    code = (
        "import json, sys\nfrom importlib.metadata import version\nprint(json.dumps(list(map(version, sys.argv[1:]))))"
    )
    done = subprocess.run([PEERS, "-c", code, *names], capture_output=True, text=True, check=True)
    return dict(zip(names, json.loads(done.stdout), strict=True))
