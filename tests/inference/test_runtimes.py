"""The fastest runtime of a network: only where it is exact and pays, kept for the next time, the same to rounding."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sentinode
from conftest import make_patches
from sentinode import Session
from sentinode.config.presets import load_preset
from sentinode.config.run import RunConfig
from sentinode.errors import ConfigError
from sentinode.evaluation.calibration import logits
from sentinode.inference import runtimes, trained
from sentinode.inference.runtimes import CHOICE, EXACT, GRAPH, RUNTIMES, Choice, Fastest, RuntimeCache
from sentinode.inference.trained import TrainedNetwork
from sentinode.inputs.augment import as_input
from sentinode.inputs.preprocess import preprocess
from sentinode.models.backbones.backbone import backbone
from sentinode.models.build import build
from sentinode.models.folded import folded_backbone
from sentinode.models.onnx_graph import onnx_graph
from sentinode.records import read_record
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.settings import override

CPU = torch.device("cpu")
CONFIG = override(load_preset("fair").run_config(), {"predict.views": 8, "fit.epochs": 1, "fit.batch_size": 16})
PIXELS = preprocess(make_patches(40, seed=3).pixels, CONFIG.preprocess)[0]
NAMES: dict[str, Any] = {"name": "net", "inputs": [runtimes._INPUT], "outputs": [runtimes._OUTPUT]}
needs_onnx = pytest.mark.skipif(
    not all(map(runtimes._installed, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra export"
)


class Told(list[str]):
    """What a user hears."""

    def __call__(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every patch counts as many."""
    monkeypatch.setattr(trained, "_MANY", 0)
    monkeypatch.setattr(trained, "_LONG_S", 0.0)


@pytest.fixture(scope="module")
def graph() -> Any:
    """Of `network`: the exporter takes seconds."""
    return onnx_graph(made(CONFIG)[0], as_input(torch.from_numpy(PIXELS[:8]).permute(0, 3, 1, 2)), **NAMES)


@pytest.fixture
def written(graph: Any, monkeypatch: pytest.MonkeyPatch, hurried: None) -> None:
    monkeypatch.setattr(runtimes, "onnx_graph", lambda *_, **__: graph)


