"""How runs and slides scale: one and two workers here, overhead per task, and a model of 100 and 1,000 workers.

    python benchmarks/scaling.py [--runs 40] [--rounds 3] [--engines local ray]     # 8 minutes on two idle cores
    python benchmarks/scaling.py --model-only MEASURED.json                              # seconds

The same runs of the notebook's network are trained in turn by one process, in one thread and in two, and by an engine
with one worker and with two, each of one thread; runs in turn and by two workers follow each other in every round. All
must leave the same weights. What is measured goes into a discrete model of a cluster: a driver that does one thing at a
time, machines that fetch the patches, workers that start, train and write to one shared folder. What names the
bottleneck is the part without which the work would end soonest.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

from sentinode.machine import wait_passively

wait_passively()  # before PyTorch is loaded

import numpy as np
import torch

from sentinode.artefacts import write_json
from sentinode.config.presets import load_preset
from sentinode.config.run import RunConfig
from sentinode.data.images import PATCH_BYTES
from sentinode.engine.engine import Watch
from sentinode.engine.local import Local
from sentinode.engine.on_ray import OnRay
from sentinode.engine.task import Needs
from sentinode.models.own import NONE
from sentinode.phantom.phantom import write_phantom
from sentinode.runs.material import Material, gather
from sentinode.runs.material_folder import open_material, save_material
from sentinode.runs.run import Run
from sentinode.runs.tasks import RunTasks
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override

PATCHES, EPOCHS = 2_500, 4  # of a measured run: about two seconds in one thread
COMPETITION_PATCHES, COMPETITION_EPOCHS, TRAINING_SHARE = 220_025, 20, 0.7
CELLS_A_SLIDE, CELLS_PER_S = 100_000, 1_525  # a node slide, per processor second with all files: lab log, 26 November
EMPTY_TASKS = 200
_CPU = torch.device("cpu")


# --- measured here ----------------------------------------------------------------------------------


class _Told(dict[str, Any]):
    """What is measured, each told at once, for all of it takes minutes."""

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        print(f"{name}: {value}", flush=True)


def measure(scratch: Path, runs: int, engines: Sequence[str], data: Path | None, rounds: int) -> dict[str, Any]:
    """Seconds of the runs in turn and by engines, and of what a task costs beside its work.

    A machine's speed wanders, so each round has the runs in turn and, right behind them, the same by two workers.
    """
    if data is None:
        write_phantom(data := scratch / "data", patches=PATCHES, slides=20, seed=1)
    config = override(load_preset("seed").run_config(), {"fit.epochs": EPOCHS, "fit.epoch_fraction": None})
    config = override(config, {"sample": None, "balance": None})
    session = Session(scratch / "cache", _CPU, threads=1)
    material = gather(data, config, session).material
    configs = [override(config, {"fit.seed": seed}) for seed in range(runs)]
    train_run(material, config, scratch / "warm-up")  # loops are compiled once on a machine
    found = _Told({"runs": runs, "patches": len(material.candidates), "epochs": EPOCHS})
    weights: set[str] = set()

    def in_turn(threads: int, place: Path) -> float:
        material.session = Session(scratch / "cache", _CPU, threads=threads)
        began = time.perf_counter()
        for seed, of_seed in enumerate(configs):
            train_run(material, of_seed, place / str(seed))
        weights.add(weights_in(place, runs))
        return time.perf_counter() - began

    def together(name: str, workers: int, place: Path) -> dict[str, float]:
        took = seconds_of(engine_of(name, workers), material, configs, place)
        weights.add(weights_in(place, runs))
        return took

    serial, by_two = list[float](), {name: list[dict[str, float]]() for name in engines}
    for number in range(rounds):
        serial.append(in_turn(1, scratch / f"in-turn-{number}"))
        for name in engines:
            by_two[name].append(together(name, 2, scratch / f"{name}-2-{number}"))
        found[f"round {number + 1}"] = {"in turn": serial[-1], **{name: by_two[name][-1] for name in engines}}
    found["in turn, 1 threads"] = median(serial)
    found["in turn, 2 threads"] = in_turn(2, scratch / "in-turn-2-threads")
    for name in engines:
        pairs = list(zip(serial, by_two[name], strict=True))
        found[f"{name}, efficiency"] = sorted(alone / 2 / two["all"] for alone, two in pairs)
        begun = sorted(alone / 2 / (two["all"] - two["until the first epoch"]) for alone, two in pairs)
        found[f"{name}, efficiency from the first epoch on"] = begun
        found[f"{name}, 1 workers"] = together(name, 1, scratch / f"{name}-1")
        found[f"{name}, an empty task"] = seconds_of_nothing(engine_of(name, 1), material, config, scratch)
    assert len(weights) == 1, "the engines' runs differ from those in turn"
    found["opening the material"] = seconds_to_open(material, scratch)
    began = time.perf_counter()
    Run.open(scratch / "in-turn-0" / "0")
    found["opening a run"] = time.perf_counter() - began
    of_run = scratch / "in-turn-0" / "0"
    found["a run's files, MB"] = sum(path.stat().st_size for path in of_run.rglob("*") if path.is_file()) / 1e6
    return found


def engine_of(name: str, workers: int) -> Local | OnRay:
    return Local(workers) if name == "local" else OnRay(most=workers)


def seconds_of(
    engine: Local | OnRay, material: Material, configs: Sequence[RunConfig], place: Path
) -> dict[str, float]:
    """All, and from the first epoch that was heard of: what comes before is that processes start and import."""
    make = RunTasks(material, NONE)
    tasks = [replace(make.task(place / str(seed), config), needs=Needs(cpus=1)) for seed, config in enumerate(configs)]
    first: list[float] = []

    def progress(step: str, done: int, _total: int, _note: str = "", /) -> None:
        if step.startswith("train") and done and not first:
            first.append(time.perf_counter())

    began, spent = time.perf_counter(), processor_seconds()
    outcomes = [*engine.run(tasks, Watch("runs", progress))]
    ended = time.perf_counter()
    assert all(outcome.failure is None for outcome in outcomes)
    found = {"all": ended - began, "until the first epoch": first[0] - began}
    return found | ({"processor": processor_seconds() - spent} if isinstance(engine, Local) else {})


def processor_seconds() -> float:
    """Of this process and those that it began and that have ended; beside other programs they say more than a clock."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def seconds_of_nothing(engine: Local | OnRay, material: Material, config: RunConfig, scratch: Path) -> float:
    """What a task costs that ends where it begins, for its settings are none: sending it, and hearing of it."""
    task = RunTasks(material, NONE).task(scratch / "nothing" / "a", config)
    empty = [
        replace(task, name=str(n), needs=Needs(cpus=1), given={**task.given, "settings": "no settings"})
        for n in range(EMPTY_TASKS)
    ]
    ended = [time.perf_counter() for _ in engine.run(empty, Watch("tasks"))]
    return (ended[-1] - ended[0]) / (EMPTY_TASKS - 1)


