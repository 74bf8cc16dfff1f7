"""Kill every command, at each place where it makes a file and at random instants, give it again, and compare.

    python benchmarks/kills.py [--kills 120] [--minutes 20] [--seed 0] [--only slides --instants 1]

Each attempt is a forked process that calls the library as the command does. The one to be killed sends itself SIGKILL
right before or right after its n-th rename, or is killed from outside after a random share of the command's time. Then
the same command is given again (with --resume where it has that option), which must end well, and all that it leaves is
compared with what the uninterrupted command left: tables and weights by their bytes, records without their times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sentinode.api import data as on_data
from sentinode.api import experiments, runs, slides
from sentinode.api import study as studies
from sentinode.config.presets import load_preset
from sentinode.config.study import StudyConfig
from sentinode.phantom.phantom import write_phantom
from sentinode.phantom.whole_slides import paint_slide, write_pyramid
from sentinode.report.pages.page import write_report
from sentinode.session import Session
from sentinode.settings import override

Command = Callable[[Path], object]
COMPARED = (
    ".csv", ".safetensors", "decision.json", "scores.json", "blend.json", "phantom.json", ".tif", ".png",
    ".geojson", "slide.json", "slides.json",
)  # fmt: skip


def commands(data: Path, made: Path, session: Session) -> dict[str, Command]:
    """Every command that writes, by its name, as a function of the folder (or file) that it writes."""
    settings = {"fit.epochs": 2, "fit.batch_size": 32, "predict.views": 1, "sample.per_class": "none"}
    base = override(load_preset("fair"), {**settings, "seeds": [25], "compare.replicates": 100})
    run = base.run_config()
    members = {"a": {"fit.seed": 1}, "b": {"fit.seed": 2}}
    blend = override(run, {"ensemble.members": members})
    ranges = {"fit.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    tpe = override(base, {"tune.sampler": "tpe", "tune.trials": 3, "tune.search": ranges})
    grid = override(base, {"tune.search": {"model.bn_momentum": [0.9, 0.5]}})
    studied: StudyConfig = override(grid, {"fit.epochs": 1})
    labels = data / "train_labels.csv"
    return {
        "phantom": lambda out: write_phantom(out, patches=60, slides=4, workers=1),
        "check": lambda out: on_data.check(data, session=session, out=out),
        "split": lambda out: on_data.split(data, run, out / "split.csv", session),
        "train": lambda out: experiments.fit(data, run, out, session, resume=True),
        "train an ensemble": lambda out: experiments.fit(data, blend, out, session, resume=True),
        "compare": lambda out: studies.compare(data, base, out, session, resume=True),
        "tune, grid": lambda out: studies.tune(data, grid, out, session, resume=True),
        "tune, TPE": lambda out: studies.tune(data, tpe, out, session, resume=True),
        "study": lambda out: studies.study(data, studied, out, session, resume=True),
        "ensemble": lambda out: experiments.ensemble([made / "one", made / "two"], out, session),
        "predict": lambda out: runs.predict(made / "one", data, out / "p.csv", session),
        "evaluate": lambda out: runs.evaluate(made / "one", data, labels, session, out=out),
        "report": lambda out: reported(made / "one", out),
        "slides": lambda out: slides.judge_slides(made / "one", made / "slides", out, session, resume=True),
    }


def reported(run: Path, out: Path) -> None:
    """Draw the page of a copy of a run; the copy is made by whoever comes first."""
    if not (out / "run").exists():
        shutil.copytree(run, out / "copying", dirs_exist_ok=True)
        (out / "copying").rename(out / "run")
    write_report(out / "run")


def attempt(command: Command, out: Path, *, rename: int = 0, after: bool = False, seconds: float = 0.0) -> str:
    """Call a command in a process of its own; returns "done", "killed", or what went wrong.

    `rename`: the number, from 1, of the rename at which it kills itself, right before it or right `after` it.
    `seconds`: how long it has until it is killed from outside; 0 for as long as it takes.
    """
    report = out.with_name(f"{out.name}.error")
    report.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        try:
            if rename:
                kill_at_rename(rename, after=after)
            command(out)
            os._exit(0)
        except BaseException:
            report.write_text(traceback.format_exc(), encoding="utf-8")
            os._exit(1)
    deadline = time.monotonic() + seconds
    while seconds:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            seconds = 0
        time.sleep(0.002)
    else:
        _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return report.read_text(encoding="utf-8").strip().splitlines()[-1] if os.WEXITSTATUS(status) else "done"


def kill_at_rename(number: int, *, after: bool) -> None:
    """Let this process die at its n-th rename: there a file that was temporary comes into being."""
    seen = 0

    def wrapped(rename: Callable[..., object]) -> Callable[..., object]:
        def renamed(*args: object, **options: object) -> object:
            nonlocal seen
            seen += 1
            if seen == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = rename(*args, **options)
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return renamed

    os.replace, os.rename = wrapped(os.replace), wrapped(os.rename)  # what Path.replace and Path.rename call


def contents(out: Path) -> dict[str, str]:
    """SHA-256 of each file whose content the command's input decides, times apart; names alone of the others."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or "checkpoint" in name:
            continue
        content = path.read_bytes()
        if path.name == "history.csv":  # the last two columns are times
            content = b"\n".join(line.rsplit(b",", 2)[0] for line in content.splitlines())
        compared = path.name.endswith(COMPARED)
        found[name] = hashlib.sha256(content).hexdigest() if compared else "there"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120, help="most kills in all")
    parser.add_argument("--minutes", type=float, default=20, help="most time in all")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--only", metavar="COMMAND", help="kill this command alone")
    parser.add_argument("--instants", type=float, default=0.25, help="share of the kills that are at random instants")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # a process of several threads cannot be forked
    rng, began = random.Random(asked.seed), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    session = Session(root / "cache", torch.device("cpu"), workers=1)
    data, made = root / "data", root / "made"
    write_phantom(data, patches=120, slides=6, seed=7, workers=1)
    every = {name: command for name, command in commands(data, made, session).items() if asked.only in (None, name)}
    if not every:
        parser.error(f"there is no command {asked.only!r}")
    for number in range(10):
        rgb, _ = paint_slide("micro" if number % 2 else "negative", np.random.default_rng(number), side_px=640)
        (made / "slides").mkdir(parents=True, exist_ok=True)
        write_pyramid(made / "slides" / f"slide-{number}.tif", rgb)
    for name, seed in (("one", 1), ("two", 2)):
        config = override(load_preset("fair").run_config(), {"fit.epochs": 1, "fit.seed": seed, "predict.views": 1})
        assert attempt(lambda out, config=config: experiments.fit(data, config, out, session), made / name) == "done"
    whole, took = {}, {}
    for name, command in every.items():
        since = time.monotonic()
        said = attempt(command, root / "whole" / name)
        assert said == "done", f"{name}: {said}"
        whole[name], took[name] = contents(root / "whole" / name), time.monotonic() - since
    print(f"uninterrupted: {json.dumps({name: round(seconds, 1) for name, seconds in took.items()})}", flush=True)

    tally = {name: [0, 0] for name in every}
    renames, over = dict.fromkeys(every, 0), set[str]()
    while sum(kills for kills, _ in tally.values()) < asked.kills and time.monotonic() - began < 60 * asked.minutes:
        for number, (name, command) in enumerate(every.items()):
            out = root / "killed" / f"{number}-{tally[name][0]}"
            out.parent.mkdir(exist_ok=True)
            if name in over or rng.random() < asked.instants:
                where = f"after {(seconds := rng.uniform(0.01, took[name])):.2f} s"
                said = attempt(command, out, seconds=seconds)
            else:
                renames[name] += 1
                at, after = (renames[name] + 1) // 2, renames[name] % 2 == 0
                where = f"{'after' if after else 'before'} rename {at}"
                said = attempt(command, out, rename=at, after=after)
                over |= {name} if said == "done" else set()
            if said == "killed":
                tally[name][0] += 1
                said = attempt(command, out)
                differing = [key for key, value in whole[name].items() if contents(out).get(key) != value]
                extra = sorted(contents(out).keys() - whole[name].keys())
                if said == "done" and not differing and not extra:
                    tally[name][1] += 1
                else:
                    print(
                        f"{name}, killed {where}: {said}; differing {differing[:3]}, left over {extra[:3]}", flush=True
                    )
            shutil.rmtree(out, ignore_errors=True)
    for name, (kills, held) in tally.items():
        print(f"{name}: {held} of {kills}")
    kills, held = (sum(column) for column in zip(*tally.values(), strict=True))
    print(f"held: {held} of {kills} in {time.monotonic() - began:.0f} s")
    shutil.rmtree(root)
    sys.exit(held != kills)


if __name__ == "__main__":
    main()
