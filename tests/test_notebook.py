"""The notebook for Kaggle and Colab runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebooks" / "first-study.ipynb"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Its cells by their ids, after all ran in a kernel of their own, with a home, which Jupyter cannot do without.

    Nothing is changed but the size of the phantom.
    """
    place = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (start,) = (cell for cell in notebook.cells if cell["id"] == "start")
    assert "patches=800, slides=16" in start["source"]
    start["source"] = start["source"].replace("patches=800, slides=16", "patches=200, slides=12")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        at_place = {"metadata": {"path": str(place)}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=at_place).execute()
    return {cell["id"]: cell for cell in notebook.cells}


def test_every_cell_ran_and_a_study_is_shown_with_its_answer(ran: dict[str, Any]) -> None:
    (shown,) = (out for out in ran["study"]["outputs"] if out["output_type"] == "execute_result")
    assert "Not known" in shown["data"]["text/html"]
    assert "<svg" in shown["data"]["text/html"]
    assert "phantom" in shown["data"]["text/html"]
    assert "before" in ran["scores"]["outputs"][0]["data"]["text/html"]
    assert "image/svg+xml" in ran["figure"]["outputs"][0]["data"]
    lines = ran["use"]["outputs"][0]["text"].splitlines()
    assert len(lines) == 6
    assert all(line.endswith("tumour") for line in lines)


def test_it_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")
