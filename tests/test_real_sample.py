"""Real patches, where the sample of the competition's is at hand: its overlaps are found, and it is learnt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sentinode
from sentinode.audit.duplicates import hash_pixels
from sentinode.audit.overlaps import find_anchors, match_anchors, overlap_groups
from sentinode.config.presets import load_preset
from sentinode.data.images import read_patch
from sentinode.session import Session
from sentinode.settings import override

pytestmark = [pytest.mark.real_sample, pytest.mark.usefixtures("undrawn")]

SAMPLE = Path(os.environ.get("SENTINODE_REAL_SAMPLE", Path(__file__).parents[2] / "shared" / "hcd"))
PATCH = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample laid out as the competition's folder; skips the test where it is not at hand."""
    if not (SAMPLE / "unpack.py").is_file():
        pytest.skip("the real sample of the competition's patches is not at hand")
    folder = tmp_path_factory.mktemp("real") / "hcd"
    subprocess.run([sys.executable, SAMPLE / "unpack.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    """The sample's labels.csv: id, label, split, overlap_group, validation."""
    return pd.read_csv(SAMPLE / "labels.csv", dtype={"overlap_group": str})


def test_its_known_overlaps_are_found(folder: Path, table: pd.DataFrame) -> None:
    pixels = np.empty((len(table), PATCH, PATCH, 3), np.uint8)
    for row, (name, part) in enumerate(zip(table["id"], table["split"], strict=True)):
        pixels[row] = read_patch(folder / part / f"{name}.tif")

    overlaps = match_anchors(pixels, [find_anchors(pixels, hash_pixels(pixels), 0, len(pixels))])
    groups = overlap_groups(len(pixels), overlaps)

    known = table["overlap_group"].notna().to_numpy()
    assert (groups[known] >= 0).mean() >= 0.95
    for pair in overlaps:
        dx, dy = pair.dx_px, pair.dy_px
        of_a = pixels[pair.a, max(dy, 0) : PATCH + min(dy, 0), max(dx, 0) : PATCH + min(dx, 0)]
        of_b = pixels[pair.b, max(-dy, 0) : PATCH + min(-dy, 0), max(-dx, 0) : PATCH + min(-dx, 0)]
        assert np.array_equal(of_a, of_b)
    # The sample was cut from a grid of 16 pixels, which the search knows nothing of: coincidences
    # would fall beside it.
    assert all(pair.dx_px % 16 == 0 and pair.dy_px % 16 == 0 for pair in overlaps)


def test_it_is_learnt_by_the_notebooks_network(
    folder: Path, table: pd.DataFrame, session: Session, tmp_path: Path
) -> None:
    """Trained on its training column for one epoch, judged on the slides of its validation column."""
    training = table[table["split"] == "train"]
    side = np.where(training["validation"] == 1, "validation", "training")
    training.assign(side=side)[["id", "side"]].to_csv(tmp_path / "split.csv", index=False)
    settings = {"split.by": "file", "split.file": tmp_path / "split.csv", "fit.epochs": 1, "model.bn_momentum": 0.75}
    config = override(load_preset("fair").run_config(), {**settings, "predict.views": 1})
    run = sentinode.fit(folder, config, tmp_path / "run", session)
    assert len(run.predictions) == (training["validation"] == 1).sum()
    assert run.scores["auc"] > 0.8
