"""Ensembles: what may be blended, how their folders come about and resume, and what they predict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import sentinode.studies.given as given
from conftest import make_patches
from sentinode.config.presets import load_preset
from sentinode.config.run import RunConfig
from sentinode.errors import ConfigError, RunError
from sentinode.evaluation.blend import blend, fit_weights
from sentinode.evaluation.metrics import scores
from sentinode.runs import train
from sentinode.runs.ensemble import join_runs
from sentinode.runs.load import classifier_of
from sentinode.runs.material import Material
from sentinode.runs.run import Run, contents, is_run, write_manifest
from sentinode.runs.train import train_run
from sentinode.runs.variant import best_known_clusters
from sentinode.session import Session
from sentinode.settings import override
from sentinode.studies.evidence import weigh
from sentinode.studies.given import pair_given
from sentinode.studies.training import RunStore, compare_variants

CPU = torch.device("cpu")
MEMBERS = {
    "before": {"model.norm": "before"},
    "after": {"model.norm": "after", "preprocess.size_px": 48, "predict.views": 8},
    "other": {"fit.seed": 26},
}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    settings = {"fit.epochs": 2, "fit.batch_size": 16, "predict.views": 1, "split.validation_fraction": 0.5}
    return override(load_preset("fair").run_config(), settings)


@pytest.fixture(scope="module")
def runs(material: Material, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Finished runs that share a split, by name."""
    root = tmp_path_factory.mktemp("alone")
    return {n: train_run(material, override(config, own), root / n) for n, own in MEMBERS.items()}


