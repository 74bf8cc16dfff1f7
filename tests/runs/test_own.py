"""A network of one's own: trained, compared, blended and opened like any other, and told in one line what is wrong."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sentinode import evaluate, predict, tune
from sentinode.api.settings import with_own_network, with_own_variants
from sentinode.apps import cli
from sentinode.config.run import RunConfig
from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError, RunError, SentinodeWarning
from sentinode.evaluation.metrics import OwnMetric, auc, brier_score
from sentinode.fitting.checkpoint import load_weights
from sentinode.models.build import require_sound
from sentinode.models.own import Recipe, Recipes
from sentinode.records import plain, read_record, write_record
from sentinode.runs.ensemble import join_runs
from sentinode.runs.evaluate import validation_intervals
from sentinode.runs.load import open_runs
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override, to_flat
from sentinode.studies.evidence import Evidence, weigh
from sentinode.studies.training import RunStore, compare_variants

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
SOURCE = """
import torch
from torch import nn

WIDTH = 4


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.dropout = nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Dropout(0.2)
        self.head = nn.LazyLinear(1)

    def forward(self, x):
        x = torch.max_pool2d(self.norm(self.conv(x)).relu(), 6)
        return self.head(self.dropout(x.view(len(x), -1)))


def small():
    return Small()


def unused():
    return None
"""


def factory_of(source: str, folder: Path) -> Callable[[], nn.Module]:
    """`small` of a module with this source."""
    name = f"own_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    (folder / f"{name}.py").write_text(source)
    sys.path.insert(0, str(folder))
    try:
        made: Callable[[], nn.Module] = importlib.import_module(name).small
        return made
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], nn.Module]:
    return factory_of(SOURCE, tmp_path_factory.mktemp("own"))


@pytest.fixture
def quick(run_config: RunConfig) -> RunConfig:
    return override(run_config, {"fit.epochs": 2})


@pytest.fixture
def in_folder_of_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module `my_networks` in it."""
    (tmp_path / "my_networks.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_networks", None)


