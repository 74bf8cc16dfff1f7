"""A task: what kind of work, its name, and plain data. As JSON it is all that another process or machine is ever sent.

What a task does is an ordinary function, found by the task's kind: paths go in, a sealed folder comes out. So a task
that is done twice, or half done by a process that was killed, leaves what one leaves that was done once.
"""

from __future__ import annotations

import json
import math
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

import sentinode
from sentinode.errors import ConfigError, DataError, RunError, SentinodeError, SentinodeWarning, SplitError

Kind = Literal["run", "block", "slide"]
_DOERS: Final[dict[Kind, tuple[str, str]]] = {
    "run": ("sentinode.runs.tasks", "do_run"),
    "block": ("sentinode.runs.tasks", "do_block"),
    "slide": ("sentinode.slides.slide_tasks", "do"),
}
"""The function of each kind. They are of higher layers, so they are named here, and imported where they are called."""
_SAYS_S: Final = 0.3  # between two messages of a step
_FOR_GOOD: Final = (ConfigError, DataError, SplitError)
"""Errors of what was asked for: the same would be said again."""


@dataclass(frozen=True)
class Needs:
    """What a task takes of a machine; None leaves it to the engine."""

    cpus: int | None = None
    gpus: float = 0.0
    memory_mb: int | None = None


@dataclass(frozen=True)
class EngineTask:
    """One of many. `given` holds only what JSON has: settings as text, paths, digests, numbers.

    files: by what the work calls them, the files that it reads, each by its name and where it lies on the machine that
    asks; an engine brings them to a machine that does not have them, and knows them by `digests`.
    """

    kind: Kind
    name: str
    given: Mapping[str, Any]
    needs: Needs = Needs()
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    version: str = sentinode.__version__

    def to_json(self) -> str:
        """Raises TypeError or ValueError where something is not plain."""
        text = json.dumps(asdict(self), allow_nan=False)
        assert json.loads(text)["given"] == self.given, f"{self.name}: something in it is not what JSON has"
        return text

    @classmethod
    def from_json(cls, text: str) -> EngineTask:
        """Raises RunError for anything else, and for a task of another version of sentinode."""
        try:
            found = _TASK.validate_json(text)
        except ValidationError as error:
            raise RunError(f"is not a task ({error.error_count()} errors)", remedy="Send one.") from error
        if found.version != sentinode.__version__:
            told = f"was sent by sentinode {found.version} to sentinode {sentinode.__version__}"
            raise RunError(told, where=found.name, remedy="Install the same version on every machine.")
        return found


_TASK: Final = TypeAdapter(EngineTask)


@dataclass(frozen=True)
class Failure:
    """Why a task could not be done, in one line; `for_good`: trying it again would not help."""

    reason: str
    for_good: bool = False


@dataclass(frozen=True)
class TaskOutcome:
    """What became of a task. Its result lies in its folder; `failure` is None where it does."""

    task: EngineTask
    failure: Failure | None = None
    attempts: int = 1
    stopped: bool = False
    """Whether it was told to stop, as a trial that is pruned."""


class PrunedError(Exception):
    """Raised within a task that was told to stop: a part of what it was asked to do is what is wanted of it."""


@dataclass(frozen=True, eq=False)
class Desk:
    """Where a task is done: what it may use, and how it speaks to whoever asked for it.

    `tell` sends one message; `ask` sends one and waits for the answer; `place` says where a file of the task lies here.
    """

    threads: int
    device: str
    tell: Callable[[dict[str, Any]], None]
    ask: Callable[[dict[str, Any]], bool]
    place: Callable[[str, str], Path]
    _told_at: dict[str, float] = field(default_factory=dict)

    def progress(self, step: str, done: int, total: int, note: str = "", /) -> None:
        """Not each is told, for whoever hears them is kept from working by it: a step's last, and a few a second."""
        now = time.monotonic()
        if done >= total or now - self._told_at.get(step, -math.inf) >= _SAYS_S:
            self._told_at[step] = now
            self.tell({"step": [step, done, total, note]})

    def notify(self, text: str) -> None:
        self.tell({"notice": text})

    def go_on(self, row: Mapping[str, Any]) -> None:
        """Report an epoch; raises PrunedError where whoever asked for the task has seen enough."""
        if not self.ask({"row": dict(row)}):
            raise PrunedError


def do(task: EngineTask, desk: Desk) -> dict[str, Any]:
    """Do a task in this process, whatever happens; returns what became of it, as plain data."""
    module, name = _DOERS[task.kind]
    with warnings.catch_warnings():
        warnings.simplefilter("always", SentinodeWarning)
        show = warnings.showwarning
        warnings.showwarning = lambda message, category, *rest: (
            desk.notify(str(message)) if issubclass(category, SentinodeWarning) else show(message, category, *rest)
        )
        try:
            getattr(import_module(module), name)(task, desk)
        except PrunedError:
            return {"stopped": True}
        except SentinodeError as error:
            return {"failed": str(error), "for_good": isinstance(error, _FOR_GOOD)}
        except MemoryError:
            return {"failed": "out of memory. Lower running.memory_budget_mb, or ask for fewer processes."}
        except Exception as error:  # whatever it is, the other tasks go on
            traceback.print_exc()
            return {"failed": f"{type(error).__name__}: {error}. This is a bug in sentinode: please report it."}
    return {}
