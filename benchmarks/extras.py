"""Does each extra bring what its job needs, alone, beside the core and nothing else?

python benchmarks/extras.py SCRATCH [EXTRA ...]    (default: every extra, then all together; about 6 GB)

Builds the wheel from the committed files, installs it with the versions of constraints.txt into a new environment, and
asks pip, for each extra, which packages it would add. These go into a folder of their own. Then the job that the extra
is for runs with that folder on the path; before, without it, the same job has to end in one line that names the extra.
Prints for each: packages, MB, and what came of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = ["--set", "fit.epochs=1", "--set", "predict.views=1"]
LITE = [
    "--set", "model.architecture=timm", "--set", "model.backbone=tf_efficientnet_lite0", "--set", "fit.train=head",
    "--set", "preprocess.size_px=96", "--set", "fit.penalties=[0.1]", "--set", "predict.views=1",
]  # fmt: skip
PARQUET = """
from pathlib import Path
import pandas as pd
labels = pd.read_csv("phantom/train_labels.csv")
labels["path"] = [str(Path("phantom/train", f"{i}.tif")) for i in labels["id"]]
labels[["path", "label"]].to_parquet("table.parquet")
"""
SERVE = """
import json, subprocess, sys, urllib.request
words = [sys.executable, "-m", "sentinode", "serve", "run", "--port", "0", "--cache", "cache"]
with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as service:
    line = service.stdout.readline()
    if line:
        address = line.split(": ")[1].split()[0]
        assert json.load(urllib.request.urlopen(f"{address}/v1/model"))
        service.terminate()
sys.exit(not line)
"""
# What each extra is for: commands of sentinode, or code; {out} is a name that is new each time.
JOBS: dict[str, tuple[list[str] | str, ...]] = {
    "fast": ("from sentinode.kernels import at_hand; assert at_hand()",),
    "zoo": (["train", "phantom", "--out", "{out}", *LITE],),
    "slides": (
        ["phantom", "{out}-whole", "--whole-slides", "1"],
        ["slides", "run", "{out}-whole/slides", "--out", "{out}"],
    ),
    "export": (["export", "run", "--to", "onnx", "--data", "phantom", "--out", "{out}"],),
    "openvino": (["export", "run", "--to", "openvino", "--data", "phantom", "--out", "{out}"],),
    "parquet": (PARQUET, ["check", "table.parquet"]),
    "gpus": ("import accelerate",),
    "serve": (SERVE,),
    "cluster": (
        ["compare", "phantom", "--preset", "quick", "--seeds", "1", "--engine", "ray", "--out", "{out}", *TINY],
    ),
    "runtime": ("import onnxruntime",),
    "docs": ("import mkdocs, material, mkdocstrings",),
}


class Environment:
    """A new environment with the core, and folders of what each extra adds."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.python = scratch, scratch / "venv" / "bin" / "python"
        self.work = scratch / "work"

    def make(self) -> None:
        clone = self.scratch / "source"
        if not clone.is_dir():
            run("git", "clone", "--quiet", ROOT, clone)
            run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", self.scratch / "dist", clone)
        if not self.python.is_file():
            run(sys.executable, "-m", "venv", self.scratch / "venv")
            self.pip("install", "--quiet", str(self.wheel))
        if not (self.work / "run").is_dir():
            self.work.mkdir(exist_ok=True)
            for words in (
                ["phantom", "phantom", "--patches", "300", "--slides", "12"],
                ["train", "phantom", "--preset", "quick", "--out", "run", *TINY],
            ):
                told = self.started(words)
                assert not told.returncode, told.stderr

    @property
    def wheel(self) -> Path:
        return next((self.scratch / "dist").glob("*.whl"))

    def pip(self, *arguments: str) -> str:
        options = ["--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt")]
        return run(self.python, "-m", "pip", arguments[0], *options, *arguments[1:])

    def added(self, extra: str) -> list[str]:
        """What pip would install for an extra beside what is there, as name==version."""
        asked = f"{self.wheel}[{extra}]"
        report = json.loads(self.pip("install", "--dry-run", "--quiet", "--report", "-", asked))
        found = [each["metadata"] for each in report["install"]]
        return sorted(f"{m['name']}=={m['version']}" for m in found if m["name"].lower() != "sentinode")

    def place(self, name: str, packages: list[str]) -> Path:
        folder = self.scratch / "extras" / name
        if not folder.is_dir():
            self.pip("install", "--quiet", "--no-deps", "--target", str(folder), *packages)
        return folder

    def started(self, job: list[str] | str, *beside: Path) -> subprocess.CompletedProcess[str]:
        """A command of sentinode, or code, with these folders on the path."""
        match job:
            case str():
                words = ["-c", job]
            case ["phantom", *_]:
                words = ["-m", "sentinode", *job]
            case _:
                words = ["-m", "sentinode", *job, "--cache", "cache"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, beside))}
        return subprocess.run([self.python, *words], capture_output=True, text=True, cwd=self.work, env=environment)

    def came_of(self, extra: str, *beside: Path) -> str:
        """What came of the extra's job: "works", or the last line that it said."""
        out = f"{extra}-{beside[0].name if beside else 'without'}"
        for job in JOBS[extra]:
            words = job if isinstance(job, str) else [word.format(out=out) for word in job]
            told = self.started(words, *beside)
            if told.returncode:
                return told.stderr.strip().splitlines()[-1]
        return "works"


def run(*command: str | Path) -> str:
    told = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{told.stdout}{told.stderr}")
    return told.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("extras", nargs="*")
    asked = parser.parse_args()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    here = Environment(asked.scratch.resolve())
    started = time.perf_counter()
    here.make()
    print(
        f"core: {size_mb(here.scratch / 'venv')} MB, made and run in {time.perf_counter() - started:.0f} s", flush=True
    )
    for extra in asked.extras or JOBS:
        without, packages = here.came_of(extra), here.added(extra)
        folder = here.place(extra, packages)
        told = f"{extra}: {len(packages)} packages, {size_mb(folder)} MB; {here.came_of(extra, folder)}"
        print(f"{told}; without it: {without}", flush=True)
    if not asked.extras:
        folder = here.place("all", here.added(",".join(JOBS)))
        print(f"all: {size_mb(folder)} MB; " + "; ".join(f"{extra}: {here.came_of(extra, folder)}" for extra in JOBS))


def size_mb(folder: Path) -> int:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6)


if __name__ == "__main__":
    main()
