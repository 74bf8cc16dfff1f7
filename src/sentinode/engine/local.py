"""Tasks in several processes of this machine, each with its share of the processors."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from sentinode.engine.engine import PAUSE_S, Attempts, Board, Watch
from sentinode.engine.task import EngineTask, TaskOutcome
from sentinode.errors import ConfigError
from sentinode.machine import environment_of, free_processors

_PATIENCE_S: Final = 5.0


@dataclass(frozen=True)
class Local:
    """So many processes, or as many as pay: one for each free processor, with one thread.

    Where tasks say how many CPUs they take, fewer processes have as many threads each. On GPUs there is one process for
    each, unless a number is given.
    """

    processes: int | None = None
    devices: tuple[str, ...] = ("cpu",)
    """What is computed on, in turn: process k has the k-th of them."""
    pause_s: float = PAUSE_S

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            raise ConfigError(
                f"cannot compute in {self.processes} processes", where="processes", remedy="Give 1 or more."
            )

    def shares(self, cpus: int | None) -> tuple[int, int]:
        """How many processes there are at most, and how many threads each has."""
        free = free_processors()
        usual = max(1, free // (cpus or 1)) if self.devices == ("cpu",) else len(self.devices)
        processes = self.processes or usual
        return processes, cpus or max(1, free // processes)

    def run(self, tasks: Iterable[EngineTask | None], watch: Watch) -> Generator[TaskOutcome, None, None]:
        """See `Engine`."""
        attempts, board = Attempts(iter(tasks), self.pause_s), Board(watch, tasks)
        heard: queue.Queue[tuple[_Process, str | None]] = queue.Queue()
        idle: list[_Process] = []
        doing: dict[_Process, EngineTask] = {}
        most: int | None = None
        try:
            while True:
                while most is None or len(doing) < most:
                    if (task := attempts.next()) is None:
                        break
                    if most is None:
                        most, threads = self.shares(task.needs.cpus)
                    process = idle.pop() if idle else _Process(threads, self._device(doing), heard)
                    doing[process] = task
                    process.send(task.to_json())
                    board.begun(task)
                if not doing and attempts.over:
                    return
                try:
                    process, line = heard.get(timeout=self.pause_s / 4 + 0.01)
                except queue.Empty:
                    continue
                if process not in doing:  # it ended after its task
                    idle = [other for other in idle if other is not process]
                    continue
                task = doing[process]
                message: dict[str, Any] = {"over": process.ended()} if line is None else json.loads(line)
                if "row" in message:
                    process.send(json.dumps(watch.row(task, message["row"])))
                elif "over" in message:
                    del doing[process]
                    if line is not None:
                        idle.append(process)
                    outcome = attempts.outcome(task, message["over"])
                    board.ended(task, outcome)
                    if outcome is not None:
                        yield outcome
                else:
                    board.told(task, message)
        finally:
            for process in [*idle, *doing]:
                process.end()

    def _device(self, doing: Iterable[_Process]) -> str:
        """The device that the fewest processes have."""
        taken = [process.device for process in doing]
        return min(self.devices, key=taken.count)


class _Process:
    """A worker, and a thread that hands on what it says: a line, or None when it has ended."""

    def __init__(self, threads: int, device: str, heard: queue.Queue[tuple[_Process, str | None]]) -> None:
        self.device = device
        # -P: a module that lies in the current folder is never taken for one of the installation's.
        command = [sys.executable, "-P", "-m", "sentinode.engine.worker", str(threads), device]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment_of(threads),
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def _listen(self, heard: queue.Queue[tuple[_Process, str | None]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            heard.put((self, line))
        heard.put((self, None))

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # where it has just ended, that is heard of in its turn
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def ended(self) -> dict[str, Any]:
        """What is to be said of its task."""
        code = self._process.wait()
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        return {"failed": f"its process ended {how}; a signal 9 is often the system's, which was out of memory"}

    def end(self) -> None:
        """Stop it, whatever it does: what it has finished is kept, the rest can be gone on with."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
