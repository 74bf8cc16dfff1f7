"""Real patches, where the sample of the competition's is at hand: its overlaps are found, and it is learnt."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import sentinode
from sentinode.audit.duplicates import hash_pixels
from sentinode.audit.overlaps import find_anchors, match_anchors, overlap_groups
from sentinode.config.presets import load_preset
from sentinode.data.images import encode_tiff
from sentinode.session import Session
from sentinode.settings import override

pytestmark = [pytest.mark.real_sample, pytest.mark.usefixtures("undrawn")]

SAMPLE = Path(os.environ.get("SENTINODE_REAL_SAMPLE", Path(__file__).parents[2] / "shared" / "hcd"))
PATCH = 96


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """The sample's labels.csv: id, label, split, overlap_group, validation; skips the test where it is not at hand."""
    if not (SAMPLE / "labels.csv").is_file():
        pytest.skip("the real sample of the competition's patches is not at hand")
    return pd.read_csv(SAMPLE / "labels.csv", dtype={"overlap_group": str})


def pixels_of(some: pd.DataFrame) -> np.ndarray:
    """Of some of the table's patches, (N, 96, 96, 3)."""
    found = np.empty((len(some), PATCH, PATCH, 3), np.uint8)
    row_of = {name: row for row, name in enumerate(some["id"])}
    for path in sorted(SAMPLE.glob("patches-*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                row = row_of.pop(Path(name).stem, None)
                if row is not None:
                    found[row] = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
    assert not row_of
    return found


def test_its_known_overlaps_are_found(table: pd.DataFrame) -> None:
    """Among all patches with a known overlap and every sixth of the others."""
    known = table["overlap_group"].notna().to_numpy()
    among = known | (np.arange(len(known)) % 6 == 0)
    pixels, known = pixels_of(table[among]), known[among]
    overlaps = match_anchors(pixels, [find_anchors(pixels, hash_pixels(pixels), 0, len(pixels))])
    groups = overlap_groups(len(pixels), overlaps)
    assert (groups[known] >= 0).mean() >= 0.95
    for pair in overlaps:
        dx, dy = pair.dx_px, pair.dy_px
        of_a = pixels[pair.a, max(dy, 0) : PATCH + min(dy, 0), max(dx, 0) : PATCH + min(dx, 0)]
        of_b = pixels[pair.b, max(-dy, 0) : PATCH + min(-dy, 0), max(-dx, 0) : PATCH + min(-dx, 0)]
        assert np.array_equal(of_a, of_b)
    # The sample was cut from a grid of 16 pixels, which the search knows nothing of: coincidences
    # would fall beside it.
    assert all(pair.dx_px % 16 == 0 and pair.dy_px % 16 == 0 for pair in overlaps)


def test_it_is_learnt_by_the_notebooks_network(table: pd.DataFrame, session: Session, tmp_path: Path) -> None:
    """Every third patch of its training column, judged on the slides of its validation column."""
    some = table[table["split"] == "train"].iloc[::3]
    (tmp_path / "data" / "train").mkdir(parents=True)
    for name, patch in zip(some["id"], pixels_of(some), strict=True):
        (tmp_path / "data" / "train" / f"{name}.tif").write_bytes(encode_tiff(patch))
    some[["id", "label"]].to_csv(tmp_path / "data" / "train_labels.csv", index=False)
    side = np.where(some["validation"] == 1, "validation", "training")
    some.assign(side=side)[["id", "side"]].to_csv(tmp_path / "split.csv", index=False)
    settings = {"split.by": "file", "split.file": tmp_path / "split.csv", "fit.epochs": 3, "model.bn_momentum": 0.75}
    config = override(load_preset("fair").run_config(), {**settings, "predict.views": 1})
    run = sentinode.fit(tmp_path / "data", config, tmp_path / "run", session)
    assert len(run.predictions) == (some["validation"] == 1).sum()
    assert run.scores["auc"] > 0.8