def test_by_the_command_line_it_is_trained_and_predicts_and_its_name_is_in_the_report(
    phantom_folder: Path, in_folder_of_networks: Path, capsys: pytest.CaptureFixture[str], session: Session
) -> None:
    run, table = in_folder_of_networks / "run", in_folder_of_networks / "table.csv"
    asked = ["train", str(phantom_folder), "--out", str(run), "--set", "fit.epochs=1", "--set", "predict.views=1"]
    cache = ["--device", "cpu", "--cache", str(session.cache_root), "--threads", "1"]
    assert cli.run([*asked, "--network", "my_networks:small", *cache]) == 0
    trained = Run.open(run)
    assert to_flat(trained.config.model, "model.") == Recipe.of(sys.modules["my_networks"].small).settings
    assert "Network “small”: 229 parameters, 221 trainable" in (run / "report.html").read_text(encoding="utf-8")
    assert trained.network_record.summary.trainable == 3 * 4 * 9 + 4 + 8 + 101
    assert trained.network_record.seeded == ("initial weights", "order of batches", "augmentation")

    capsys.readouterr()
    assert cli.run(["predict", str(run), str(phantom_folder), "--out", str(table), *cache]) == 2
    told = capsys.readouterr().err
    assert "was trained with a network of your own, 'small'" in told
    assert "--network module:small" in told
    assert not table.exists()
    asked = ["predict", str(run), str(phantom_folder), "--out", str(table), "--network", "my_networks:small"]
    assert cli.run([*asked, *cache]) == 0
    factory = sys.modules["my_networks"].small
    again = predict(run, phantom_folder, in_folder_of_networks / "again.csv", session, network=factory)
    assert table.read_bytes() == (in_folder_of_networks / "again.csv").read_bytes()
    assert again["label"].between(0, 1).all()
    labels = phantom_folder / "train_labels.csv"
    found = evaluate(
        run, phantom_folder, labels, session, network={"small": factory}, metrics={"mine": OwnMetric(auc, share=True)}
    )
    assert found.networks == 1
    assert found.scores["mine"].estimate == found.scores["auc"].estimate
    assert found.scores["mine"].low == pytest.approx(found.scores["auc"].low, abs=1e-4)
    with pytest.raises(RunError, match=r"network=small in the call"):
        evaluate(run, phantom_folder, labels, session)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_networks", "Write module:factory"),
        ("my_networks:large", "has no 'large'"),
        ("absent_networks:small", "cannot be imported"),
        ("my_networks:WIDTH", "is not a function or class"),
        ("my_networks:unused", "made NoneType, not a torch.nn.Module"),
    ],
)
def test_a_name_of_no_network_is_told_in_one_line(
    name: str,
    said: str,
    phantom_folder: Path,
    in_folder_of_networks: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = in_folder_of_networks / "run"
    assert cli.run(["train", str(phantom_folder), "--out", str(run), "--network", name, "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len([line for line in told.splitlines() if not line.startswith("note: ")]) == 1  # a user may have no home
    assert not run.exists()


def test_resumed_is_uninterrupted_and_another_source_is_refused(
    small: Callable[[], nn.Module], material: Material, quick: RunConfig, tmp_path: Path
) -> None:
    own = Recipes.of(small)
    config = override(with_own_network(quick, own), {"fit.average.kind": "ema"})
    whole = train_run(material, config, tmp_path / "whole", own=own)

    def killed(_row: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(material, config, tmp_path / "broken", own=own, on_epoch=killed)
    other = Recipes.of(factory_of(SOURCE.replace("WIDTH = 4", "WIDTH = 5"), tmp_path))
    was, given = (of.known[0].source_sha256[:12] for of in (own, other))
    changed = with_own_network(config, other)
    with pytest.raises(RunError, match=f"of source {was}; the one given is of source {given}"):
        train_run(material, changed, tmp_path / "broken", resume=True, own=other)
    resumed = train_run(material, config, tmp_path / "broken", resume=True, own=own)
    assert resumed.weights_digest == whole.weights_digest


def test_it_is_what_a_search_tunes(
    small: Callable[[], nn.Module], phantom_folder: Path, quick: RunConfig, session: Session, tmp_path: Path
) -> None:
    asked = {"seeds": [25], "fit.epochs": 1, "tune.search": {"fit.learning_rate": [0.001, 0.01]}}
    config = override(StudyConfig(**dict(quick)), {**asked, "tune.sampler": "grid", "compare.replicates": 100})
    found = tune(phantom_folder, config, tmp_path / "tuned", session, network=small).tuning
    assert found is not None
    assert [variant.name for variant in found.variants] == ["learning_rate 0.001", "learning_rate 0.01"]
    assert {run.config.model.name for variant in found.variants for run in variant.runs} == {"small"}


def test_it_is_a_variant_beside_others_and_a_member_of_an_ensemble(
    small: Callable[[], nn.Module], material: Material, quick: RunConfig, tmp_path: Path
) -> None:
    own = Recipes.of(small)
    study = override(StudyConfig(**dict(quick)), {"compare.variants": {"before": {}}, "compare.replicates": 100})
    config = with_own_variants(override(study, {"fit.epochs": 1, "seeds": [1, 2, 3]}), own)
    assert with_own_variants(config, own) == config
    found = compare_variants(config, RunStore(material, tmp_path / "runs", own=own))
    own_metrics = {"mine": OwnMetric(auc, verdict=True), "other": OwnMetric(brier_score, lower_is_better=True)}
    clusters = material.clusters_by_id(quick)
    evidence = weigh(found, clusters, material.cluster_kind, config.compare, own=own_metrics)
    assert [verdict.metric for verdict in evidence.own_verdicts] == ["mine", "other"]
    assert evidence.own_verdicts[0].difference == pytest.approx(evidence.verdicts[0].difference)
    assert evidence.own_verdicts[1].gain == -1
    assert set(evidence.intervals["small"]) >= {"auc", "mine", "other"}
    write_record(tmp_path / "evidence.json", evidence)
    kept = read_record(tmp_path / "evidence.json", Evidence)
    assert json.dumps(plain(kept)) == json.dumps(plain(evidence))  # in which NaN equals NaN
    assert list(evidence.intervals) == ["before", "small"]
    assert evidence.verdicts[0].a == "small"
    assert len({run.weights_digest for run in found.variants[1].runs}) == 3

    members = [found.variants[0].runs[0], found.variants[1].runs[0]]
    blend = join_runs([Run.open(each.folder) for each in members], tmp_path / "blend", "equal", Session(device=CPU))
    with pytest.raises(RunError, match="network=small"):
        blend.require_networks()
    (opened,) = open_runs(tmp_path / "blend", own)
    opened.require_networks()
    assert isinstance(opened.members[1].network(CPU), nn.Module)


def test_another_source_is_told_and_one_that_computes_something_else_is_refused(
    small: Callable[[], nn.Module], material: Material, quick: RunConfig, tmp_path: Path
) -> None:
    own = Recipes.of(small)
    config = override(with_own_network(quick, own), {"fit.epochs": 1})
    run = train_run(material, config, tmp_path / "run", own=own)
    commented = Recipes.of(factory_of(SOURCE.replace("WIDTH = 4", "WIDTH = 4  # narrow"), tmp_path))
    with pytest.warns(SentinodeWarning, match=own.known[0].source_sha256[:12]) as told:
        replace(run, own=commented).network(CPU)
    assert commented.known[0].source_sha256[:12] in str(told[0].message)
    without_relu = Recipes.of(factory_of(SOURCE.replace(".relu()", ""), tmp_path))
    with pytest.raises(RunError, match="computes something else"):
        replace(run, own=without_relu).network(CPU)
    wider = Recipes.of(factory_of(SOURCE.replace("WIDTH = 4", "WIDTH = 5"), tmp_path))
    was, given = (of.known[0].source_sha256[:12] for of in (own, wider))
    with pytest.raises(
        RunError, match=f"of source {given}, not {was}. cannot be opened: .* weights of another network"
    ):
        replace(run, own=wider).network(CPU)


def test_the_digest_is_of_what_the_network_uses_of_its_file(tmp_path: Path) -> None:
    def digest(source: str) -> str:
        return Recipe.of(factory_of(source, tmp_path)).source_sha256

    same = digest(SOURCE)
    assert digest(SOURCE.replace("return None", "return 1") + "\nprint\n") == same
    for before, after in (("WIDTH = 4", "WIDTH = 5"), (".relu()", ""), ("return Small()", "return Small().train()")):
        assert digest(SOURCE.replace(before, after)) != same


def test_a_name_changes_no_run(small: Callable[[], nn.Module], quick: RunConfig) -> None:
    one, other = (with_own_network(quick, Recipes.of({name: small})) for name in ("one", "other"))
    assert one.digest() == other.digest() != quick.digest()
    assert to_flat(one)["model.name"] == "one"


def test_the_seed_decides_the_weights_and_random_states_stay(small: Callable[[], nn.Module]) -> None:
    def drawn() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    recipe = Recipe.of(small)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = drawn()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    a, b, c = (recipe.build(seed=seed, input_size_px=32).network.conv.weight for seed in (1, 1, 2))
    recipe.require_sound(32)
    assert drawn() == expected
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_weights_that_no_seed_changes_are_said_so() -> None:
    assert Recipe.of(fixed).build(seed=1, input_size_px=32).initial.fixed


def linear(outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, outputs))


def fixed() -> nn.Module:
    network = linear()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


def two_outputs() -> nn.Module:
    return linear(2)


def flat_output() -> nn.Module:
    return nn.Sequential(linear(), nn.Flatten(0))


def nan() -> nn.Module:
    network = linear()
    nn.init.constant_(network[1].bias, float("nan"))
    return network


def without_parameters() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.AvgPool1d(3))


def of_another_size() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 96 * 96, 1))


