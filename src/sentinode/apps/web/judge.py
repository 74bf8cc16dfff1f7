"""A process that judges slides for the service, and gives way to it: heat maps never make a patch's answer late.

It ends with the service, however that ends: the pipe between them is closed then. Whatever it had judged by then lies
in the slide's journal.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Protocol

from sentinode.errors import SentinodeError, SentinodeWarning, one_line
from sentinode.machine import give_way
from sentinode.slides.cohort import SlideRow
from sentinode.slides.judging import SlideEntry, SlideSettings

Told = Callable[[int, int, str], None]
"""Hears how many cells are judged, of how many, and what is being done."""
Task = tuple[SlideEntry, Path]
"""A slide, and the folder of its cohort's results, which the service holds."""
_FRESH: Final = get_context("spawn")  # a fork of a process that runs PyTorch's threads can hang


class StoppedError(Exception):
    """The judge was stopped, or ended by itself, before the slide was finished."""


class Judge(Protocol):
    """Judges one slide after the other."""

    def judge(self, task: Task, told: Told) -> SlideRow:
        """The slide's row, once its files are written; blocks until then. Raises StoppedError."""
        ...

    def stop(self) -> None:
        """End what is being judged, from another thread, or what waits for work; a later slide begins anew."""
        ...


@dataclass(frozen=True)
class HowToJudge:
    """All that the process needs to know."""

    model: Path
    networks: tuple[str, ...]
    """Of a user's own, as `--network` names them."""
    settings: SlideSettings
    cache: Path | None
    device: str
    threads: int | None
    runtime: str


class JudgingProcess:
    """A `Judge` in a process of its own, which is begun with the first slide and kept until it is stopped."""

    def __init__(self, how: HowToJudge) -> None:
        self._how, self._lock = how, threading.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def judge(self, task: Task, told: Told) -> SlideRow:
        pipe = self._begun()
        try:
            pipe.send(task)
            while not isinstance(said := pipe.recv(), SlideRow):
                told(*said)
            return said
        except (EOFError, OSError) as error:
            self.stop()
            raise StoppedError from error

    def stop(self) -> None:
        with self._lock:
            process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None and pipe is not None:
            process.kill()  # what it has judged is in the journal
            process.join()
            pipe.close()

    def _begun(self) -> Connection:
        with self._lock:
            if self._process is None or self._pipe is None:
                self._pipe, theirs = _FRESH.Pipe()
                self._process = _FRESH.Process(target=_work, args=(self._how, theirs), daemon=True)
                self._process.start()
                theirs.close()
            return self._pipe


def _work(how: HowToJudge, pipe: Connection) -> None:
    """The process: judge what comes through the pipe until it is closed."""
    give_way()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the service
    tasks: SimpleQueue[Task] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    from sentinode.api.slides import judge_one_more, model_of
    from sentinode.apps.options import own_network, session_of

    how_long = "judging"

    def progress(step: str, done: int, total: int, _note: str = "", /) -> None:
        if step == "judge cells":
            pipe.send((done, total, how_long if done < total else "writing the results"))

    def notify(text: str) -> None:
        nonlocal how_long
        how_long = one_line(text)

    warnings.simplefilter("ignore", SentinodeWarning)  # what they say stands in the slide's record
    session = session_of(how.cache, how.device, 1, progress, threads=how.threads, runtime=how.runtime)
    session = replace(session, notify=notify)
    model = None
    while True:
        entry, out = tasks.get()
        pipe.send((0, 0, "looking for tissue"))
        try:
            model = model or model_of(how.model, session, network=own_network(how.networks))
            row = judge_one_more(entry, model, how.settings, out, session)
        except SentinodeError as error:  # of the model or the disk: it would fail every slide
            row = SlideRow(str(entry.path), entry.name, "failed", str(error))
        pipe.send(row)
