"""One run: its folder is complete, checked, resumable, and never mistaken for another's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import make_patches
from sentinode.config.fit import FitAll
from sentinode.config.run import RunConfig
from sentinode.data.patches import PatchSet
from sentinode.errors import DivergedError, RunError, SentinodeError, SentinodeWarning
from sentinode.evaluation.metrics import scores
from sentinode.fitting import epochs
from sentinode.runs.decision import decide
from sentinode.runs.history import best_epoch, has_finished
from sentinode.runs.load import classifier_of
from sentinode.runs.material import Material
from sentinode.runs.run import CONTENTS, Run, verify
from sentinode.runs.run_record import Augmentation, Preprocessing, RunRecord
from sentinode.runs.train import train_run
from sentinode.settings import override

CPU = torch.device("cpu")


class KilledError(Exception):
    """Stands for a process that is killed between two epochs."""


def kill_after(epoch: int):
    def on_epoch(row: dict[str, object]) -> None:
        if row["epoch"] == epoch:
            raise KilledError

    return on_epoch


def test_a_run_folder_holds_what_the_design_says(material: Material, run_config: RunConfig, tmp_path: Path) -> None:
    run = train_run(material, run_config, tmp_path / "run")
    assert {*CONTENTS, "manifest.json", "checkpoint"} == {path.name for path in run.folder.iterdir()}
    split = pd.read_csv(run.folder / "split.csv")
    assert split.columns.tolist() == ["id", "label", "side", "cluster"]
    assert run.history["epoch"].tolist() == [1, 2, 3]
    assert run.predictions.ids.tolist() == split.loc[split["side"] == "validation", "id"].tolist()
    assert run.scores == pytest.approx(scores(run.predictions.labels, run.predictions.probabilities))
    assert {"sentinode", "git", "libraries", "device", "seed", "data_sha256", "torch_threads"} <= run.environment.keys()
    assert run.config == run_config
    assert run.record.split_basis == "slide"
    assert (run.record.training, run.record.validation) == tuple(
        split["side"].value_counts()[["training", "validation"]]
    )
    made = run.network_record
    network = run.network(CPU)
    assert made.summary.trainable == sum(p.numel() for p in network.parameters())
    assert made.preprocessing == Preprocessing(96, 32, "area", "none", 0, None)
    assert made.augmentation == Augmentation(symmetries="all", stain_jitter=0.1)
    assert made.seeded == ("initial weights", "order of batches", "augmentation")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', "\0"])
def test_a_record_that_is_none_is_told_in_one_line_with_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    said = "is a record of version 2, where version 1 is read" if "2" in text else "is not a record of this version"
    with pytest.raises(RunError, match=said) as told:
        RunRecord.read(tmp_path)
    assert str(tmp_path / "run.json") in str(told.value)
    assert "\n" not in str(told.value)


def test_a_run_carries_what_its_validation_side_decides(
    material: Material, run_config: RunConfig, tmp_path: Path
) -> None:
    run = train_run(material, override(run_config, {"decision.sensitivity": 0.9}), tmp_path / "run")
    slide_of = dict(zip(material.patches.ids.tolist(), material.patches.slides.tolist(), strict=True))
    slides = np.array([slide_of[i] for i in run.predictions.ids.tolist()])
    expected = decide(run.predictions, slides, run.config.decision, seed=run.seed)
    assert run.decision.clusters == len(np.unique(slides))
    assert run.decision.not_cross_fitted == expected.not_cross_fitted == ""
    for name, point in run.decision.points.items():
        assert point.threshold == pytest.approx(expected.points[name].threshold, abs=1e-8)  # 9 digits are stored
        assert run.decision.cross_fitted[name] == expected.cross_fitted[name]
    assert run.decision.points["sensitivity"].rule == "sensitivity of at least 0.9"


def test_a_run_validated_on_one_slide_says_what_it_cannot_decide(
    material: Material, run_config: RunConfig, tmp_path: Path
) -> None:
    sides = np.where(material.patches.slides == "s0", "validation", "training")
    pd.DataFrame({"id": material.patches.ids, "side": sides}).to_csv(tmp_path / "sides.csv", index=False)
    settings = {"split.by": "file", "split.file": str(tmp_path / "sides.csv"), "fit.epochs": 1}
    run = train_run(material, override(run_config, settings), tmp_path / "run")
    assert run.decision.clusters == 1
    assert "at least two groups" in run.decision.not_cross_fitted
    assert list(run.decision.agreements) == ["raw"]
    assert run.decision.points
    assert not run.decision.cross_fitted


def test_the_kept_weights_are_the_best_epochs(material: Material, run_config: RunConfig, tmp_path: Path) -> None:
    run = train_run(material, run_config, tmp_path / "run")
    best = run.history["validation_auc"].max()
    assert run.scores["auc"] == pytest.approx(best, abs=1e-9)  # one view, so the epoch's own score


def test_last_keeps_the_last(material: Material, run_config: RunConfig, tmp_path: Path) -> None:
    run = train_run(material, override(run_config, {"fit.keep": "last"}), tmp_path / "run")
    assert run.scores["auc"] == pytest.approx(run.history["validation_auc"].iloc[-1], abs=1e-9)
    assert run.scores["log_loss"] == pytest.approx(run.history["validation_loss"].iloc[-1], abs=1e-4)


def test_killed_and_resumed_equals_uninterrupted(material: Material, run_config: RunConfig, tmp_path: Path) -> None:
    whole = train_run(material, run_config, tmp_path / "whole")
    with pytest.raises(KilledError):
        train_run(material, run_config, tmp_path / "broken", on_epoch=kill_after(2))
    with pytest.raises(RunError, match="unfinished"):
        Run.open(tmp_path / "broken")
    with pytest.raises(RunError, match="--resume"):
        train_run(material, run_config, tmp_path / "broken")
    resumed = train_run(material, run_config, tmp_path / "broken", resume=True)
    assert (resumed.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()
    assert (resumed.folder / "predictions.csv").read_bytes() == (whole.folder / "predictions.csv").read_bytes()
    same = [c for c in whole.history if c not in ("duration_s", "patches_per_s")]
    pd.testing.assert_frame_equal(resumed.history[same], whole.history[same])


def test_killed_while_it_is_prepared_a_run_is_gone_on_with(
    material: Material, run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process tidies nothing up, so the folder is as it was after each file of the preparation."""
    config = override(run_config, {"fit.epochs": 1})
    whole = train_run(material, config, tmp_path / "whole")
    for written in (["config.toml"], ["config.toml", "split.csv"], ["config.toml", "split.csv", "environment.json"]):
        folder = tmp_path / f"after-{len(written)}"
        folder.mkdir()
        for name in written:
            (folder / name).write_bytes((whole.folder / name).read_bytes())
        (folder / ".split.csv.k3j2h1g0.part").write_text("half")
        resumed = train_run(material, config, folder, resume=True)
        assert (folder / "predictions.csv").read_bytes() == (whole.folder / "predictions.csv").read_bytes()
        assert {path.name for path in folder.iterdir()} == {path.name for path in whole.folder.iterdir()}
        assert resumed.config == config


