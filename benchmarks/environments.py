"""Every command in environments that people have: does it end well, and in one line where it does not?

    python benchmarks/environments.py              all environments
    python benchmarks/environments.py latin1 nfd   some of them

A phantom of 120 patches, runs of one epoch. For Linux; `nobody` needs root, to become a user without a name, who may
not write into the package either.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

SENTINODE = (sys.executable, "-m", "sentinode")
INLINE = "module://matplotlib_inline.backend_inline"
LEFT_BY_JUPYTER = {"MPLBACKEND": INLINE, "JPY_PARENT_PID": "1", "TERM": "xterm-color", "CLICOLOR": "1", "PAGER": "cat"}
TINY = ("--preset", "quick", "--set", "fit.epochs=1", "--set", "predict.views=1")
ONE_SEED = (*TINY, "--set", "seeds=[25]", "--set", "compare.replicates=200")
SEARCH = ("--set", "tune.search={'model.bn_momentum'=[0.75, 0.5]}")
COMMANDS = (
    ("doctor",),
    ("phantom", "DATA", "--patches", "120", "--slides", "8", "--seed", "3"),
    ("check", "DATA", "--out", "check"),
    ("train", "DATA", "--out", "25", *TINY),
    ("train", "DATA", "--out", "26", *TINY, "--set", "fit.seed=26"),
    ("predict", "25", "DATA/test", "--out", "submission.csv"),
    ("evaluate", "25", "DATA", "--labels", "DATA/truth.csv", "--out", "scores"),
    ("compare", "DATA", "--out", "comparison", "--variants", "before", "after", *ONE_SEED),
    ("train", "DATA", "--out", "after", *TINY, "--set", "model.norm=after"),
    ("compare", "25", "after", "--out", "compared"),
    ("tune", "DATA", "--out", "tuning", *SEARCH, *ONE_SEED),
    ("study", "DATA", "--out", "study", *SEARCH, *ONE_SEED),
    ("report", "study"),
    ("ensemble", "25", "26", "--out", "ensemble"),
    ("cache",),
)


@dataclass(frozen=True)
class Environment:
    """What differs: variables, what starts the command, the name of the folder (bytes), how its files are named."""

    variables: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    folder: bytes = b"work"
    decomposed: bool = False
    home: bool = True


AS_NOBODY = (str(Path(__file__).with_name("as_nobody.sh")),)
ENVIRONMENTS = {
    "plain": Environment(),
    "nobody": Environment(before=AS_NOBODY, home=False),
    "home that is not there": Environment({"HOME": "/proc/nowhere", "XDG_CACHE_HOME": ""}),
    "one core": Environment(before=("taskset", "-c", "0")),
    "latin1": Environment(folder=b"K\xf6ln"),
    "nfd": Environment(folder=unicodedata.normalize("NFD", "Köln").encode(), decomposed=True),
    "time zone": Environment({"TZ": "Nowhere/Land"}),
    "far time zone": Environment({"TZ": "XXX-14:59:59"}),
    "optimised": Environment({"PYTHONOPTIMIZE": "1"}),
    "narrow dumb terminal": Environment({"TERM": "dumb", "COLUMNS": "20", "LINES": "3"}),
    "cp1252": Environment({"PYTHONIOENCODING": "cp1252:strict"}),
    "ascii": Environment({"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"}),
    "jupyter": Environment(LEFT_BY_JUPYTER, before=("setsid", "--wait")),
    "spaces and signs": Environment(folder=b"a b'c[1]%20#;=,"),
}


def environment_of(case: Environment, scratch: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "OMP_NUM_THREADS")}
    home = {"HOME": str(scratch), "NUMBA_CACHE_DIR": str(scratch.parent / "loops")} if case.home else {}
    return kept | home | {"TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"} | case.variables


def decompose(data: Path) -> None:
    """Give every image a name whose form is decomposed, as macOS writes it, while the tables keep the composed one."""
    for part in ("train", "test"):
        for image in (data / part).iterdir():
            image.rename(image.with_name(unicodedata.normalize("NFD", "é" + image.name)))
    for table in data.glob("*.csv"):
        head, *rows = table.read_text(encoding="utf-8").splitlines()
        table.write_text("\n".join([head, *("é" + row for row in rows), ""]), encoding="utf-8")


def tried(case: Environment, scratch: Path, verbose: bool) -> bool:
    """Run all commands one after another and print what each said; whether all ended well."""
    held = True
    folder = scratch / os.fsdecode(case.folder)
    folder.mkdir(parents=True)
    for path in (scratch, folder):
        path.chmod(0o777)
    for words in COMMANDS:
        began = time.perf_counter()
        absolute = [str(folder / word) if word.startswith("DATA") else word for word in words]
        done = subprocess.run(
            [*case.before, *SENTINODE, *absolute],
            env=environment_of(case, scratch),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        said = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
        well = done.returncode == 0 and "Traceback" not in said
        held &= well
        print(f"    {' '.join(words[:3])}: {'ok' if well else f'code {done.returncode}'}, ", end="")
        print(f"{time.perf_counter() - began:.1f} s", flush=True)
        if verbose or not well:
            print("        " + said.rstrip().replace("\n", "\n        "), flush=True)
        if words[0] == "phantom" and case.decomposed:
            decompose(folder / "DATA")
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ENVIRONMENTS)} (default: all)")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    held = 0
    with tempfile.TemporaryDirectory(prefix="environments-") as place:
        scratch = Path(place)
        scratch.chmod(0o755)
        for number, name in enumerate(options.names or ENVIRONMENTS):
            print(name, flush=True)
            held += tried(ENVIRONMENTS[name], scratch / str(number), options.verbose)
            shutil.rmtree(scratch / str(number))
    print(f"{held} of {number + 1} environments: all commands ended well")


if __name__ == "__main__":
    main()
