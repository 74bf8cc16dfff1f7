"""Imports run one way, and the package holds no code that a file could run."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import sentinode

ROOT = Path(sentinode.__file__).parent
LAYERS = [
    "errors", "files", "machine", "progress", "artefacts", "records", "settings", "randomness", "device", "processes",
    "engine", "session", "config", "kernels", "data", "audit", "phantom", "splits", "inputs", "models", "evaluation",
    "inference", "fitting", "runs", "studies", "explain", "slides", "exports", "report", "api", "apps",
]  # fmt: skip
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def layer_of(module: str) -> str:
    """The layer of a module by its full name; `python -m sentinode` is an app."""
    layer = module.split(".")[1]
    return "apps" if layer == "__main__" else layer


def imports_of(path: Path) -> set[str]:
    """Every `sentinode` module that a file imports, at any depth of the code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("sentinode.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_to_the_left(path: Path) -> None:
    own = layer_of("sentinode." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports_of(path):
        if layer_of(name).startswith("__"):
            continue
        assert LAYERS.index(layer_of(name)) <= LAYERS.index(own), f"{own} imports {name}"


def test_the_loop_scores_nothing() -> None:
    for path in (ROOT / "fitting").glob("*.py"):
        assert not {name for name in imports_of(path) if layer_of(name) == "evaluation"}, path


def test_pages_are_drawn_without_a_network() -> None:
    """They are drawn from records: of `models` they know only what a record of a network is."""
    pages = [path for path in MODULES if path.relative_to(ROOT).parts[0] == "report"]
    assert pages
    for path in pages:
        known = {name.split(".")[2] for name in imports_of(path) if name.startswith("sentinode.models.")}
        assert known <= {"summary"}, path
        assert "timm" not in {
            node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.alias)
        }


def test_every_module_has_a_layer() -> None:
    named = {f"sentinode.{path.relative_to(ROOT).parts[0].removesuffix('.py')}" for path in MODULES}
    assert {layer_of(name) for name in named} == set(LAYERS)


def test_no_two_public_types_share_a_name() -> None:
    """Nor a class with another type; options of the command line are named as they are typed."""
    classes, others = Counter[str](), set[str]()
    for path in MODULES:
        if path == ROOT / "apps" / "options.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.ClassDef(name=name):
                    classes[name] += not name.startswith("_")
                case ast.Assign(targets=[ast.Name(id=name)]) if not name.isupper():
                    others.add(name)
    assert [name for name, times in classes.items() if times > 1] == []
    assert classes.keys() & others == set()


def loads_only_weights(node: ast.AST) -> bool:
    """Is this node of the code a call `torch.load(..., weights_only=True)`?"""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"):
        return False
    return any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_code_from_data(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"eval", "exec", "__import__"}
    text = path.read_text(encoding="utf-8")
    assert "import pickle" not in text
    # A checkpoint of PyTorch's is a pickle; with weights_only=True it may hold tensors, and calls nothing.
    assert text.count("torch.load(") == sum(map(loads_only_weights, ast.walk(tree)))
    assert "allow_pickle=True" not in text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_files_are_named_for_what_they_hold(path: Path) -> None:
    assert path.stem not in {"utils", "util", "common", "helpers", "misc"}
    if path.stem != "__init__":
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_environment_variables_are_read_in_apps_and_by_what_knows_the_machine_only() -> None:
    readers = [p for p in MODULES if re.search(r"os\.environ|getenv", p.read_text(encoding="utf-8"))]
    assert [p.name for p in readers if p.relative_to(ROOT).parts[0] != "apps"] == ["machine.py"]


def test_the_house_in_the_document_is_the_one_that_stands() -> None:
    document = (ROOT.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    house = document[document.index("## The house") :]
    house = house[house.index("```text\n") + len("```text\n") :]
    lines = house[: house.index("```")].splitlines()
    assert [line.split()[0].rstrip("/") for line in lines] == LAYERS
    assert all((ROOT / line.split()[0]).is_dir() for line in lines if line.split()[0].endswith("/"))


def test_no_folder_is_too_flat_to_walk() -> None:
    for folder in {path.parent for path in MODULES} - {ROOT}:
        assert len([path for path in folder.glob("*.py") if path.stem != "__init__"]) <= 16, folder


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_that_a_document_names_is_there(name: str) -> None:
    top = ROOT.parents[1]
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.py)`", (top / name).read_text(encoding="utf-8")))
    assert named
    assert {path for path in named if not any((place / path).is_file() for place in (top, ROOT))} == set()
