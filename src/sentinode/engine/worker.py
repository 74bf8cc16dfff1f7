"""A process that does tasks for another: `python -m sentinode.engine.worker THREADS DEVICE`.

A task comes as a line of JSON on standard input, messages go as lines on what was standard output. The process ends
with whoever began it, even where that was killed: its standard input ends then.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from sentinode.engine.task import Desk, EngineTask, do


def serve(threads: int, device: str) -> None:
    """Do the tasks that come, one after the other, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's affair
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a network of the user's own prints is no message
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    speaking = threading.Lock()

    def tell(message: dict[str, Any]) -> None:
        with speaking:
            out.write(json.dumps(message) + "\n")
            out.flush()

    def ask(message: dict[str, Any]) -> bool:
        tell(message)
        return bool(json.loads(lines.get()))

    while True:
        task = EngineTask.from_json(lines.get())
        tell({"over": do(task, Desk(threads, device, tell, ask, partial(_place, task)))})


def _place(task: EngineTask, group: str, name: str) -> Path:
    """On one machine every file is where it is."""
    return Path(task.files[group][name])


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