def only(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch is compared with one other runtime, and is the slower."""
    monkeypatch.setattr(runtimes, "RUNTIMES", ("pytorch", way))

    def measured(ways: dict[str, object], seen: Tensor) -> dict[str, runtimes.Tried]:
        found = measure(ways, seen)
        return {
            name: runtimes.Tried(1.0 + (name != "pytorch"), of.largest_logit_difference) for name, of in found.items()
        }

    measure = runtimes._measured
    monkeypatch.setattr(runtimes, "_measured", measured)


def network(
    cache: Path, told: Callable[[str], None] = lambda _: None, *, digest: str = "0", views: int = 8
) -> TrainedNetwork:
    module, config = made(CONFIG)[0], override(CONFIG, {"predict.views": views})
    return TrainedNetwork(module, config, CPU, Fastest("net", module, digest, RuntimeCache(lambda: cache, told)))


@pytest.mark.parametrize("way", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("views", [1, 8])
@needs_onnx
@pytest.mark.usefixtures("written")
def test_another_runtime_gives_a_patch_the_same_probability_whatever_comes_with_it(
    way: str, views: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(way, reason=f"{way} is not installed")
    only(way, monkeypatch)
    net = network(tmp_path, views=views)
    before = net.probabilities(PIXELS)
    net.expect(PIXELS, len(PIXELS))
    assert net.runtime.startswith(f"{way} ")
    after = net.probabilities(PIXELS)
    assert np.abs(logits(after) - logits(before)).max() <= EXACT / 10
    alone = [net.probabilities(PIXELS[at : at + 1])[0] for at in range(len(PIXELS))]
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(net.probabilities, [PIXELS[:5], PIXELS[5:7], PIXELS[7:23], PIXELS[23:]]))
    assert np.array_equal(np.concatenate(parts), after)
    assert np.array_equal(alone, after)
    assert net._found is not None
    forward, asked = net._found[1], list[int]()
    net._found = net.way, lambda x: (asked.append(len(x)), forward(x))[1]
    net.probabilities(PIXELS[:1])
    net.probabilities(PIXELS)
    assert {count % (views * trained._block()) for count in asked} == {0}  # else PyTorch's sigmoid rounds otherwise


@pytest.mark.parametrize("way", ["onnxruntime", "openvino"])
@needs_onnx
@pytest.mark.usefixtures("written")
def test_another_runtime_gives_the_same_bits_with_any_number_of_threads(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(way, reason=f"{way} is not installed")
    only(way, monkeypatch)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            net = network(tmp_path / str(threads))
            net.expect(PIXELS, len(PIXELS))
            found.append(net.probabilities(PIXELS))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)


@needs_onnx
@pytest.mark.usefixtures("written")
def test_what_was_found_is_told_kept_and_taken_without_another_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("onnxruntime", monkeypatch)
    told, later = Told(), Told()
    first, second = network(tmp_path, told), network(tmp_path, later)
    first.expect(PIXELS, 100)
    assert told[-1] == "net is computed by onnxruntime, 2.0 times as fast as PyTorch here"
    second.expect(PIXELS[:2], 2)
    assert second.runtime == first.runtime
    assert np.array_equal(second.probabilities(PIXELS), first.probabilities(PIXELS))
    assert later == []


@pytest.mark.parametrize("what", ["other weights", "a damaged graph", "a damaged record", "a network that has changed"])
@needs_onnx
@pytest.mark.usefixtures("written")
def test_what_was_kept_for_something_else_or_is_damaged_is_tried_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("onnxruntime", monkeypatch)
    network(tmp_path).expect(PIXELS, 100)
    (folder,) = (tmp_path / "runtimes").iterdir()
    told = Told()
    net = network(tmp_path, told, digest="1" if what == "other weights" else "0")
    match what:
        case "a damaged graph":
            (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:-1])
        case "a damaged record":
            (folder / CHOICE).write_text("{}", encoding="utf-8")
        case "a network that has changed":  # as a user's own may, whose weights are the same
            with torch.no_grad():
                next(net.network.parameters()).mul_(2)
    net.expect(PIXELS, 100)
    assert any("trying" in text for text in told)


@needs_onnx
@pytest.mark.usefixtures("written")
def test_a_runtime_that_is_not_exact_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only("onnxruntime", monkeypatch)
    monkeypatch.setattr(runtimes, "_in_onnxruntime", lambda _: lambda x: torch.full((len(x), 1), torch.nan))
    told = Told()
    net = network(tmp_path, told)
    before = net.probabilities(PIXELS)
    net.expect(PIXELS, 100)
    assert net.runtime == f"pytorch {version('torch')}"
    assert np.array_equal(net.probabilities(PIXELS), before)
    assert told[-1] == "net is computed by PyTorch: nothing that is installed is faster here"


@needs_onnx
@pytest.mark.usefixtures("written")
def test_a_runtime_that_breaks_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: object) -> Callable[[Tensor], Tensor]:
        def forward(_: Tensor) -> Tensor:
            raise RuntimeError("no kernel\nfor this")

        return forward

    only("onnxruntime", monkeypatch)
    monkeypatch.setattr(runtimes, "_in_onnxruntime", breaks)
    net = network(tmp_path)
    net.expect(PIXELS, 100)
    assert net.runtime.startswith("pytorch ")
    choice = read_record(next((tmp_path / "runtimes").glob(f"*/{CHOICE}")), Choice)
    assert choice.not_tried == {"onnxruntime": "onnxruntime cannot compute it (no kernel for this)"}


@pytest.mark.usefixtures("hurried")
def test_what_cannot_write_or_run_a_graph_stays_on_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    net = network(tmp_path)
    net.expect(PIXELS, 100)
    choice = read_record(next((tmp_path / "runtimes").glob(f"*/{CHOICE}")), Choice)
    assert choice.runtime == "pytorch"
    assert set(choice.not_tried) == {"pytorch, folded", "onnxruntime", "openvino"}
    assert "ONNX Runtime needs onnxruntime, which is not installed" in choice.not_tried["onnxruntime"]


def test_few_patches_are_predicted_without_a_trial(tmp_path: Path) -> None:
    told = Told()
    net = network(tmp_path, told)
    net.expect(PIXELS, len(PIXELS))
    assert told == []
    assert not list(tmp_path.iterdir())


def test_bfloat16_where_it_was_asked_for_stays_pytorchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "has_bfloat16", lambda _: True)
    asked = override(CONFIG, {"predict.precision": "mixed"})
    assert TrainedNetwork(*made(asked), CPU, fastest(tmp_path))._fastest is None
    assert TrainedNetwork(*made(CONFIG), CPU, fastest(tmp_path))._fastest is not None


def made(config: RunConfig) -> tuple[torch.nn.Module, RunConfig]:
    size_px, drawn = config.preprocess.size_px, torch.Generator().manual_seed(1)
    return build(config.model, input_size_px=size_px, generator=drawn), config


def fastest(cache: Path) -> Fastest:
    return Fastest("net", made(CONFIG)[0], "0", RuntimeCache(lambda: cache))


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("tf_efficientnet_lite0", {}),
        ("tf_efficientnet_lite0", {"features": "stages", "cut_maps": 1, "stem_stride": 3}),
        ("mobilenetv2_035", {}),
    ],
    ids=["Lite", "a cut Lite", "MobileNet V2"],
)
def test_a_folded_backbone_says_what_the_backbone_does(name: str, maps: dict[str, Any]) -> None:
    net = backbone(name, pretrained=False, generator=torch.Generator().manual_seed(2), **maps).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    torch.nn.init.normal_(net.head.weight)
    again = folded_backbone(net)
    assert again is not None
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
        assert (again(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in again.modules())


@pytest.mark.parametrize("name", ["test_efficientnet", "tf_efficientnetv2_b0", "mobilenet_edgetpu_100", "test_resnet"])
def test_a_backbone_of_other_blocks_is_not_folded(name: str) -> None:
    assert folded_backbone(backbone(name, pretrained=False, generator=torch.Generator().manual_seed(2))) is None


@pytest.fixture(scope="module")
def run(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(material, CONFIG, tmp_path_factory.mktemp("runs") / "run")


@needs_onnx
@pytest.mark.usefixtures("hurried")
def test_a_model_takes_it_and_a_session_may_ask_for_pytorch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("onnxruntime", monkeypatch)
    patches = make_patches(20, seed=5).pixels
    fast = sentinode.load(run.folder, session=Session(tmp_path, CPU))
    plain = sentinode.load(run.folder, session=Session(tmp_path, CPU, runtime="pytorch"))
    assert np.abs(logits(fast(patches)) - logits(plain(patches))).max() <= EXACT
    assert [name.split()[0] for name in (*fast.runtimes, *plain.runtimes)] == ["onnxruntime", "pytorch"]
    with pytest.raises(ConfigError, match=r"unknown runtime 'torch'.*fastest or pytorch"):
        Session(tmp_path, CPU, runtime="torch")


def test_all_runtimes_are_named_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in RUNTIMES)