def broken() -> nn.Module:
    raise ValueError("no such layer")


def no_module() -> nn.Module:
    return linear().forward


def double() -> nn.Module:
    return linear().double()


_ONCE = linear()
_COUNTS: list[int] = []


def the_same_again() -> nn.Module:
    return _ONCE


def counts() -> nn.Module:
    _COUNTS.append(1)
    network = linear()
    nn.init.constant_(network[1].weight, len(_COUNTS) / 1e3)
    return network


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images)
        return logits + torch.rand_like(logits)


class NanLogits(Noisy):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images)
        return (-1 - logits.square()).log()


class OfTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images - images.mean())
        return logits


class Detached(Noisy):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images)
        return logits.detach()


def with_an_argument(width: int) -> nn.Module:
    return linear(width)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (two_outputs, r"gives \(2, 2\) for an input of \(2, 3, 32, 32\), not \(2, 1\)"),
        (flat_output, r"gives \(2,\)"),
        (nan, "weights that are not finite"),
        (NanLogits, "logits that are not finite"),
        (without_parameters, "no parameters"),
        (of_another_size, r"does not take an input of \(2, 3, 32, 32\)"),
        (broken, "cannot be made: ValueError: no such layer"),
        (no_module, "made method, not a torch.nn.Module"),
        (double, "float32"),
        (the_same_again, "is not the same when it is made twice"),
        (counts, "is not the same when it is made twice"),
        (Noisy, "changes from call to call"),
        (OfTheBatch, "changes with the patches beside it"),
        (Detached, "no parameter has a part in"),
        (with_an_argument, "cannot be called without arguments"),
        (functools.partial(with_an_argument, 1), "is not a function or class"),
        (lambda: linear(), "is not a name for a network"),
        (nn.Identity(), "is not a function or class"),
    ],
)
def test_what_could_not_be_trained_is_told_in_one_line_before_anything_is(
    factory: Callable[[], nn.Module], said: str, quick: RunConfig
) -> None:
    def tried() -> None:
        own = Recipes.of(factory)
        require_sound([with_own_network(quick, own)], own)

    with pytest.raises(ConfigError, match=said) as told:
        tried()
    assert "\n" not in str(told.value)