@pytest.fixture(scope="module")
def joined(runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return join_runs(list(runs.values()), tmp_path_factory.mktemp("joined") / "run", "fitted", Session(device=CPU))


@pytest.fixture(scope="module")
def trained(material: Material, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    asked = override(config, {"ensemble.members": MEMBERS})
    return train_run(material, asked, tmp_path_factory.mktemp("trained") / "run")


def said_by(members: tuple[Run, ...]) -> np.ndarray:
    return np.column_stack([member.predictions.probabilities for member in members])


def test_both_ways_make_the_same_run(joined: Run, trained: Run, runs: dict[str, Run], config: RunConfig) -> None:
    for run in (joined, trained):
        assert {*contents(list(MEMBERS)), "manifest.json"} <= {
            str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()
        }
        assert [member.name for member in run.members] == list(MEMBERS)
        assert run.history.empty
        for name, own in run.config.members().items():
            assert own == runs[name].config == run.members[list(MEMBERS).index(name)].config
    assert trained.config == override(config, {"ensemble.members": MEMBERS})
    assert joined.weights == pytest.approx(trained.weights, abs=1e-6)
    assert joined.predictions.ids.tolist() == trained.predictions.ids.tolist()
    assert joined.predictions.probabilities == pytest.approx(trained.predictions.probabilities, abs=1e-6)
    assert not (joined.folder / "members" / "before" / "checkpoint").exists()
    sides = [pd.read_csv(run.folder / "split.csv").sort_values("id").to_numpy().tolist() for run in (joined, trained)]
    assert sides[0] == sides[1]


def test_its_record_says_what_was_fitted(joined: Run) -> None:
    labels, said = joined.predictions.labels, said_by(joined.members)
    record = json.loads((joined.folder / "blend.json").read_text())
    assert list(record["weights"].values()) == pytest.approx(fit_weights(labels, said), abs=1e-6)
    assert record["scores"]["after"] == joined.members[1].scores
    assert {len(weights) for weights in record["fold_weights"].values()} == {joined.decision.clusters}  # 3 slides
    assert joined.scores == pytest.approx(scores(labels, joined.predictions.probabilities), abs=1e-6)
    assert joined.decision.patches == len(labels)


def test_no_patch_is_blended_by_weights_that_saw_its_cluster(joined: Run) -> None:
    labels, said = joined.predictions.labels, said_by(joined.members)
    slide = np.array([joined.clusters_by_id[i] for i in joined.predictions.ids.tolist()])
    for name in np.unique(slide):
        weights = fit_weights(labels[slide != name], said[slide != name])
        assert joined.predictions.probabilities[slide == name] == pytest.approx(
            blend(said[slide == name], weights), abs=1e-5
        )


def test_it_predicts_the_blend_of_what_its_members_predict(trained: Run) -> None:
    patches = make_patches(seed=9, count=30)
    alone = [classifier_of([member], CPU)(patches.pixels) for member in trained.members]
    found = classifier_of([trained], CPU).predictions(patches)
    assert found.ids.tolist() == patches.ids.tolist()
    assert found.probabilities == pytest.approx(blend(np.column_stack(alone), np.array(trained.weights)), abs=1e-9)
    with pytest.raises(RunError, match="has no network of its own"):
        trained.network(CPU)


def test_equal_weights_take_nothing_from_the_labels(runs: dict[str, Run], tmp_path: Path) -> None:
    run = join_runs([runs["before"], runs["other"]], tmp_path / "run", "equal", Session(device=CPU))
    assert run.weights == (0.5, 0.5)
    assert run.blend is not None
    assert run.blend.fold_weights == {"before": [], "other": []}
    equal = blend(said_by(run.members), np.array([0.5, 0.5]))
    assert run.predictions.probabilities == pytest.approx(equal, abs=1e-8)


def test_where_nothing_can_be_cross_fitted_weights_are_equal_and_a_notice_says_so(
    material: Material, config: RunConfig, tmp_path: Path
) -> None:
    sides = np.where(material.patches.slides == "s0", "validation", "training")
    pd.DataFrame({"id": material.patches.ids, "side": sides}).to_csv(tmp_path / "sides.csv", index=False)
    settings = {"split.by": "file", "split.file": str(tmp_path / "sides.csv"), "fit.epochs": 1}
    members = {"a": {"fit.seed": 1}, "b": {"fit.seed": 2}}
    asked = override(config, {**settings, "ensemble.members": members})
    run = train_run(material, asked, tmp_path / "run")
    assert run.weights == (0.5, 0.5)
    assert [n for n in run.environment["notices"] if n.startswith("ensemble.weights 'fitted' became 'equal'")]


def test_an_interrupted_ensemble_goes_on_where_it_stopped(
    material: Material, config: RunConfig, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "seal_blend", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(material, trained.config, folder)
    assert is_run(folder)
    with pytest.raises(RunError, match="is an unfinished run"):
        Run.open(folder)
    with pytest.raises(RunError, match="already contains a run"):
        train_run(material, trained.config, folder)
    (folder / "members" / "other" / "manifest.json").unlink()  # of the last member only the checkpoint is left
    kept = (folder / "members" / "before" / "model.safetensors").stat().st_mtime_ns
    built: list[RunConfig] = []
    new_state = train._new_state

    def build(own: RunConfig, *given: Any) -> train.FitState:
        built.append(own)
        return new_state(own, *given)

    with monkeypatch.context() as patch:
        patch.setattr(train, "_new_state", build)
        run = train_run(material, trained.config, folder, resume=True)
    assert built == [trained.config.members()["other"]] * 2  # finished ones need no weights again
    assert (folder / "members" / "before" / "model.safetensors").stat().st_mtime_ns == kept
    for name in ("predictions.csv", "blend.json", "members/other/model.safetensors"):
        assert (folder / name).read_bytes() == (trained.folder / name).read_bytes()
    assert train_run(material, trained.config, folder, resume=True).weights == run.weights
    with pytest.raises(RunError, match="other settings"):
        train_run(material, config, folder, resume=True)


def test_what_does_not_go_together_is_refused_and_nothing_is_written(
    runs: dict[str, Run], joined: Run, material: Material, config: RunConfig, tmp_path: Path
) -> None:
    first, out = runs["before"], tmp_path / "out"

    def refused(*others: Run, said: str) -> None:
        with pytest.raises(RunError, match=said) as caught:
            join_runs([first, *others], out, "fitted", Session(device=CPU))
        assert "\n" not in str(caught.value)
        assert not out.exists()

    refused(said="an ensemble needs two runs or more")
    refused(joined, said="is an ensemble itself")
    refused(first, said="is the same network as")
    copied = tmp_path / "copied"
    shutil.copytree(first.folder, copied)
    refused(Run.open(copied), said="is the same network as")
    folds = {"split.folds": 2, "fit.seed": 27}
    fold = [train_run(material, override(config, {**folds, "split.fold": k}), tmp_path / f"fold{k}") for k in (1, 2)]
    with pytest.raises(RunError, match=r"was trained on 48 of the 48 patches that .*fold1 was validated on"):
        join_runs(fold, out, "fitted", Session(device=CPU))
    other = runs["other"].folder
    for change, said in (
        (lambda table: table.iloc[1:], "has another validation set than"),
        (lambda table: table.assign(label=1 - table["label"]), "has other validation labels than"),
    ):
        changed = tmp_path / said.split()[-2]
        shutil.copytree(other, changed)
        change(pd.read_csv(other / "predictions.csv")).to_csv(changed / "predictions.csv", index=False)
        write_manifest(changed)
        refused(Run.open(changed), said=said)


def test_the_order_of_a_members_predictions_does_not_matter(runs: dict[str, Run], tmp_path: Path) -> None:
    turned = tmp_path / "turned"
    shutil.copytree(runs["other"].folder, turned)
    pd.read_csv(turned / "predictions.csv").iloc[::-1].to_csv(turned / "predictions.csv", index=False)
    write_manifest(turned)
    straight = join_runs([runs["before"], runs["other"]], tmp_path / "a", "fitted", Session(device=CPU))
    other = join_runs([runs["before"], Run.open(turned)], tmp_path / "b", "fitted", Session(device=CPU))
    assert other.weights == straight.weights
    assert other.predictions.probabilities.tolist() == straight.predictions.probabilities.tolist()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a": {}, "b": {}}, "'a' and 'b' would be the same network"),
        ({"a": {}, "b": {"predict.views": 8}}, "'a' and 'b' would be the same network"),
        ({"a": {}, "b": {"split.seed": 1}}, "'b' would have another validation set"),
        ({"a": {}, "b": {"model.architecture": "timm", "model.backbone": "no-such-network"}}, "timm has no backbone"),
    ],
)
def test_members_that_cannot_be_blended_are_refused_before_training(
    material: Material, config: RunConfig, tmp_path: Path, members: dict[str, dict[str, object]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        train_run(material, override(config, {"ensemble.members": members}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_member_is_not_opened(trained: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    weights = folder / "members" / "after" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(RunError, match=r"members/after/model.safetensors: has changed since"):
        Run.open(folder)
    write_manifest(folder / "members" / "after")
    with pytest.raises(RunError, match=r"members/after/manifest.json: has changed since"):
        Run.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["members"][0] = "../../elsewhere"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="a member's name is not a directory name"):
        Run.open(folder)


def test_members_get_names_that_are_safe_and_different(runs: dict[str, Run], tmp_path: Path) -> None:
    places = [tmp_path / "a" / "My run", tmp_path / "b" / "my_run", tmp_path / ".hidden"]
    for place, run in zip(places, runs.values(), strict=True):
        shutil.copytree(run.folder, place)
    found = join_runs([Run.open(place) for place in places], tmp_path / "out", "fitted", Session(device=CPU))
    assert [member.name for member in found.members] == ["My_run", "my_run-2", "hidden"]


def test_settings_of_any_kind_are_noted_for_members(
    material: Material, runs: dict[str, Run], config: RunConfig, tmp_path: Path
) -> None:
    settings = {"fit.seed": 30, "fit.patience": 2, "data.leave_out": ["blank"], "data.slides": tmp_path / "slides.csv"}
    odd = train_run(material, override(config, settings), tmp_path / "odd")
    run = join_runs([runs["before"], odd], tmp_path / "out", "fitted", Session(device=CPU))
    assert run.config.ensemble is not None
    assert run.config.ensemble.members["before"]["fit.patience"] == "none"
    shared = {"data": runs["before"].config.data}  # which is no member's own
    assert list(run.config.members().values()) == [runs["before"].config, odd.config.model_copy(update=shared)]


def test_given_ensembles_are_compared_like_other_runs(
    material: Material,
    config: RunConfig,
    joined: Run,
    runs: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = pair_given([runs["before"], joined])
    assert [variant.blends for variant in found.variants] == [False, True]
    names = [variant.name for variant in found.variants]
    assert names == ["one network", "members norm after, views 8, size_px 48 + 2 × norm before, views 1, size_px 32"]
    monkeypatch.setattr(given, "_LONGEST", 30)  # a name heads tables; what does not fit stands in the settings
    assert [variant.name for variant in pair_given([runs["before"], joined]).variants][1] == "ensemble of 3 networks"
    assert pair_given([runs["before"], joined]).variants[1].settings == found.variants[1].settings
    evidence = weigh(found, *best_known_clusters([joined]), load_preset("fair").compare)
    assert np.isfinite(evidence.verdicts[0].difference)
    seeds = [
        override(config, {"ensemble.members": {"a": {"fit.seed": s}, "b": {"fit.seed": s + 1}}, "fit.seed": s})
        for s in (1, 3)
    ]
    pairs = [train_run(material, asked, tmp_path / f"pair{k}") for k, asked in enumerate(seeds)]
    single = [train_run(material, override(config, {"fit.seed": s}), tmp_path / f"single{s}") for s in (1, 3)]
    together = pair_given([*single, *pairs])
    assert [variant.name for variant in together.variants] == ["one network", "members 2 seeds"]
    assert together.seeds == (1, 3)


def test_variants_of_an_ensemble_are_trained_like_others(material: Material, tmp_path: Path) -> None:
    settings = {
        "fit.epochs": 1,
        "fit.batch_size": 16,
        "seeds": [25, 26],
        "ensemble.members": {"a": {"model.norm": "before"}, "b": {"model.norm": "after"}},
        "compare.variants": {"fitted": {"ensemble.weights": "fitted"}, "equal": {"ensemble.weights": "equal"}},
    }
    config = override(load_preset("fair"), settings)
    store = RunStore(material, tmp_path / "runs")
    found = compare_variants(config, store)
    assert found.variants[1].runs[0].weights == (0.5, 0.5)
    seeds = {member.seed for member in found.variants[0].runs[1].members}
    assert seeds == {26}
    fixed = override(config, {"ensemble.members": {"a": {"fit.seed": 1}, "b": {"fit.seed": 2}}})
    with pytest.raises(ConfigError, match="would be the same network under all seeds"):
        compare_variants(fixed, store)
