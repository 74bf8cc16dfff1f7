"""What the command line shows: bars on a terminal, one line a step elsewhere, one line for an error."""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from sentinode.errors import FailureError, SentinodeError, SentinodeWarning

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class StepBars:
    """A bar for each step, with rate and time left."""

    def __init__(self) -> None:
        rate = TextColumn("{task.fields[rate]}")
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            rate,
            TimeRemainingColumn(),
            console=stderr,
        )
        self._tasks: dict[str, tuple[TaskID, float, int]] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        if step not in self._tasks:
            self._bars.start()
            self._tasks[step] = (self._bars.add_task(step, total=total, rate=""), time.perf_counter(), done)
        task, started, first = self._tasks[step]
        self._bars.update(task, completed=done, total=total, rate=_rate(done - first, started))
        if done >= total:
            self._bars.stop_task(task)
            del self._tasks[step]

    def close(self) -> None:
        self._bars.stop()


class StepLines:
    """One line when a step is over."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[float, int]] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        started, first = self._started.setdefault(step, (time.perf_counter(), done))
        if done >= total:
            took = time.perf_counter() - started
            speed = _rate(done - first, started)
            stderr.print(f"{step}: {total:,} in {took:.1f} s" + (f", {speed}" if speed else ""), markup=False)
            del self._started[step]

    def close(self) -> None:
        """Nothing is left open."""


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """The Progress for one command; notices come out as lines, Ctrl-C as an error that says how to go on."""
    shown: StepBars | StepLines = StepBars() if stderr.is_terminal else StepLines()
    with warnings.catch_warnings():
        warnings.simplefilter("always", SentinodeWarning)
        show = warnings.showwarning
        warnings.showwarning = lambda message, category, *rest: (
            notice(str(message)) if issubclass(category, SentinodeWarning) else show(message, category, *rest)
        )
        try:
            yield shown
        except KeyboardInterrupt as error:
            raise FailureError(
                "interrupted",
                remedy="What was finished is kept; give the same command again (with --resume, if it has that).",
            ) from error
        finally:
            shown.close()


def notice(text: str) -> None:
    stderr.print(f"note: {' '.join(text.split())}", markup=False)


def say(text: str) -> None:
    stdout.print(text, markup=False)


def show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on a terminal; tab-separated lines elsewhere, for other programs."""
    if not stdout.is_terminal:
        for row in [columns, *rows]:
            print("\t".join(row))  # noqa: T201  rich would wrap it
        return
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    stdout.print(table)


def exit_code_of(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command; an error becomes one line and an exit code, with a traceback only for `debug`."""
    interrupted = "interrupted before anything was begun. Give the same command again."
    try:
        command()
    except KeyboardInterrupt:
        return _report(interrupted, 1, debug)
    except SystemExit as ending:
        if ending.code == 130:  # what typer makes of Ctrl-C
            return _report(interrupted, 1, debug)
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except SentinodeError as error:
        return _report(str(error), error.exit_code, debug)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads; nothing is left to say
        return 1
    except MemoryError:
        return _report("out of memory. Lower data.memory_budget_mb or predict.batch_size.", 1, debug)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        return _report(f"{place}{reason}. Mend that and give the same command again.", 1, debug)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        remedy = "This is a fault of sentinode: please report it with the output of the same command and --debug."
        return _report(f"{type(error).__name__}: {said}. {remedy}", 1, debug)
    return 0


def _report(line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    stderr.print(f"error: {line}", markup=False)
    return code


def _rate(count: int, started: float) -> str:
    elapsed = time.perf_counter() - started
    if count <= 0 or elapsed <= 0:
        return ""
    rate = count / elapsed
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