class NormedAtTheEnd(Noisy):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.layer(images))
        return logits


def test_a_last_batch_of_one_patch_is_told_before_it_fails(
    material: Material, quick: RunConfig, tmp_path: Path
) -> None:
    own = Recipes.of(NormedAtTheEnd)
    config = with_own_network(quick, own)
    require_sound([config], own)
    count = len(material.split(config).training)
    config = override(config, {"fit.batch_size": next(size for size in range(2, count) if count % size == 1)})
    with pytest.raises(ConfigError, match=rf"does not learn from one patch, which is the last of {count} in batches"):
        train_run(material, config, tmp_path / "run", own=own)


def test_settings_that_name_a_network_need_it(quick: RunConfig) -> None:
    only_named = override(quick, {"model.architecture": "own"})
    with pytest.raises(ConfigError, match="--network module:factory"):
        require_sound([only_named], Recipes())
    with pytest.raises(ConfigError, match=r"'fit\.train' belongs to model\.architecture"):
        override(quick, {"model.architecture": "own", "fit.train": "head"})


def test_a_closure_is_refused(quick: RunConfig) -> None:
    def outer(width: int) -> Callable[[], nn.Module]:
        return lambda: linear(width)

    with pytest.raises(ConfigError, match="takes width from the function around it"):
        Recipes.of({"narrow": outer(1)})


def test_weights_lie_in_the_file_under_the_names_of_the_network(
    small: Callable[[], nn.Module], material: Material, quick: RunConfig, tmp_path: Path
) -> None:
    own = Recipes.of(small)
    config = override(with_own_network(quick, own), {"fit.epochs": 1})
    metrics = {"mine": OwnMetric(auc, share=True)}
    run = train_run(material, config, tmp_path / "run", own=own, metrics=metrics)
    intervals = validation_intervals([run]).scores
    assert intervals["mine"].estimate == run.scores["auc"]
    assert "mine" not in run.scores
    wrapped = own.known[0].build(seed=0, input_size_px=32)
    load_weights(run.folder / "model.safetensors", wrapped)
    assert torch.equal(wrapped.network.conv.weight, run.network(CPU).network.conv.weight)
