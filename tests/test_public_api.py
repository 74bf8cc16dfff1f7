"""The public names: these, all importable, none by accident, and cheap to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import sentinode

PUBLIC = {
    "Classifier", "OwnMetric", "Run", "RunConfig", "SentinodeError", "Session", "Study", "StudyConfig", "check",
    "compare", "convert", "distill", "ensemble", "evaluate", "explain_model", "export",
    "find_lesions", "fit", "heat_map",
    "judge_slides", "load", "load_config", "load_preset", "override", "predict", "read_slide", "score_slides", "split",
    "study", "tune", "wait_passively", "write_phantom", "write_report",
}  # fmt: skip


def test_these_names_are_public() -> None:
    assert set(sentinode.__all__) == PUBLIC
    assert set(dir(sentinode)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(sentinode, name)
    assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = sentinode.magic


def test_importing_the_package_and_showing_help_imports_no_torch() -> None:
    code = "import sys, sentinode, sentinode.apps.cli; print('torch' in sys.modules, 'pandas' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
