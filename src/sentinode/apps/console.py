"""What the command line shows: sentences, tables, one line for an error; how far it has come is `steps.py`'s."""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import BadParameter

from sentinode.apps.steps import StepBars, StepLines
from sentinode.errors import FailureError, SentinodeError, SentinodeWarning, one_line
from sentinode.progress import Progress

_UsageError: Final = cast("type[Exception]", BadParameter.__base__)
"""Of every wrong option, value or command; typer names only its descendant in public."""
_INTERRUPTED: Final = 130  # what typer makes of Ctrl-C
stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


@contextmanager
def steps() -> Iterator[Progress]:
    """The Progress for one command; notices come out as lines, Ctrl-C as an error that says how to go on."""
    shown = StepBars(_tell, stderr) if stderr.is_terminal else StepLines(_tell)
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
                remedy="Finished work is kept. Run the same command again, with --resume where it has that option.",
            ) from error
        finally:
            shown.close()


def notice(text: str) -> None:
    _print(stderr, f"note: {text}")


def say(text: str) -> None:
    _print(stdout, text)


def _print(console: Console, text: str) -> None:
    """A line; on a terminal it wraps at words, and a word longer than the screen, such as a path, stays whole."""
    text = one_line(text)
    if console.is_terminal:
        text = textwrap.fill(text, console.width, break_long_words=False, break_on_hyphens=False)
    # Work does not stop because nobody can be told of it; a result that cannot be printed is an error.
    with suppress(OSError) if console is stderr else nullcontext():
        console.print(text, markup=False, soft_wrap=True)


def _tell(text: str) -> None:
    _print(stderr, text)


def show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on a terminal; tab-separated lines elsewhere, for other programs."""
    title, columns, rows = one_line(title), [*map(one_line, columns)], [[*map(one_line, row)] for row in rows]
    if not stdout.is_terminal:
        for row in [columns, *rows]:
            sys.stdout.write("\t".join(row) + "\n")  # rich would wrap it
        return
    table = Table(title=escape(title), title_justify="left")
    for name in columns:
        table.add_column(escape(name))
    for row in rows:
        table.add_row(*map(escape, row))
    stdout.print(table)


def exit_code_of(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command; an error becomes one line and an exit code, with a traceback only for `debug`."""
    code = _exit_code_of(command, debug)
    if (unwritten := _unwritten(sys.stdout)) is not None:
        code = _report_unwritten(unwritten, debug)
    _unwritten(sys.stderr)
    return code


def _unwritten(stream: TextIO | None) -> OSError | None:
    """Why what was printed cannot be written, if so; it is thrown away then, or Python would complain as it ends."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return error
    return None


def _exit_code_of(command: Callable[[], object], debug: bool) -> int:
    interrupted = "interrupted before anything was started. Run the same command again."
    try:
        code = command()
    except KeyboardInterrupt:
        return _report(interrupted, 1, debug)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except _UsageError as error:
        return _report(_usage_in_words(error), 2, debug)
    except SentinodeError as error:
        return _report(str(error), error.exit_code, debug)
    except MemoryError:
        return _report("out of memory. Lower running.memory_budget_mb or running.prediction_batch_size.", 1, debug)
    except OSError as error:
        if (unwritten := _unwritten(sys.stdout)) is not None:
            return _report_unwritten(unwritten, debug)
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        return _report(f"{place}{reason}. Fix that and run the same command again.", 1, debug)
    except Exception as error:
        said = one_line(str(error))[:300]
        remedy = "This is a bug in sentinode: please report it with the output of the same command and --debug."
        return _report(f"{type(error).__name__}: {said}. {remedy}", 1, debug)
    if code == _INTERRUPTED:
        return _report(interrupted, 1, debug)
    return code if isinstance(code, int) else 0


def _usage_in_words(error: Any) -> str:
    """Where, what and what next of a typer error, whose own words begin as sentences do."""
    said = error.format_message()
    command = error.ctx.command_path if error.ctx else "sentinode"
    end = "" if said.endswith((".", "?")) else "."
    return f"{command}: {said[:1].lower()}{said[1:]}{end} See {command} --help."


def _report_unwritten(error: OSError, debug: bool) -> int:
    if isinstance(error, BrokenPipeError):  # nobody reads; nothing is left to say
        return 1
    return _report(f"standard output: {error.strerror}. What was done is kept.", 1, debug)


def _report(line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _print(stderr, f"error: {line}")
    return code
