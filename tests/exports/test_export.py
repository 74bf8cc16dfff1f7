"""A run as one file for other programs: it computes what the run computes, says so, and needs no PyTorch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import sentinode
from conftest import make_patches
from drawn import classifier_of, network_of
from sentinode import Classifier, Session
from sentinode.config.presets import load_preset
from sentinode.config.run import PreprocessConfig
from sentinode.errors import ConfigError, ExportError, RunError
from sentinode.evaluation.bootstrap import PairedInterval
from sentinode.exports import certificate, int8
from sentinode.exports.certificate import Certificate, EightBits, Reference, made_up_patches
from sentinode.exports.hugging_face import opened_by_timm, write_backbone
from sentinode.exports.image_map import MAP, OverImage, map_runtimes, write_map
from sentinode.exports.int8 import INT8, Judges, write_int8
from sentinode.exports.onnx_file import onnx_file
from sentinode.exports.torchscript import torchscript_runtimes, write_torchscript, write_wsinfer, wsinfer_runtimes
from sentinode.exports.whole import mean_of_probabilities, network_input, whole
from sentinode.inference.classifier import TrainedRun
from sentinode.inference.exported import Exported, Validation
from sentinode.inputs.preprocess import downsample
from sentinode.models.backbones.backbone import Backbone
from sentinode.progress import silent
from sentinode.records import read_record
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.settings import override

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
BASE = override(load_preset("fair").run_config(), {"fit.epochs": 1, "fit.batch_size": 16})
PATCHES = make_patches(11, seed=5).pixels
EXACT = certificate.TOLERANCE / 10


@pytest.fixture(scope="module")
def run(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(material, BASE, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    sentinode.export(run.folder, "onnx", out, Session(out.parent / "cache", CPU))
    return out


@pytest.fixture(scope="module")
def model(exported: Path) -> Classifier:
    return sentinode.load(exported / "model.onnx")


# --- what is exported computes what the run computes


@pytest.mark.numeric
@pytest.mark.parametrize(
    "way",
    [
        PreprocessConfig(),
        PreprocessConfig(crop_px=96, size_px=96),
        PreprocessConfig(crop_px=64, size_px=32),
        PreprocessConfig(crop_px=48, size_px=48),
        PreprocessConfig(crop_px=96, size_px=40, resize="nearest"),
    ],
    ids=str,
)
def test_a_network_is_given_the_same_bytes(way: PreprocessConfig) -> None:
    patches = np.concatenate([PATCHES, made_up_patches()])
    seen = network_input(torch.from_numpy(patches).float(), way) * 255
    assert np.array_equal(seen.permute(0, 2, 3, 1).round().byte().numpy(), downsample(patches, way))
    assert float((seen - seen.round()).abs().max()) < 1e-4


@pytest.mark.numeric
def test_the_mean_of_probabilities_is_right_to_the_ends_of_the_scale() -> None:
    logits = torch.tensor([[0.0, 24, -24, 24, 3], [0.0, 20, -20, -24, -5]])
    p, q = (torch.sigmoid(sign * logits.double()).mean(0) for sign in (1, -1))
    assert mean_of_probabilities(logits).numpy() == pytest.approx((p.log() - q.log()).numpy(), abs=5e-6)


NETWORKS: dict[str, dict[str, Any]] = {
    "notebook, before": {},
    "notebook, after, one view": {"model.norm": "after", "predict.views": 1, "preprocess.size_px": 48},
    "nearest": {"preprocess.resize": "nearest"},
    "p4m": {"model.architecture": "p4m"},
    "a backbone's stages, enlarged": {
        "model.architecture": "timm",
        "model.backbone": "tf_efficientnet_lite0",
        "model.features.kind": "stages",
        "model.resize_px": 64,
        "preprocess.crop_px": 48,
        "preprocess.size_px": 48,
        "fit.schedule.kind": "constant",
    },
    "a backbone's first rows, with a wide step": {
        "model.architecture": "timm",
        "model.backbone": "tf_efficientnet_lite0",
        "model.features": {"kind": "stages", "cut_maps": 2},
        "model.stem_stride": 3,
        "preprocess.size_px": 96,
        "predict.views": 1,
        "fit.schedule.kind": "constant",
    },
}


@pytest.mark.numeric
@pytest.mark.parametrize("name", NETWORKS)
def test_one_module_is_a_whole_network(name: str) -> None:
    classifier = classifier_of(TrainedRun((network_of(NETWORKS[name]),)))
    probability, logit = whole(classifier)(torch.from_numpy(PATCHES))
    assert logit.numpy() == pytest.approx(classifier.logits(PATCHES), abs=EXACT)
    assert probability.numpy() == pytest.approx(classifier(PATCHES), rel=1e-5)


@pytest.mark.numeric
def test_one_module_is_ensembles_and_their_mean() -> None:
    small, large = (network_of(settings, 3) for settings in ({}, {"preprocess.size_px": 48, "predict.views": 1}))
    blended = TrainedRun((small, large), np.array([0.3, 0.7]))
    classifier = classifier_of(blended, TrainedRun((network_of({}, 4),)))
    _, logit = whole(classifier)(torch.from_numpy(PATCHES))
    assert logit.numpy() == pytest.approx(classifier.logits(PATCHES), abs=EXACT)


def test_what_no_format_has_is_refused() -> None:
    with pytest.raises(RunError, match="normalises stains"):
        whole(classifier_of(TrainedRun((network_of({"preprocess.stain": "macenko"}),))))


# --- one ONNX file


@pytest.mark.numeric
def test_the_file_says_what_the_run_says(run: Run, model: Classifier) -> None:
    original = sentinode.load(run.folder, device="cpu")
    for patches in (PATCHES, PATCHES[:1], [PATCHES[:4], PATCHES[4:]]):
        assert model.logits(patches) == pytest.approx(original.logits(patches), abs=EXACT)
    assert model(PATCHES[:0]).shape == (0,)
    assert model.calibrated(PATCHES, "isotonic") == pytest.approx(original.calibrated(PATCHES, "isotonic"), abs=1e-4)
    assert model.operating_points == original.operating_points
    assert model.decide(PATCHES, "youden").tolist() == original.decide(PATCHES, "youden").tolist()
    assert model.operating_point(0.3) == original.operating_point(0.3)
    assert str(model.card()) == str(original.card())
    assert (model.views, model.spacing_um_per_px, model.device) == (8, 0.972, "cpu")


def test_other_programs_find_names_and_meaning_in_it(run: Run, exported: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (patches,) = session.get_inputs()
    assert (patches.name, patches.type, patches.shape) == ("patches", "tensor(uint8)", ["n", 96, 96, 3])
    assert [output.name for output in session.get_outputs()] == ["probability", "logit", "calibrated"]
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["digest"]) == run.weights_digest
    assert json.loads(properties["labels"]) == ["no tumour", "tumour"]
    assert json.loads(properties["spacing_um_per_px"]) == 0.972
    assert json.loads(properties["operating_points"])["youden"]["threshold"] == run.decision.points["youden"].threshold
    probability, calibrated = session.run(["probability", "calibrated"], {"patches": PATCHES})
    original = sentinode.load(run.folder, device="cpu")
    assert probability == pytest.approx(original(PATCHES), rel=1e-4)
    assert calibrated == pytest.approx(original.calibrated(PATCHES), rel=1e-4)


def test_it_is_opened_without_pytorch_and_with_the_packages_of_the_extra_alone(
    model: Classifier, exported: Path
) -> None:
    code = (
        "import sys, numpy, sentinode; model = sentinode.load(sys.argv[1]);"
        "print(repr(float(model(numpy.full((1, 96, 96, 3), 200, numpy.uint8))[0])), model.threshold('youden'));"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    )
    arguments = [sys.executable, "-c", code, str(exported / "model.onnx")]
    said, imported = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()
    probability, threshold = map(float, said.split())
    assert probability == pytest.approx(float(model(np.full((1, 96, 96, 3), 200, np.uint8))[0]), rel=1e-4)
    assert threshold == model.threshold("youden")
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    known = {re.split("[<>=]", package)[0].replace("-", "_") for package in extras["runtime"]}
    own = {"sentinode", "__main__", "_distutils_hack", "PIL"} | {name for name in imported.split() if name[0] == "_"}
    of_these = {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "wadler_lindig", "google"}
    assert set(imported.split()) - own - of_these <= known, imported


@pytest.mark.parametrize("where", [0.3, 0.9])
def test_a_damaged_or_foreign_file_is_refused_in_one_line(exported: Path, tmp_path: Path, where: float) -> None:
    content = bytearray((exported / "model.onnx").read_bytes())
    content[int(len(content) * where)] ^= 1
    (tmp_path / "damaged.onnx").write_bytes(content)
    with pytest.raises(RunError, match="has changed since it was exported"):
        sentinode.load(tmp_path / "damaged.onnx")
    (tmp_path / "foreign.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    with pytest.raises(RunError, match="is not an ONNX file that sentinode exported"):
        sentinode.load(tmp_path / "foreign.onnx")
    with pytest.raises(RunError, match="is missing"):
        sentinode.load(tmp_path / "absent.onnx")


# --- over an image


@pytest.mark.parametrize("name", ["notebook, before", "p4m", "a backbone's stages, enlarged"])
def test_a_cell_of_a_larger_image_has_its_patchs_value(name: str) -> None:
    classifier = classifier_of(TrainedRun((network_of(NETWORKS[name]),)))
    image = np.random.default_rng(1).integers(0, 256, (5 * 32, 6 * 32, 3), np.uint8)
    patches = [image[32 * r : 32 * r + 96, 32 * c : 32 * c + 96] for r in range(3) for c in range(4)]
    with torch.no_grad():
        _, logit = OverImage(whole(classifier))(torch.from_numpy(image))
    assert logit.shape == (3, 4)
    assert logit.numpy().ravel() == pytest.approx(classifier.logits(np.stack(patches)), abs=EXACT)


def test_a_map_is_computed_elsewhere_and_is_no_model_of_patches(model: Classifier, tmp_path: Path) -> None:
    import onnxruntime

    classifier = classifier_of(TrainedRun((network_of(NETWORKS["notebook, after, one view"]),)))
    write_map(whole(classifier), described(model), tmp_path)
    runtimes, _ = map_runtimes(tmp_path / MAP)
    for logits in runtimes.values():
        assert logits(PATCHES) == pytest.approx(classifier.logits(PATCHES), abs=EXACT)
    session = onnxruntime.InferenceSession(tmp_path / MAP)
    assert [values.shape for values in session.run(None, {"image": np.zeros((96, 7 * 32, 3), np.uint8)})] == [
        (1, 5)
    ] * 2
    with pytest.raises(RunError, match=r"takes images and not patches.*--to onnx"):
        sentinode.load(tmp_path / MAP)


# --- in eight bits


@pytest.mark.parametrize(
    ("times", "interval", "written", "told"),
    [
        (1.19, None, False, "1.19 times as fast as float32 here, and 1.2 times was asked"),
        (1.2, (-0.001, -0.0029, 0.001), True, r"its AUC differs by -0.0010 \(-0.0029 to \+0.0010\)"),
        (3.0, (-0.001, -0.003, 0.001), False, "not surely above -0.003; 3.00 times as fast"),
        (3.0, (0.001, np.nan, np.nan), False, r"differs by \+0.0010 \(unknown\), not surely"),
    ],
)
def test_eight_bits_are_kept_where_they_are_faster_and_surely_no_worse(
    times: float, interval: tuple[float, float, float] | None, written: bool, told: str
) -> None:
    def auc_difference() -> PairedInterval:
        assert interval is not None, "speed had decided"
        return PairedInterval(*interval, level=0.95, share_a_better=0.5, p_value=0.5)

    found = int8._verdict(times, auc_difference)
    assert found.written is written
    assert re.search(told, found.told)
    assert (found.auc_difference is None) == (interval is None)


@pytest.mark.parametrize("worth", [True, False])
def test_a_model_in_eight_bits_is_a_model_like_any_other(
    worth: bool, run: Run, model: Classifier, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.setattr(int8, "TIMES_AS_FAST", 0.0 if worth else np.inf)
    monkeypatch.setattr(int8, "WORST_AUC", -1.0)
    shutil.copyfile(exported / "model.onnx", tmp_path / "model.onnx")
    pixels, labels = made_up_patches(), np.arange(64, dtype=np.int8) % 2
    clusters = np.array([f"slide {at // 4}" for at in range(64)])
    reference = Reference("validation set", pixels, labels, model.logits(pixels))
    found = write_int8(tmp_path / "model.onnx", reference, Judges(PATCHES, clusters, "slide", 1), silent)
    assert found.written is worth
    assert (tmp_path / INT8).exists() is worth
    if worth:
        again = sentinode.load(tmp_path / INT8)
        assert again.operating_points == model.operating_points
        apart = np.abs(again.logits(PATCHES) - model.logits(PATCHES))
        assert 0 < apart.max() < 0.5
        nodes = [node.op_type for node in onnx.load(tmp_path / INT8).graph.node]
        assert nodes.count("QuantizeLinear") >= nodes.count("Conv") > 0


# --- the certificate, and nothing without it


def test_the_certificate_names_runtime_and_distance(run: Run, exported: Path) -> None:
    found = read_record(exported / "parity.json", Certificate)
    assert (found.digest, found.measured_on, found.patches) == (run.weights_digest, "made-up patches", 64)
    (onnxruntime,) = [of for name, of in found.runtimes.items() if name.startswith("onnxruntime")]
    assert 0 <= onnxruntime.mean_logit_difference <= onnxruntime.largest_logit_difference < EXACT
    assert sorted(path.name for path in exported.iterdir()) == ["manifest.json", "model.onnx", "parity.json"]


def test_an_export_that_is_off_is_no_export(
    run: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "TOLERANCE", 1e-9)
    monkeypatch.setattr("sentinode.api.export.onnx_file", lambda *_: (exported / "model.onnx").read_bytes())
    with pytest.raises(ExportError, match=r"logits are up to .* away from the run's"):
        sentinode.export(run.folder, "onnx", tmp_path / "out", Session(tmp_path / "cache", CPU))
    assert not (tmp_path / "out").exists()


def test_parity_is_measured_on_the_runs_validation_set(
    run: Run, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, patches = tmp_path / "data", material.patches
    data.mkdir()
    for name, values in {"x": patches.pixels, "y": patches.labels, "ids": patches.ids}.items():
        np.save(data / f"{name}.npy", values)
    original, asked = sentinode.load(run.folder, device="cpu"), list[np.ndarray]()

    def as_the_run(pixels: np.ndarray) -> np.ndarray:
        asked.append(pixels)
        return original.logits(pixels)

    monkeypatch.setattr("sentinode.api.export.onnx_file", lambda *_: b"model")
    judged = list[Judges]()
    monkeypatch.setattr(
        "sentinode.api.export.write_int8", lambda _, __, judges, ___: judged.append(judges) or EightBits(False, "so")
    )
    monkeypatch.setattr("sentinode.api.export.onnx_runtimes", lambda _: ({"itself": as_the_run}, {"other": "absent"}))
    session = Session(tmp_path / "cache", CPU, workers=1)
    found = sentinode.export(run.folder, "onnx", tmp_path / "out", session, data=data)["onnx"]
    rows = np.sort(patches.rows_of(run.predictions.ids))
    assert np.array_equal(np.concatenate(asked), patches.pixels[rows])
    assert (found.measured_on, found.patches, found.not_measured) == ("validation set", len(rows), {"other": "absent"})
    assert found.auc == pytest.approx(run.scores["auc"])
    assert found.runtimes["itself"].largest_logit_difference == 0
    assert found.int8 == EightBits(False, "so")
    (judges,) = judged
    learned = patches.pixels[np.sort(patches.rows_of(np.array(sorted(run.training_ids))))]
    assert all((learned == patch).all(axis=(1, 2, 3)).any() for patch in judges.training)
    assert judges.clusters.tolist() == [run.clusters_by_id[name] for name in patches.ids[rows].tolist()]
    some = sentinode.export(run.folder, "onnx", tmp_path / "some", session, data=data, patches=7)["onnx"]
    assert some.patches == 7


def described(model: Classifier) -> Exported:
    """What a file is told of a network that was drawn."""
    return Exported(
        sentinode="0",
        name="drawn",
        digest="",
        patch_size_px=96,
        spacing_um_per_px=0.972,
        labels=("no tumour", "tumour"),
        views=1,
        calibrations={},
        operating_points={},
        undecided="",
        card=model.card(),
        validation=Validation(np.empty(0), np.empty(0)),
    )


class Branching(nn.Module):
    """Which way it goes depends on the pixels: no exporter follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3))
        return self.layer(mean if float(mean.sum()) > 1 else -mean)


