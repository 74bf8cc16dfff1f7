"""How far a reader walks: the functions and files of sentinode that a command passes through, on a small phantom.

    OMP_NUM_THREADS=1 python benchmarks/walk.py              # train, predict, study
    python benchmarks/walk.py predict --show                 # and every function, file by file

A function counts once, however often it is called, and so does a file; what importing runs is left out. Lambdas and
comprehensions belong to the function that they stand in.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch

import sentinode
from sentinode import Session, fit, load_preset, override, predict, study, write_phantom

PACKAGE: Final = Path(sentinode.__file__).parent
Walk = dict[str, set[str]]


def walk(work: Callable[[], object]) -> Walk:
    """The names of the functions that the work passes through, by file, in all its threads."""
    found: Walk = defaultdict(set)

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and not code.co_qualname.endswith(">"):
            found[str(Path(code.co_filename).relative_to(PACKAGE))].add(code.co_qualname)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help="train, predict or study (default: all)")
    parser.add_argument("--show", action="store_true", help="name every function, file by file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        data, run = root / "data", root / "run"
        write_phantom(data, patches=200, slides=6, seed=7, workers=1)
        session = Session(root / "cache", torch.device("cpu"), workers=1)
        config = override(load_preset("fair").run_config(), {"fit.epochs": 1, "sample": "none"})
        commands: dict[str, Callable[[], object]] = {
            "train": lambda: fit(data, config, run, session),
            "predict": lambda: predict(run, data, root / "submission.csv", session),
            "study": lambda: study(data, load_preset("quick"), root / "study", session),
        }
        asked = args.commands or list(commands)
        if unknown := set(asked) - set(commands):
            parser.error(f"there is no command {sorted(unknown)[0]!r}: choose of {', '.join(commands)}")
        if "predict" in asked and "train" not in asked:
            commands["train"]()
        for name in (name for name in commands if name in asked):
            found = walk(commands[name])
            print(f"{name}: {sum(map(len, found.values()))} functions in {len(found)} files", flush=True)
            if args.show:
                for file, functions in sorted(found.items()):
                    print(f"  {file}: {', '.join(sorted(functions))}")


if __name__ == "__main__":
    main()
