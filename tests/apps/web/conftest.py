"""A tiny trained run that the tests of the service share."""

from __future__ import annotations

from pathlib import Path

import pytest

import sentinode
from sentinode import Classifier
from sentinode.config.presets import load_preset
from sentinode.runs.material import Material
from sentinode.runs.train import train_run
from sentinode.settings import override


@pytest.fixture(scope="session")
def served(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1}
    folder = tmp_path_factory.mktemp("served") / "run"
    train_run(material, override(load_preset("fair").run_config(), settings), folder)
    return folder


@pytest.fixture(scope="session")
def classifier(served: Path) -> Classifier:
    return sentinode.load(served, device="cpu")