def test_a_network_that_cannot_be_exported_says_why(model: Classifier) -> None:
    network = network_of({"predict.views": 1})
    network.network = Branching()
    with pytest.raises(ExportError, match=r"drawn cannot be written as ONNX \(.+\)\. Export it to") as told:
        onnx_file(whole(classifier_of(TrainedRun((network,)))), described(model))
    assert len(str(told.value).splitlines()) == 1


# --- other formats


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["p4m", "notebook, before"])
def test_torchscript_is_the_same_for_any_number_of_patches(model: Classifier, tmp_path: Path, name: str) -> None:
    classifier = classifier_of(TrainedRun((network_of(NETWORKS[name]),)))
    write_torchscript(whole(classifier), described(model), tmp_path)
    (logits,) = torchscript_runtimes(tmp_path).values()
    for count in (11, 1, 3):
        assert logits(PATCHES[:count]) == pytest.approx(classifier.logits(PATCHES[:count]), abs=EXACT)


@pytest.mark.numeric
@pytest.mark.filterwarnings("ignore::FutureWarning")  # that TorchScript is deprecated
def test_wsinfer_and_qupath_need_no_resizer(model: Classifier, tmp_path: Path) -> None:
    classifier = classifier_of(TrainedRun((network_of({}),)))
    write_wsinfer(whole(classifier), described(model), tmp_path)
    for logits in wsinfer_runtimes(tmp_path).values():  # patches as they are, and cut from pixels 4 times as fine
        assert logits(PATCHES) == pytest.approx(classifier.logits(PATCHES), abs=EXACT)
    script = torch.jit.load(str(tmp_path / "torchscript_model.pt"))
    two = script(torch.rand(3, 3, 93, 95))  # of a slide that is coarser, cut a pixel askew
    assert two.shape == (3, 2)
    assert two[:, 0].tolist() == [0, 0, 0]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {
        "spec_version": "1.0",
        "architecture": "notebook",
        "num_classes": 2,
        "class_names": ["no tumour", "tumour"],
        "patch_size_pixels": 96,
        "spacing_um_px": 0.972,
        "transform": [{"name": "ToTensor"}],
    }