def seconds_to_open(material: Material, scratch: Path) -> float:
    saved = save_material(material)
    began = time.perf_counter()
    open_material(saved.digest, lambda name: Path(saved.files[name]), Session(scratch / "cache", _CPU))
    return time.perf_counter() - began


def weights_in(place: Path, runs: int) -> str:
    digest = hashlib.sha256()
    for seed in range(runs):
        digest.update((place / str(seed) / "model.safetensors").read_bytes())
    return digest.hexdigest()


# --- the model --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """What work on a cluster consists of, in seconds where nothing else is said."""

    task: float
    """A task of middling length, on one processor."""
    spread: float
    """Standard deviation of the logarithm of a task's length."""
    start: float
    """Of a worker: its process, imports, and the first task's tables."""
    data_mb: float
    """That each machine fetches."""
    result_mb: float
    """That each task writes to the shared folder."""
    dispatch: float
    """Of the driver, to send a task and to hear of it."""
    collect: float
    """Of the driver, to open a result."""
    around: float
    """Of the driver, before and after: the check of the data, intervals, pages."""
    store_mb_per_s: float = 1_000.0
    """Of the shared folder, or of what sends the patches, for all machines together: a link of 10 Gb/s."""
    link_mb_per_s: float = 1_000.0
    """Of a machine."""
    largest_first: bool = False
    """Whether it is known beforehand which tasks take longest, as of slides, by their files."""


_ASKS, _WRITES, _TELLS = range(3)  # what a worker does next: ask for a task, write its result, tell the driver


def lengths_of(count: int, costs: Costs) -> list[float]:
    """Of the tasks, in seconds, in the order in which they are begun."""
    drawn: list[float] = (costs.task * np.exp(costs.spread * np.random.default_rng(0).standard_normal(count))).tolist()
    return sorted(drawn, reverse=True) if costs.largest_first else drawn