def test_what_cannot_be_begun_leaves_no_folder(material: Material, run_config: RunConfig, tmp_path: Path) -> None:
    missing = {"split.by": "file", "split.file": str(tmp_path / "no.csv")}
    with pytest.raises(SentinodeError, match=r"no\.csv"):
        train_run(material, override(run_config, missing), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("architecture", ["notebook", "timm"])
def test_training_leaves_every_global_random_state_as_it_was(
    material: Material, run_config: RunConfig, tmp_path: Path, architecture: str
) -> None:
    backbone = {"model.backbone": "test_efficientnet", "model.pretrained": "none"} if architecture == "timm" else {}
    config = override(run_config, {"fit.epochs": 1, "model.architecture": architecture, **backbone})
    # Not Python's own: beartype, which checks shapes while tests run, draws from it.
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    train_run(material, config, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_a_finished_run_is_not_trained_again(
    material: Material, run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(material, run_config, tmp_path / "run")
    monkeypatch.setattr(epochs, "train_step", lambda *_, **__: pytest.fail("trained again"))
    train_run(material, run_config, tmp_path / "run", resume=True)


def test_a_run_goes_on_where_less_memory_is_at_hand(material: Material, run_config: RunConfig, tmp_path: Path) -> None:
    def stop(_row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(material, run_config, tmp_path / "run", on_epoch=stop)
    less = override(run_config, {"running.memory_budget_mb": 1, "running.prediction_batch_size": 8})
    run = train_run(material, less, tmp_path / "run", resume=True)
    assert len(run.history) == run_config.fit.epochs_planned


def test_other_settings_or_other_data_are_refused(material: Material, run_config: RunConfig, tmp_path: Path) -> None:
    train_run(material, run_config, tmp_path / "run")
    with pytest.raises(RunError, match="other settings"):
        train_run(material, override(run_config, {"fit.seed": 1}), tmp_path / "run", resume=True)
    other = make_patches(seed=1, count=80)
    with pytest.raises(RunError, match="other patches"):
        train_run(Material(other, other.groups), run_config, tmp_path / "run", resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        train_run(material, run_config, tmp_path / "mine")


@pytest.mark.parametrize("name", CONTENTS)
def test_a_missing_or_foreign_file_is_refused(
    material: Material, run_config: RunConfig, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    train_run(material, override(run_config, {"fit.epochs": 1}), folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content + b" ")
    with pytest.raises(RunError, match="has changed since the run was finished"):
        verify(folder)
    (folder / name).unlink()
    with pytest.raises(RunError, match="is missing") as caught:
        verify(folder)
    assert str(folder / name) in str(caught.value)


def test_a_damaged_manifest_is_refused(material: Material, run_config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_run(material, override(run_config, {"fit.epochs": 1}), folder)
    (folder / "manifest.json").write_text(json.dumps({"sha256": {}}))
    with pytest.raises(RunError, match=r"manifest\.json: is not a record of this version"):
        Run.open(folder)
    with pytest.raises(RunError, match="is not a run"):
        Run.open(tmp_path)


def test_divergence_keeps_the_last_good_weights(
    material: Material, run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = epochs.train_step

    def diverge_in_epoch_two(state, *rest, **options):
        logits, losses = step(state, *rest, **options)
        return logits, losses * float("nan") if state.epochs_done == 1 else losses

    monkeypatch.setattr(epochs, "train_step", diverge_in_epoch_two)
    with pytest.raises(DivergedError, match="epoch 2"):
        train_run(material, run_config, tmp_path / "run")
    monkeypatch.undo()
    resumed = train_run(material, run_config, tmp_path / "run", resume=True)
    assert np.isfinite(resumed.history["training_loss"]).all()


def test_early_stopping_counts_from_the_best() -> None:
    config = FitAll(epochs=10, patience=2)
    history = [{"epoch": n + 1, "validation_auc": auc} for n, auc in enumerate([0.6, 0.8, 0.7, 0.8])]
    assert best_epoch(history, config) == 2
    assert not has_finished(history[:3], config)
    assert has_finished(history, config)
    assert not has_finished(history, FitAll(epochs=10))
    assert has_finished(history, FitAll(epochs=4))
    assert not has_finished([], config)


def test_a_run_that_stopped_early_is_not_trained_further_when_resumed(
    material: Material, run_config: RunConfig, tmp_path: Path
) -> None:
    config = override(run_config, {"fit.epochs": 30, "fit.patience": 1})
    run = train_run(material, config, tmp_path / "run")
    count = len(run.history)
    assert count < 30
    (run.folder / "manifest.json").unlink()
    assert len(train_run(material, config, tmp_path / "run", resume=True).history) == count


@pytest.fixture(scope="module")
def with_blanks() -> PatchSet:
    """Six white patches among noise."""
    patches = make_patches()
    pixels = patches.pixels.copy()
    pixels[::16] = 255
    return PatchSet(patches.ids, patches.labels, patches.slides, patches.groups, pixels)


@pytest.mark.parametrize("budget_mb", [2048, 1])
def test_patches_whose_stain_cannot_be_normalised_are_noted(
    with_blanks: PatchSet, run_config: RunConfig, tmp_path: Path, budget_mb: int
) -> None:
    """Of both sides together, whether prepared pixels are held or not; and again of what is predicted, once."""
    settings = {"preprocess.stain": "macenko", "fit.epochs": 1, "running.memory_budget_mb": budget_mb}
    config = override(run_config, settings)
    material = Material(with_blanks, with_blanks.groups)
    assert (material.prepared(config)[0].held is None) == (budget_mb == 1)
    run = train_run(material, config, tmp_path / "run")
    told = [notice for notice in run.environment["notices"] if "stain" in notice]
    assert [notice.split(":")[0] for notice in told] == ["stain normalisation left 6 of 96 patches as they are"]
    with pytest.warns(SentinodeWarning, match="left 6 of 96 patches") as caught:
        predictions = classifier_of([run, run], CPU).predictions(with_blanks)
    assert len([warning for warning in caught if issubclass(warning.category, SentinodeWarning)]) == 1
    on_validation = dict(zip(predictions.ids.tolist(), predictions.probabilities.tolist(), strict=True))
    seen = [on_validation[i] for i in run.predictions.ids.tolist()]
    assert seen == pytest.approx(run.predictions.probabilities.tolist(), abs=1e-5)
