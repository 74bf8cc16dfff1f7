"""What every contender does: get ready, then do one block of work at each word from `bench.py`, and say how fast.

Only the standard library is imported here, for it runs in the peers' venv as well as in sentinode's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

READY = "ready"
SHORTEST_BLOCK_S = 1.0


class Wire:
    """The way back to `bench.py`; whatever libraries print meanwhile goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, answer: object) -> None:
        print(json.dumps(answer), file=self._out, flush=True)

    def wait(self) -> bool:
        """Whether another block is wanted."""
        return bool(sys.stdin.readline())


def arguments() -> argparse.Namespace:
    """What a contender is told, and its `wire`. What lies in the folder `--data` is told by `prepare` in `bench.py`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--packed", action="store_true", help="the patches were packed before")
    parser.add_argument("--plain", action="store_true", help="on PyTorch, without another runtime")
    return parser.parse_args(namespace=argparse.Namespace(wire=Wire()))


def serve(wire: Wire, work: Callable[[], float], *, before: Callable[[], None] = lambda: None) -> None:
    """Do blocks as long as they are wanted: the work, which returns how many patches it did, until a second is full.

    Once, unasked, it warms up. `before` is called before each piece of work and is not timed.
    """
    before()
    work()
    wire.say(READY)
    while wire.wait():
        patches, seconds = 0.0, 0.0
        while seconds < SHORTEST_BLOCK_S:
            before()
            started = time.perf_counter()
            patches += work()
            seconds += time.perf_counter() - started
        wire.say(patches / seconds)
