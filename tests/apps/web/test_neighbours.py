"""The training patches that are shown beside a patch are the library's, and only of what the model was trained on."""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import sentinode
from conftest import make_patches
from sentinode import Session
from sentinode.api.explain import training_neighbours
from sentinode.apps.web.server import application
from sentinode.apps.web.service import MOST_COMPARED, Service
from sentinode.apps.web.uploads import Limits
from sentinode.data.images import encode_tiff
from sentinode.data.patches import PatchSet
from sentinode.errors import ConfigError
from sentinode.explain.neighbours import NeighbourSearch, neighbours_of
from sentinode.runs.material import Material
from sentinode.runs.run import Run


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(cache_root=tmp_path_factory.mktemp("cache"), workers=1)


def folder_of(place: Path, patches: PatchSet) -> Path:
    """The patches as a data folder."""
    (place / "train").mkdir(parents=True)
    with (place / "train_labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "label"])
        for name, label, patch in zip(patches.ids, patches.labels, patches.pixels, strict=True):
            (place / "train" / f"{name}.tif").write_bytes(encode_tiff(patch))
            table.writerow([name, label])
    return place


@pytest.fixture(scope="module")
def data(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("data") / "d", material.patches)


@pytest.fixture(scope="module")
def run(served: Path) -> Run:
    return Run.open(served)


@pytest.fixture(scope="module")
def search(run: Run, data: Path, session: Session) -> NeighbourSearch:
    return training_neighbours(run.folder, data, session)


def client_of(run: Run, search: NeighbourSearch | None) -> TestClient:
    classifier = sentinode.load(run.folder, device="cpu")
    service = Service(classifier, "d" * 64, maps="none", limits=Limits(), neighbours=search)
    return TestClient(application(service), base_url="http://localhost")


def npy(patches: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, patches)
    return {"content": file.getvalue(), "headers": {"content-type": "application/x-npy"}}


def test_they_are_the_librarys_with_their_pictures(run: Run, search: NeighbourSearch, session: Session) -> None:
    others = make_patches(3, seed=9)
    expected = neighbours_of(run, others, search.training, session=session)
    with client_of(run, search) as client:
        said = client.post("/v1/neighbours", **npy(others.pixels)).json()
        assert client.get("/v1/model").json()["neighbours"] is True
    assert said["model_sha256"] == "d" * 64
    for patches, of in zip(said["neighbours"], expected, strict=True):
        known = {neighbour.id: neighbour for neighbours in of.of_class for neighbour in neighbours}
        assert [patch["similarity"] for patch in patches] == sorted(
            (n.similarity for n in known.values()), reverse=True
        )
        assert sorted(patch["label"] for patch in patches) == [0, 0, 0, 1, 1, 1]
        for patch in patches:
            assert (patch["label"], patch["similarity"]) == (known[patch["id"]].label, known[patch["id"]].similarity)
            picture = base64.b64decode(patch["picture"].removeprefix("data:image/png;base64,"))
            row = search.training.rows_of(np.array([patch["id"]]))[0]
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture))), search.training.pixels[row])


def test_a_patch_that_was_trained_on_is_shown_as_such(run: Run, search: NeighbourSearch) -> None:
    own = sorted(run.training_ids)[0]
    row = search.training.rows_of(np.array([own]))
    with client_of(run, search) as client:
        said = client.post("/v1/neighbours", **npy(search.training.pixels[row])).json()
    first = said["neighbours"][0][0]
    assert (first["id"], first["tie"]) == (own, "equal")
    assert first["similarity"] == pytest.approx(1, abs=1e-5)


def test_without_the_training_set_the_option_is_named_and_too_many_are_refused(
    run: Run, search: NeighbourSearch
) -> None:
    with client_of(run, None) as client:
        answer = client.post("/v1/neighbours", **npy(search.training.pixels[:1]))
        assert answer.status_code == 404
        assert "--data DATA" in answer.json()["detail"]
        card = client.get("/v1/model").json()
        assert (card["neighbours"], card["no_neighbours"]) == (False, "the service was started without --data")
    many = np.repeat(search.training.pixels[:1], MOST_COMPARED + 1, axis=0)
    with client_of(run, search) as client:
        assert client.post("/v1/neighbours", **npy(many)).status_code == 422


def test_other_data_than_the_models_are_refused(run: Run, material: Material, tmp_path: Path, session: Session) -> None:
    labels = material.patches.labels.copy()
    labels[0] = 1 - labels[0]
    other = folder_of(tmp_path / "other", replace(material.patches, labels=labels))
    with pytest.raises(ConfigError, match="other patches than run was trained on, or other labels"):
        training_neighbours(run.folder, other, session)
