"""The command line starts in any environment: what it holds for other programs breaks nothing, and all is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRAW = """
from sentinode.apps.start import prepare_process
prepare_process()
import os
from sentinode.report.figures.style import panel
with panel("figure", "A line.") as drawing:
    drawing.axes.plot([0, 1], [1, 0])
assert "<path" in drawing.svg
print([name for name in os.environ if name.startswith(("MPLB", "MATP", "NUMBA", "OMP_NUM"))])
"""
SAY = r"""
import sys
from sentinode.apps.start import prepare_process
prepare_process()
from sentinode.apps import console
console.say("gr\u00fcn \u2014 \u6771\u4eac K\udcf6ln.tif")
console.notice("\u2265 95 %")
console.show_table("scores", ["\u0394", "value"], [["\u6771\u4eac", "1"]])
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR", "SYSTEMROOT", "PYTHONPATH")}
    return subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True)


def told_by(shell: str) -> subprocess.CompletedProcess[str]:
    """What a shell says in which VERSION stands for `sentinode --version`."""
    script = shell.replace("VERSION", f"'{sys.executable}' -m sentinode --version")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=buffered)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_an_output_that_takes_nothing_is_one_line() -> None:
    full = told_by("VERSION > /dev/full")
    assert full.returncode == 1
    assert full.stderr == "error: standard output: No space left on device. What was done is kept.\n"
    unread = told_by("(sleep 1; VERSION; echo $? >&2) | true")  # the reader is gone
    assert unread.stderr == "1\n"


@pytest.mark.skipif(os.name != "posix", reason="the shell closes streams")
def test_closed_streams_break_nothing_and_no_file_takes_their_place() -> None:
    code = "from sentinode.apps.start import prepare_process; prepare_process(); import os; "
    code += "os.write(9, str(os.open('/', os.O_RDONLY)).encode())"
    told = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$1" 9>&1 <&- >&- 2>&-', "bash", code], capture_output=True, text=True
    )
    assert told.returncode == 0
    assert int(told.stdout) > 2
    assert told_by("VERSION <&- >&- 2>&-").returncode == 0


def test_what_the_environment_holds_for_others_breaks_no_figure() -> None:
    """Jupyter's backend, which this interpreter lacks; a matplotlibrc that is not there; counts set to nothing."""
    backend = "module://matplotlib_inline.backend_inline"
    left = {"MPLBACKEND": backend, "MATPLOTLIBRC": "/nowhere", "OMP_NUM_THREADS": "", "NUMBA_NUM_THREADS": "many"}
    left["NUMBA_DISABLE_JIT"] = "1"
    told = python(DRAW, HOME="/nowhere", TZ="Nowhere/Land", LC_ALL="xx_XX", TERM="", COLUMNS="wide", **left)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == b"[]"


@pytest.mark.parametrize(
    ("encoding", "first"),
    [
        ("ascii", rb"gr\xfcn \u2014 \u6771\u4eac K\udcf6ln.tif"),
        ("cp1252", b"gr\xfcn \x97 \\u6771\\u4eac K\\udcf6ln.tif"),
        ("utf-8", "gr\u00fcn \u2014 \u6771\u4eac K\\udcf6ln.tif".encode()),
    ],
)
def test_what_the_output_cannot_show_is_spelled_out(encoding: str, first: bytes) -> None:
    told = python(SAY, PYTHONIOENCODING=f"{encoding}:strict", PYTHONUTF8="0", LC_ALL="C")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[0] == first
    assert told.stderr.startswith(b"note: ")
    assert len(told.stdout.splitlines()) == 3


NAMES = """
import sys
from pathlib import Path
from sentinode.config.run import RunConfig
from sentinode.errors import SentinodeError
from sentinode.files import as_file_name, read_bytes
from sentinode.settings import override
spelled = "gr\\u00fcn.csv"
for said in (
    lambda: override(RunConfig(), {"data.slides": sys.argv[1]}),
    lambda: override(RunConfig(), {"data.slides": Path(sys.argv[1])}),
    lambda: read_bytes(Path(spelled), limit_mb=1, remedy=""),
):
    try:
        said()
    except SentinodeError as error:
        print(ascii(str(error)))
print(read_bytes(Path(as_file_name(spelled)), limit_mb=1, remedy="") == b"a,b", as_file_name(spelled) == sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_of_utf8_in_a_locale_of_ascii_is_told_to_be_the_locales_fault(tmp_path: Path) -> None:
    """However it came: on the command line, as a path, from a file of settings; from a table it works."""
    name = "gr\u00fcn.csv".encode()
    (tmp_path / os.fsdecode(name)).write_bytes(b"a,b")
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH")}
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run(
        [sys.executable, "-c", NAMES, name], env=kept | plain, capture_output=True, text=True, cwd=tmp_path
    )
    *refused, works = told.stdout.splitlines()
    assert works == "True True", told.stderr
    assert len(refused) == 3
    for line in refused:
        assert "its name is UTF-8, and the locale of this process is not (ascii)" in line
        assert "et PYTHONUTF8=1" in line
        assert "rename" not in line