@pytest.mark.numeric
@pytest.mark.parametrize(
    "model",
    [
        {"model.features.kind": "last"},
        {"model.features.kind": "last", "model.stem_stride": 3},
        {"model.features.kind": "stages"},
        {"model.features": {"kind": "stages", "cut_maps": 2}, "model.stem_stride": 1},
        {"model.features": {"kind": "blocks", "skipped_maps": 1, "cut_maps": 1}},
    ],
)
def test_timm_opens_its_backbone_from_the_folder(tmp_path: Path, model: dict[str, Any]) -> None:
    settings = NETWORKS["a backbone's stages, enlarged"] | model | {"predict.views": 1}
    trained, written = network_of(settings), network_of(settings)
    for network in (trained.network, written.network):
        network.centre.fill_(0.3)
        network.scale.fill_(1.7)
    write_backbone(written.network, 48, {"sentinode": {}}, tmp_path)
    opened = opened_by_timm(trained.with_network(trained.network), tmp_path)
    patches = downsample(PATCHES, trained.preprocess)
    assert opened.probabilities(patches) == pytest.approx(trained.probabilities(patches), abs=1e-6)
    assert opened.network is not trained.network


@pytest.mark.parametrize(
    "model",
    [
        {"model.features.kind": "last"},
        {"model.features": {"kind": "stages", "skipped_maps": 1}},
        {"model.features": {"kind": "stages", "cut_maps": 2}, "model.stem_stride": 3},
        {"model.features": {"kind": "blocks", "cut_maps": 1}},
    ],
    ids=["last", "stages", "cut, wide steps", "cut blocks"],
)
def test_what_the_card_says_of_opening_a_backbone_gives_its_logits(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    settings = {"model.architecture": "timm", "model.backbone": "test_efficientnet", "model.pretrained": "none"}
    settings |= {**model, "preprocess.size_px": 96, "predict.views": 1}
    run = train_run(material, override(BASE, settings), tmp_path / "run")
    sentinode.export(run.folder, "huggingface", tmp_path / "out", Session(tmp_path / "cache", CPU))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    changed = "model.stem_stride" in model or "cut_maps" in str(model)
    assert f"library_name: {'sentinode' if changed else 'timm'}\n" in card
    network = run.network(CPU)
    assert isinstance(network, Backbone)
    names: dict[str, Any] = {"timm": timm, "torch": torch, "safetensors": safetensors}
    names["x"] = network.prepared(torch.from_numpy(PATCHES).permute(0, 3, 1, 2) / 255)
    monkeypatch.chdir(tmp_path / "out")
    with torch.no_grad():
        exec(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[-1], names)  # as its reader would
        wanted = network.eval()(torch.from_numpy(PATCHES).permute(0, 3, 1, 2) / 255)
    assert names["logit"].numpy() == pytest.approx(wanted.numpy(), abs=1e-5)


def test_a_format_that_is_not_known_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Give onnx, map, openvino, torchscript, wsinfer, huggingface, html or all"):
        sentinode.export(run.folder, "coreml", tmp_path / "out")


@pytest.mark.filterwarnings("ignore:wait_passively")
def test_the_page_on_your_own_program_says_what_works(
    run: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of Python on the page, in order, where its files are."""
    (tmp_path / "run").symlink_to(run.folder)
    (tmp_path / "model").symlink_to(exported)
    np.save(tmp_path / "patches.npy", PATCHES)
    (tmp_path / "patches").mkdir()
    for number, patch in enumerate(PATCHES):
        Image.fromarray(patch).save(tmp_path / "patches" / f"p{number:02}.png")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "in-your-program.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    np.testing.assert_array_equal(names["probabilities"], names["model"](PATCHES))
    np.testing.assert_allclose(names["light"](PATCHES), names["model"](PATCHES), atol=EXACT)


def test_the_containers_program_prints_the_runs_probabilities_and_loads_no_torch(
    run: Run, exported: Path, tmp_path: Path
) -> None:
    classifier = sentinode.load(run.folder, device="cpu")
    for number, patch in enumerate(PATCHES):
        Image.fromarray(patch).save(tmp_path / f"p{number:02}.png")
    place = str(ROOT / "docs" / "docker" / "predict.py")
    program = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_path({place!r}, run_name='__main__')"
    told = subprocess.run(
        [sys.executable, "-c", program, str(exported / "model.onnx"), str(tmp_path)], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    head, *lines = told.stdout.splitlines()
    assert head == "id,probability,positive"
    assert [line.split(",")[0] for line in lines] == [f"p{number:02}" for number in range(len(PATCHES))]
    np.testing.assert_allclose([float(line.split(",")[1]) for line in lines], classifier(PATCHES), atol=1e-5)
    assert [line.endswith(",1") for line in lines] == classifier.decide(PATCHES, "youden").tolist()


# --- the command


def test_the_command_writes_and_the_file_predicts(
    run: Run, exported: Path, phantom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sentinode.apps.cli import run as command

    cache = ["--cache", str(tmp_path / "cache")]
    assert command(["export", str(run.folder), "--to", "torchscript", "--out", str(tmp_path / "out"), *cache]) == 0
    said = capsys.readouterr().out
    assert "torchscript" in said
    assert str(tmp_path / "out") in said
    assert command(["export", str(run.folder), "--to", "torchscript", "--out", str(tmp_path / "out"), *cache]) == 2
    assert "is not empty" in capsys.readouterr().err
    tables = []
    for model in (run.folder, exported / "model.onnx"):
        out = tmp_path / "calls.csv"
        told = ["--out", str(out), "--threshold", "youden", *cache]
        assert command(["predict", str(model), str(phantom_folder), *told]) == 0
        tables.append(pd.read_csv(out))
    assert tables[0]["id"].tolist() == tables[1]["id"].tolist()
    assert tables[0]["probability"].to_numpy() == pytest.approx(tables[1]["probability"].to_numpy(), rel=1e-4)
    assert tables[0]["positive"].tolist() == tables[1]["positive"].tolist()
    capsys.readouterr()
    assert command(["predict", str(exported / "parity.json"), str(phantom_folder), "--out", str(out), *cache]) == 2
    assert "is not an exported model" in capsys.readouterr().err
