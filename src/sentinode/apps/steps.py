"""How far a command has come: a bar for each running step on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from sentinode.progress import ALL_RUNS

QUIET_S: Final = 30.0
"""Longest time, in seconds, for which nothing is said while a step runs and no terminal shows a bar."""

Clock = Callable[[], float]


@dataclass
class _Step:
    """A step that runs: where it was when it was first heard of, and where it is."""

    started: float
    first: int
    done: int
    total: int
    note: str = ""

    def rate(self, now: float) -> str:
        """Such as "5,300/s"; "" while nothing can be told."""
        count, elapsed = self.done - self.first, now - self.started
        if count <= 0 or elapsed <= 0:
            return ""
        return f"{count / elapsed:,.0f}/s" if count / elapsed >= 10 else f"{count / elapsed:.1f}/s"

    def left(self, now: float) -> str:
        """Such as "4 min left", by the mean speed so far; "" while nothing can be told."""
        count = self.done - self.first
        if count <= 0 or self.done >= self.total:
            return ""
        return f"{duration((now - self.started) / count * (self.total - self.done))} left"


class Steps(ABC):
    """A Progress that keeps the running steps; what it shows of them is its heirs' affair.

    `close` ends it; steps that are still open then were interrupted and are not called finished.
    """

    def __init__(self, say: Callable[[str], None], *, clock: Clock = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._running: dict[str, _Step] = {}
        self._lock = threading.RLock()

    def __call__(self, step: str, done: int, total: int, note: str = "", /) -> None:
        with self._lock:
            known = self._running.setdefault(step, _Step(self._clock(), done, done, total))
            known.done, known.total, known.note = done, total, note or known.note
            if done >= total:
                del self._running[step]
                self._over(step, known)
            else:
                self._moved(step, known)

    @abstractmethod
    def _moved(self, step: str, known: _Step) -> None:
        """Show that a step goes on."""

    def _over(self, step: str, known: _Step) -> None:
        """One line for a step that is over; of the runs of a study each was told already."""
        if step != ALL_RUNS:
            now = self._clock()
            told = [f"{known.total:,} in {duration(now - known.started)}", known.rate(now), known.note]
            self._say(f"{step}: {', '.join(filter(None, told))}")

    def close(self) -> None:
        with self._lock:
            self._running.clear()


class StepBars(Steps):
    """On a terminal: a line for each step that runs, above it the lines of those that are over.

    Only running steps have a bar, so that there are never more bars than a screen has lines.
    """

    def __init__(self, say: Callable[[str], None], console: Console, *, clock: Clock = time.monotonic) -> None:
        super().__init__(say, clock=clock)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def _moved(self, step: str, known: _Step) -> None:
        now = self._clock()
        rate = "" if step == ALL_RUNS else known.rate(now)
        told = "  ".join(filter(None, [rate, known.left(now), known.note]))
        if step not in self._tasks:
            self._bars.start()
            self._tasks[step] = self._bars.add_task(step, total=known.total, told=told)
        self._bars.update(self._tasks[step], completed=known.done, total=known.total, told=told)

    def _over(self, step: str, known: _Step) -> None:
        if step in self._tasks:
            self._bars.remove_task(self._tasks.pop(step))
        super()._over(step, known)

    def close(self) -> None:
        for task in self._tasks.values():  # interrupted: a bar that stays would look alive
            self._bars.remove_task(task)
        self._tasks.clear()
        self._bars.stop()
        super().close()


class StepLines(Steps):
    """Elsewhere: a line when a step is over, and one at least every `QUIET_S` while one runs."""

    def __init__(self, say: Callable[[str], None], *, clock: Clock = time.monotonic) -> None:
        super().__init__(self._say_and_note, clock=clock)
        self._say_line, self._said_at = say, clock()
        self._closed = threading.Event()
        # A step may be silent for minutes, as in a long batch; so the lines do not wait for it to speak.
        threading.Thread(target=self._watch, name="sentinode-progress", daemon=True).start()

    def _watch(self) -> None:
        while not self._closed.wait(1.0):
            self.look()

    def look(self) -> None:
        """Say where the running steps are, if nothing was said for long."""
        with self._lock:
            now = self._clock()
            if self._running and now - self._said_at >= QUIET_S:
                # The step that was heard of last, and behind it how far all the runs are.
                *others, (step, known) = self._running.items()
                told = [f"{known.done:,} of {known.total:,}", known.left(now), known.note]
                runs = [f"{other.done} of {other.total} runs" for name, other in others if name == ALL_RUNS]
                self._say(f"{step}: {', '.join(filter(None, [*told, *runs]))}")

    def _moved(self, _step: str, _known: _Step) -> None:
        self.look()

    def _say_and_note(self, line: str) -> None:
        self._said_at = self._clock()
        self._say_line(line)

    def close(self) -> None:
        self._closed.set()
        super().close()


def duration(seconds: float) -> str:
    """Such as "0.4 s", "47 s", "12 min" or "3.5 h"."""
    match seconds:
        case _ if seconds < 10:
            return f"{seconds:.1f} s"
        case _ if seconds < 90:
            return f"{seconds:.0f} s"
        case _ if seconds < 90 * 60:
            return f"{seconds / 60:.0f} min"
        case _:
            return f"{seconds / 3600:.1f} h"