def simulate(count: int, workers: int, costs: Costs, *, machine: int = 16) -> float:
    """Seconds until so many tasks are done by so many workers, `machine` of them on each machine."""
    waiting = lengths_of(count, costs)[::-1]
    machines = -(-min(workers, count) // machine)
    fetch = max(costs.data_mb / costs.link_mb_per_s, machines * costs.data_mb / costs.store_mb_per_s)
    begin = costs.around / 2 + costs.start + fetch
    events = [(begin, worker, _ASKS) for worker in range(min(workers, count))]
    driver = store = 0.0
    while events:
        at, worker, what = heapq.heappop(events)
        if what == _WRITES:
            store = max(at, store) + costs.result_mb / costs.store_mb_per_s
            heapq.heappush(events, (store, worker, _TELLS))
            continue
        driver = max(at, driver) + (costs.collect if what == _TELLS else 0.0)
        if waiting:
            driver += costs.dispatch
            heapq.heappush(events, (driver + waiting.pop(), worker, _WRITES))
    return driver + costs.around / 2


WITHOUT: dict[str, Callable[[Costs], Costs]] = {
    "starting workers": lambda costs: replace(costs, start=0.0),
    "fetching the data": lambda costs: replace(costs, data_mb=0.0),
    "writing results": lambda costs: replace(costs, result_mb=0.0),
    "the driver's sending and hearing": lambda costs: replace(costs, dispatch=0.0),
    "the driver's opening of results": lambda costs: replace(costs, collect=0.0),
    "what the driver does before and after": lambda costs: replace(costs, around=0.0),
}


def described(count: int, workers: int, costs: Costs) -> dict[str, Any]:
    """How long it takes, how well the workers are used, and what takes longest beside the tasks themselves."""
    took, work = simulate(count, workers, costs), sum(lengths_of(count, costs))
    saved = {part: took - simulate(count, workers, without(costs)) for part, without in WITHOUT.items()}
    rest = "fewer tasks than workers" if count < workers else "workers that wait for the last tasks"
    saved[rest] = took - work / workers - sum(saved.values())
    return {
        "workers": workers,
        "seconds": took,
        "efficiency": (work + costs.around) / (workers * took),
        "speed-up": (work + costs.around) / took,
        "bottleneck": max(saved, key=saved.__getitem__),
        "costs it": max(saved.values()),
    }


def costs_of(measured: dict[str, Any], engine: str) -> dict[str, tuple[int, Costs]]:
    """The two works that are asked about, from what was measured."""
    seen = measured["patches"] * TRAINING_SHARE * measured["epochs"]
    a_run = measured["in turn, 1 threads"] / measured["runs"]
    of_competition = COMPETITION_PATCHES * TRAINING_SHARE * COMPETITION_EPOCHS
    larger = COMPETITION_PATCHES / measured["patches"]
    start = measured[f"{engine}, 1 workers"]["until the first epoch"]
    common = {"dispatch": measured[f"{engine}, an empty task"], "collect": measured["opening a run"]}
    # Tables grow with the patches; the check of the whole competition took 2 minutes, a page 20 s: lab log.
    tables = measured["opening the material"] * larger
    study = Costs(
        task=a_run * of_competition / seen,
        spread=0.05,
        start=start + tables,
        data_mb=COMPETITION_PATCHES * PATCH_BYTES / 1e6,
        result_mb=measured["a run's files, MB"] + COMPETITION_PATCHES * 0.3 * 60 / 1e6,
        around=140.0,
        **{**common, "collect": common["collect"] * larger},
    )
    slide = Costs(
        task=CELLS_A_SLIDE / CELLS_PER_S,
        spread=0.7,
        start=start,
        data_mb=0.0,
        result_mb=CELLS_A_SLIDE * 60 / 1e6,
        around=30.0,
        largest_first=True,
        **common,
    )
    return {"100 runs on 220,025 patches": (100, study), "10,000 slides": (10_000, slide)}


def table(measured: dict[str, Any], engine: str) -> str:
    """Both works with 1 to 1,000 workers, as Markdown."""
    lines = []
    for name, (count, costs) in costs_of(measured, engine).items():
        lines += [f"\n{name}, on {engine}: {json.dumps({k: round(v, 4) for k, v in asdict(costs).items()})}\n"]
        lines += [
            "| workers | time | speed-up | efficiency | bottleneck | costs |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for workers in (1, 2, 10, 100, 1_000):
            row = described(count, workers, costs)
            lines.append(
                f"| {workers:,} | {row['seconds']:,.0f} s | {row['speed-up']:,.1f} | {row['efficiency']:.0%} | "
                f"{row['bottleneck']} | {row['costs it']:,.0f} s |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="*", default=["local", "ray"], choices=["local", "ray"])
    parser.add_argument("--data", type=Path, help="a data folder (default: a phantom of 2,500 patches)")
    parser.add_argument("--scratch", type=Path, help="a folder to work in (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="where to keep what was measured")
    parser.add_argument("--model-only", type=Path, metavar="MEASURED.json")
    asked = parser.parse_args()
    if asked.model_only:
        measured = json.loads(asked.model_only.read_text())
    else:
        with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
            measured = measure(Path(folder), asked.runs, asked.engines, asked.data, asked.rounds)
        if asked.json:
            write_json(asked.json, measured)
    for engine in asked.engines:
        if f"{engine}, efficiency" not in measured:
            continue
        shares = (measured[f"{engine}, efficiency{since}"] for since in ("", " from the first epoch on"))
        with_start, begun = (f"{median(of):.1%} ({min(of):.1%} to {max(of):.1%})" for of in shares)
        alone = measured[f"{engine}, 1 workers"]
        overhead = alone["all"] - alone["until the first epoch"] - measured["in turn, 1 threads"]
        print(
            f"{engine}: efficiency of two workers {with_start} with their start, {begun} from the first epoch on; "
            f"a task costs {1000 * overhead / measured['runs']:,.0f} ms beside its work"
        )
        print(table(measured, engine))


if __name__ == "__main__":
    main()
