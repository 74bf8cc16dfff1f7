"""What is released: a wheel, built from the source archive, that works where no source lies."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sentinode

ROOT = Path(__file__).parent.parent
OF_EXTRAS = (
    "numba",
    "timm",
    "torchvision",
    "openslide",
    "tifffile",
    "onnx",
    "onnxruntime",
    "accelerate",
    "fastapi",
    "uvicorn",
)
MAIN_JOB = f"""
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys({OF_EXTRAS}))
import sentinode
from sentinode.apps.cli import run
assert Path(sentinode.__file__).is_relative_to(sys.argv[1]), sentinode.__file__
assert not any(path.endswith("src") for path in sys.path), sys.path
small = ["--set", "fit.epochs=1", "--set", "seeds=[25]", "--set", "tune=none", "--set", "compare.replicates=100"]
for arguments in (
    ["phantom", "phantom", "--patches", "160", "--slides", "12"],
    ["study", "phantom", "--preset", "quick", "--out", "study", "--cache", "cache", *small],
    ["predict", "study", "phantom", "--out", "again.csv", "--cache", "cache"],
):
    code = run(arguments)
    assert code == 0, (arguments, code)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`python -m build`: the archive from the source, the wheel from the archive."""
    out = tmp_path_factory.mktemp("built")
    made = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    told = subprocess.run(made, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    return out


def test_the_wheel_holds_what_the_package_needs_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        information = f"sentinode-{sentinode.__version__}.dist-info"
        about = email.message_from_bytes(wheel.read(f"{information}/METADATA"))
    source = {
        file.relative_to(ROOT / "src").as_posix()
        for file in (ROOT / "src").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if not name.startswith(information)} == source
    assert about["Version"] == sentinode.__version__
    extras = set(about.get_all("Provides-Extra", []))
    assert {"fast", "zoo", "slides", "export", "runtime"} <= extras


def test_the_archive_holds_what_the_tests_and_documents_need_and_no_pixels(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "Makefile", "constraints.txt", "README.md", "LICENSE", "tests/test_wheel.py"} <= names
    assert not [name for name in names if name.endswith((".tif", ".h5", ".u8"))]


def test_the_installed_wheel_does_the_main_job_without_the_source(built: Path, tmp_path: Path) -> None:
    """In a process that sees this environment's libraries, but not its editable install, nor what is in extras."""
    (path,) = built.glob("*.whl")
    place, work = tmp_path / "installed", tmp_path / "work"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place)]
    subprocess.run([*install, str(path)], check=True, capture_output=True)
    work.mkdir()
    libraries = next(folder for folder in sys.path if folder.endswith("site-packages"))
    # -I: neither the working directory nor PYTHONPATH; -S: no .pth file, which is how an editable install is found.
    code = f"import sys; sys.path[:0] = [{str(place)!r}, {libraries!r}]\n{MAIN_JOB}"
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(place)], cwd=work, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert (work / "study" / "report.html").is_file()
    assert (work / "study" / "submission.csv").read_bytes() == (work / "again.csv").read_bytes()
