"""A trained model as one object: any form of patches, the same bits in any batches, one line for what is wrong."""

from __future__ import annotations

import copy
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sentinode
from conftest import make_patches
from rounding import Rounding
from sentinode import Classifier
from sentinode.config.presets import load_preset
from sentinode.config.run import NotebookModel, PreprocessConfig, RunConfig
from sentinode.data.patches import apply_symmetry
from sentinode.errors import ConfigError, DataError, RunError
from sentinode.inference.network import BatchSize
from sentinode.inference.trained import TrainedNetwork
from sentinode.inputs.augment import as_input
from sentinode.inputs.preprocess import Prepared, prepare
from sentinode.models.build import build
from sentinode.records import write_record
from sentinode.runs.decision import DECISION, open_decision
from sentinode.runs.ensemble import join_runs
from sentinode.runs.load import classifier_of
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override

CPU = torch.device("cpu")
BASE = override(load_preset("fair").run_config(), {"fit.epochs": 1, "fit.batch_size": 16})
PATCHES = make_patches(21, seed=5).pixels


def trained(material: Material, folder: Path, **settings: Any) -> Run:
    return train_run(material, override(BASE, settings), folder)


@pytest.fixture(scope="module")
def run(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(material, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def other(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of one view, and of larger inputs."""
    settings = {"predict.views": 1, "preprocess.size_px": 48, "fit.seed": 9}
    return trained(material, tmp_path_factory.mktemp("runs") / "other", **settings)


@pytest.fixture(scope="module")
def classifier(run: Run) -> Classifier:
    return sentinode.load(run.folder, device="cpu")


def images() -> list[Image.Image]:
    return [Image.fromarray(patch) for patch in PATCHES]


FORMS: dict[str, Callable[[], Any]] = {
    "bytes as a tensor": lambda: torch.from_numpy(PATCHES),
    "channels first": lambda: torch.from_numpy(PATCHES).permute(0, 3, 1, 2),
    "floats": lambda: torch.from_numpy(PATCHES).permute(0, 3, 1, 2).float() / 255,
    "images": images,
    "a tuple of images": lambda: tuple(images()),
    "batches": lambda: iter([PATCHES[:1], torch.from_numpy(PATCHES[1:6]), images()[6:13], [], PATCHES[13:]]),
    "a list of batches": lambda: [PATCHES[:16], PATCHES[16:]],
    "not contiguous": lambda: np.asfortranarray(PATCHES),
}


@pytest.mark.numeric
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_patches_gives_the_same_bits(classifier: Classifier, form: str) -> None:
    expected = classifier(PATCHES)
    assert expected.dtype == np.float64
    assert classifier(FORMS[form]()).tolist() == expected.tolist()


@pytest.mark.numeric
@pytest.mark.parametrize("architecture", ["notebook", "p4m"])
def test_a_patch_has_the_same_bits_whatever_comes_with_it(architecture: str) -> None:
    config = override(RunConfig(), {"model.architecture": architecture, "preprocess.size_px": 32, "predict.views": 1})
    generator = torch.Generator().manual_seed(0)
    network = TrainedNetwork(build(config.model, input_size_px=32, generator=generator), config, CPU)
    pixels = np.random.default_rng(0).integers(0, 256, (75, 32, 32, 3), dtype=np.uint8)
    whole = network.probabilities(pixels)
    for size in (1, 2, 3, 7, 8, 20, 64):
        parts = [network.probabilities(pixels[k : k + size]) for k in range(0, 75, size)]
        assert np.concatenate(parts).tolist() == whole.tolist(), size


@pytest.mark.numeric
def test_it_says_of_validation_patches_what_the_run_said(
    classifier: Classifier, material: Material, run: Run, other: Run
) -> None:
    rows = material.patches.rows_of(run.predictions.ids)
    assert classifier(material.patches.pixels[rows]).tolist() == run.predictions.probabilities.tolist()
    said = classifier_of([other], CPU)(material.patches.pixels[rows])
    assert said.tolist() == other.predictions.probabilities.tolist()


def test_nothing_is_predicted_of_nothing(classifier: Classifier) -> None:
    for nothing in (PATCHES[:0], [], iter([])):
        assert classifier(nothing).shape == (0,)


def test_a_stream_is_never_held(classifier: Classifier) -> None:
    seen: list[weakref.ref[np.ndarray]] = []

    def stream() -> Iterator[np.ndarray]:
        for _ in range(6):
            assert sum(batch() is not None for batch in seen) <= 1, "an earlier batch is still there"
            batch = PATCHES.copy()
            seen.append(weakref.ref(batch))
            yield batch
            del batch

    assert classifier(stream()).tolist() == np.tile(classifier(PATCHES), 6).tolist()


@pytest.mark.numeric
def test_threads_get_what_one_alone_gets(run: Run) -> None:
    fresh = sentinode.load(run.folder, device=CPU)  # its batch size is still to be found
    given = [PATCHES[k % 7 :] for k in range(12)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(fresh, given))
    assert [each.tolist() for each in found] == [fresh(each).tolist() for each in given]


def test_it_tells_how_far_it_is(classifier: Classifier) -> None:
    told: list[tuple[int, int]] = []
    classifier(PATCHES, on_progress=lambda done, total: told.append((done, total)))
    classifier(iter([PATCHES[:4], PATCHES[4:]]), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(21, 21), (4, 4), (21, 21)]


def test_logits_are_those_of_the_probabilities(classifier: Classifier) -> None:
    assert 1 / (1 + np.exp(-classifier.logits(PATCHES))) == pytest.approx(classifier(PATCHES), abs=1e-15)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibrated_as_the_run_recorded_it(classifier: Classifier, run: Run, method: Any) -> None:
    expected = open_decision(run.folder).calibrations[method].apply(classifier(PATCHES))
    assert classifier.calibrated(PATCHES, method).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["youden", "sensitivity", "cost"])
def test_each_operating_point_decides(classifier: Classifier, run: Run, material: Material, name: Any) -> None:
    point = run.decision.points[name]
    assert classifier.operating_points[name] == point
    validation = run.predictions
    called = classifier.decide(material.patches.pixels[material.patches.rows_of(validation.ids)], name)
    assert called.dtype == bool
    assert called[validation.labels == 1].mean() == point.sensitivity
    assert (~called)[validation.labels == 0].mean() == point.specificity
    told = classifier.operating_point(name)
    assert (told.threshold, told.rule) == (point.threshold, f"{point.rule}; chosen on the validation set")


def test_a_number_decides_too(classifier: Classifier, run: Run) -> None:
    middle = float(np.median(classifier(PATCHES)))
    assert classifier.decide(PATCHES, middle).sum() == 10
    point, validation = classifier.operating_point(str(middle)), run.predictions
    assert point.sensitivity == (validation.probabilities[validation.labels == 1] > middle).mean()
    assert (point.rule, point.threshold) == ("as given", middle)


def test_it_knows_its_views_device_and_labels(classifier: Classifier, run: Run, other: Run) -> None:
    assert (classifier.views, classifier_of([other], CPU).views, classifier_of([other, run], CPU).views) == (8, 1, 8)
    assert classifier.device == CPU
    assert classifier.labels == ("no tumour", "tumour")
    assert (classifier.name, repr(classifier)) == ("run", "<Classifier run: 1 network, 8 views, on cpu>")


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "one patch": (lambda: PATCHES[0], r"patches: have the shape \(96, 96, 3\). .*one patch is patch\[None\]"),
    "another size": (lambda: PATCHES[:, :64, :64], r"patches: have the shape \(21, 64, 64, 3\)"),
    "channels first in an array": (lambda: PATCHES.transpose(0, 3, 1, 2), r"Give \(N, 96, 96, 3\)"),
    "floats in an array": (lambda: PATCHES / 255, r"patches: are float64. Give bytes \(uint8\)"),
    "normalised floats": (
        lambda: torch.from_numpy(PATCHES) / 100 - 1,
        r"hold values from -.* to 1.*not normalised",
    ),
    "not a number": (lambda: torch.full((1, 3, 96, 96), torch.nan), "hold values from nan to nan"),
    "whole numbers": (lambda: torch.from_numpy(PATCHES).long(), r"are torch.int64. Give torch.uint8"),
    "an image alone": (lambda: images()[0], "patches: Image holds no patches"),
    "grey": (lambda: [*images()[:2], images()[2].convert("L")], "patches, image 2: is of mode L and 96 x 96"),
    "a larger image": (lambda: [images()[0].resize((224, 224))], "image 0: is of mode RGB and 224 x 224"),
    "images and arrays": (lambda: [images()[0], PATCHES[0]], "patches, image 1: ndarray holds no patches"),
    "a path": (lambda: Path("patches"), "Path holds no patches"),
    "a name": (lambda: "patches", "str holds no patches"),
    "nothing": (lambda: None, "patches: NoneType holds no patches"),
    "images with labels": (lambda: [PATCHES, (PATCHES, [1])], "batch 1: tuple holds no patches. Give an array"),
    "single patches": (lambda: list(PATCHES), r"batch 0: have the shape \(96, 96, 3\)"),
}


@pytest.mark.parametrize("given", WRONG)
def test_what_is_no_patches_is_refused_in_one_line(classifier: Classifier, given: str) -> None:
    patches, told = WRONG[given]
    with pytest.raises(DataError, match=told):
        classifier(patches())


@pytest.mark.parametrize("threshold", ["yuden", "0.5x", 1.5, -0.1, float("nan")])
def test_thresholds_that_are_none_are_refused(classifier: Classifier, threshold: str | float) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown operating point '.*youden, sensitivity or cost|is not a probability"
    ):
        classifier.decide(PATCHES, threshold)


def test_what_the_validation_set_could_not_give_is_refused_with_its_reason(
    classifier: Classifier, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'platt'.*temperature or isotonic"):
        classifier.calibrated(PATCHES, "platt")
    bare = replace(run.decision, calibrations={}, points={}, not_fitted="only the class 0")
    write_record(tmp_path / DECISION, bare)
    undecided = classifier_of([run], CPU, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"holds no operating point 'youden': only the class 0. Give a number"):
        undecided.decide(PATCHES)
    with pytest.raises(ConfigError, match=f"^{tmp_path / DECISION}: holds no calibration 'isotonic': only the class 0"):
        undecided.calibrated(PATCHES, "isotonic")


def test_a_card_tells_what_it_was_trained_on_and_its_scores(classifier: Classifier, run: Run) -> None:
    card = classifier.card()
    assert (card.kind, card.architectures, card.networks) == ("run", ("notebook",), 1)
    assert (card.training_patches, card.validation_patches) == (len(run.training_ids), len(run.predictions))
    assert card.scores["auc"].estimate == pytest.approx(run.scores["auc"])
    assert card.cluster_kind == run.cluster_kind
    text = str(card)
    assert f"auc: {run.scores['auc']:.4f} ({card.scores['auc'].ends_in_words('.4f')})" in text
    assert f"trained on {card.training_patches} patches" in text


def test_a_card_says_why_intervals_are_unknown(tmp_path: Path) -> None:
    patches = make_patches(48, slides=2)
    run = trained(Material(patches, patches.groups), tmp_path / "run", **{"split.by": "random"})
    card = sentinode.load(run.folder, device="cpu").card()
    assert np.isnan(card.scores["auc"].low)
    assert "unknown" in str(card)
    assert f"95 % intervals are unknown: {card.scores['auc'].reason}" in str(card)


@pytest.mark.numeric
def test_an_ensemble_is_the_weighted_mean_of_its_members_logits(run: Run, other: Run, tmp_path: Path) -> None:
    joined = join_runs([run, other], tmp_path / "both", "equal", Session(device=CPU))
    both = sentinode.load(joined.folder, device="cpu")
    alone = [classifier_of([member], CPU).logits(PATCHES) for member in joined.members]
    assert both.logits(PATCHES) == pytest.approx(np.average(alone, axis=0, weights=joined.weights), abs=1e-9)
    assert [both(PATCHES[k : k + 1]).item() for k in range(21)] == both(PATCHES).tolist()
    assert (both.card().kind, both.card().networks) == ("ensemble", 2)


def test_several_runs_are_the_mean_of_their_probabilities(run: Run, other: Run) -> None:
    alone = [classifier_of([each], CPU)(PATCHES) for each in (run, other)]
    assert classifier_of([run, other], CPU)(PATCHES).tolist() == np.mean(alone, axis=0).tolist()


def test_what_cannot_be_opened_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a directory"):
        sentinode.load(tmp_path / "nothing")
    with pytest.raises(RunError, match="is not a run"):
        sentinode.load(tmp_path)
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        sentinode.load(run.folder, device="tpu")


def test_a_patch_waits_for_neither_tables_nor_statistics_nor_figures(run: Run) -> None:
    code = (
        "import sys, numpy as np, sentinode\n"
        "c = sentinode.load(sys.argv[1], device='cpu'); p = np.zeros((1, 96, 96, 3), np.uint8)\n"
        "c(p), c.calibrated(p), c.decide(p), c.logits(p)\n"
        "print(*(name for name in ('pandas', 'matplotlib', 'sklearn', 'scipy', 'numba') if name in sys.modules))\n"
        "import sentinode.api.slides, sentinode.report.pages.page, sentinode.report.pages.slides  # nor does a slide\n"
        "print(*(name for name in ('pandas', 'matplotlib', 'sklearn', 'scipy.stats') if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code, run.folder], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


# One network.


@pytest.fixture
def network() -> torch.nn.Module:
    return build(NotebookModel(), input_size_px=32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def prepared() -> Prepared:
    return prepare(make_patches(21), np.arange(21), PreprocessConfig(), budget_mb=10)


def probabilities(network: torch.nn.Module, prepared: Prepared, view_count: int, batch_size: int = 8) -> np.ndarray:
    config = override(BASE, {"predict.views": view_count, "running.prediction_batch_size": batch_size})
    return TrainedNetwork(network, config, CPU).probabilities(prepared)


def known(network: torch.nn.Module, prepared: Prepared) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of each symmetry by the network itself, (8, N), in single precision and in double."""
    images = as_input(torch.from_numpy(prepared[slice(0, 21)]).permute(0, 3, 1, 2))
    exact = copy.deepcopy(network).double().eval()
    network.eval()
    with torch.no_grad():
        turned = [apply_symmetry(images, k) for k in range(8)]
        single = torch.stack([torch.sigmoid(network(view)).squeeze(1) for view in turned])
        return single, torch.stack([torch.sigmoid(exact(view.double())).squeeze(1) for view in turned])


@pytest.mark.numeric
def test_views_are_averaged_over_the_symmetries_whatever_the_batch_size(
    network: torch.nn.Module, prepared: Prepared
) -> None:
    single, exact = known(network, prepared)
    rounding = Rounding()
    for size in (4, 8, 21):
        eight, one = (torch.from_numpy(probabilities(network, prepared, count, size)).float() for count in (8, 1))
        rounding.add("8 views", eight, single.mean(0), exact.mean(0))
        rounding.add("1 view", one, single[0], exact[0])
    rounding.check()


@pytest.mark.numeric
def test_eight_views_do_not_care_how_the_patch_lies(network: torch.nn.Module, prepared: Prepared) -> None:
    assert prepared.held is not None
    turned = Prepared(prepared.patches, prepared.rows, prepared.config, np.ascontiguousarray(prepared.held[:, ::-1]))
    single, exact = known(network, prepared)
    rounding = Rounding()
    of_turned = torch.from_numpy(probabilities(network, turned, 8)).float()
    rounding.add("turned", of_turned, single.mean(0), exact.mean(0))
    rounding.check()


class Sure(torch.nn.Module):
    """Logits of 18 to 27, a little higher for brighter patches."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 18 + 9 * images.mean(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0]


@pytest.mark.parametrize("view_count", [1, 8])
def test_what_a_confident_network_tells_apart_stays_apart(prepared: Prepared, view_count: int) -> None:
    found = probabilities(Sure(), prepared, view_count)
    assert len(np.unique(found)) == len(found)
    assert found.max() < 1
    assert len(np.unique(found.astype(np.float32))) == 1, "single precision would not do"


def test_predicting_does_not_change_the_network(network: torch.nn.Module, prepared: Prepared) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probabilities(network, prepared, 8)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_the_fastest_of_the_batch_sizes_tried_is_kept() -> None:
    size = BatchSize(100, search=True)
    seconds = {16: 3.0, 32: 1.0, 64: 2.0}
    tried: list[int] = []
    for _ in range(6):
        tried.append(size.patches)
        size.took(5, 0.0)  # a batch that is not full tells nothing
        size.took(size.patches, size.patches * (9.0 if tried.count(size.patches) == 1 else seconds[size.patches]))
    assert tried == [16, 16, 32, 32, 64, 64]
    assert size.patches == 32
    size.took(32, 100.0)
    assert size.patches == 32


def test_nothing_is_searched_for_on_other_devices_or_below_the_smallest() -> None:
    assert BatchSize(256, search=False).patches == 256
    assert BatchSize(16, search=True).patches == 16
    assert [BatchSize(largest, search=False).patches for largest in (1, 5, 8, 21)] == [1, 5, 8, 16]
