"""Predictions in blocks are those of one process, whatever is lost on the way; only what is not there yet is done."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import make_patches
from in_turn import InTurn
from sentinode.api.runs import evaluate, predict
from sentinode.config.run import RunConfig
from sentinode.data.patches import PatchSet
from sentinode.engine.local import Local
from sentinode.engine.task import Needs
from sentinode.errors import ConfigError, TasksError
from sentinode.evaluation.metrics import OwnMetric
from sentinode.inference.classifier import Classifier
from sentinode.inference.trained import TrainedNetwork
from sentinode.models.own import Recipes
from sentinode.runs import tasks
from sentinode.runs.load import classifier_of, open_runs, runtime_cache_of
from sentinode.runs.material import Material
from sentinode.runs.run_record import RUN_RECORD
from sentinode.runs.tasks import predict_patches
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override

NETWORK = """
import os, signal
from pathlib import Path
import torch

class Moody(torch.nn.Module):
    '''Does what a file `mood` in the current folder says to a batch with a grey patch of 77 in it.'''

    def __init__(self):
        super().__init__()
        self.flat, self.out = torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 1)

    def forward(self, x):
        mood = Path("mood")
        if mood.exists() and ((x * 255 - 77).abs() < 0.1).all(dim=3).all(dim=2).all(dim=1).any():
            if mood.read_text() == "dies once":
                mood.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("not in the mood")
        return self.out(self.flat(x))
"""


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch) -> PatchSet:
    """Five blocks and a few patches; in the third is a grey one."""
    monkeypatch.setattr(tasks, "BLOCK_PATCHES", 16)
    found = make_patches(83, seed=4)
    found.pixels[40] = 77
    return found


@pytest.fixture
def classifier(session: Session, run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """A run of a network of a user's own, in a module of the current folder."""
    (tmp_path / "moody.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "moody", raising=False)
    import moody  # type: ignore[import-not-found]

    own, patches = Recipes.of(moody.Moody), make_patches()
    recipe = own.known[0]
    config = override(run_config, {**recipe.settings, "running.cpus": 1})
    train_run(Material(patches, patches.groups, session=session), config, tmp_path / "run", own=own)
    runs = open_runs(tmp_path / "run", own)
    return classifier_of(runs, torch.device("cpu"), fastest=runtime_cache_of(session))


def bytes_of(classifier: Classifier, patches: PatchSet, session: Session, out: Path) -> bytes:
    predict_patches(classifier, patches, session, out).write(out)
    return out.read_bytes()


@pytest.mark.numeric
def test_blocks_in_processes_are_what_one_process_predicts_though_one_is_killed(
    classifier: Classifier, patches: PatchSet, session: Session, tmp_path: Path
) -> None:
    notices: list[str] = []
    serial = bytes_of(classifier, patches, replace(session, threads=1), tmp_path / "serial.csv")
    (tmp_path / "mood").write_text("dies once")
    many = replace(session, engine=Local(2, pause_s=0.01), notify=notices.append)
    assert bytes_of(classifier, patches, many, tmp_path / "killed.csv") == serial
    assert notices == ["patches from 33 failed, and is tried again"]


def test_a_block_that_failed_is_all_that_is_done_when_the_command_is_given_again(
    classifier: Classifier, patches: PatchSet, session: Session, tmp_path: Path
) -> None:
    told: list[tuple[Any, ...]] = []
    engine = InTurn()
    many = replace(session, engine=engine, progress=lambda *words: told.append(words))
    (tmp_path / "mood").write_text("never again")
    with pytest.raises(TasksError, match=r"1 of 6 failed: patches from 33 \(3 times\) .*not in the mood") as error:
        predict_patches(classifier, patches, many, tmp_path / "a.csv")
    assert error.value.exit_code == 1
    (tmp_path / "mood").unlink()
    engine.sent.clear()
    told.clear()
    assert bytes_of(classifier, patches, many, tmp_path / "a.csv") == bytes_of(
        classifier, patches, session, tmp_path / "serial.csv"
    )
    assert [task.name for task in engine.sent] == ["patches from 33"]
    assert ("predict", 6, 6, "") in told
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".blocks")]


@pytest.mark.numeric
def test_blocks_are_computed_by_what_was_chosen_for_all(
    classifier: Classifier, patches: PatchSet, session: Session, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (network,) = classifier.runs[0].networks
    assert isinstance(network, TrainedNetwork)
    network.compute_by("onnxruntime")
    engine = InTurn()
    many = replace(session, engine=engine)
    found = predict_patches(classifier, patches, many, tmp_path / "a.csv", {"running.cpus": 2})
    assert classifier.runtimes[0].startswith("onnxruntime")
    assert found.probabilities.tolist() == classifier(patches.pixels).tolist()
    assert {tuple(task.given["ways"]) for task in engine.sent} == {("onnxruntime",)}
    assert {task.needs for task in engine.sent} == {Needs(cpus=2)}
    assert [task.given["rows"] for task in engine.sent][-1] == [80, 83]


def test_a_block_of_patches_stays_here(
    classifier: Classifier, patches: PatchSet, session: Session, tmp_path: Path
) -> None:
    engine = InTurn()
    predict_patches(classifier, patches.part(slice(0, 16)), replace(session, engine=engine), tmp_path / "a.csv")
    assert not engine.sent


def share_called(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """A metric of a user's own."""
    return float((probabilities > 0.5).mean() - labels.mean())


@pytest.mark.numeric
def test_members_that_an_engine_trains_have_the_metrics_of_a_users_own(
    session: Session, run_config: RunConfig, tmp_path: Path
) -> None:
    members = {name: {"fit.epochs": 1, "fit.seed": seed} for seed, name in enumerate(("a", "b"))}
    config = override(run_config, {"ensemble.members": members})
    metrics = {"share called": OwnMetric(share_called, lower_is_better=True)}
    many, patches, runs = replace(session, engine=InTurn()), make_patches(), []
    for name, where in (("one", session), ("many", many)):
        material = Material(patches, patches.groups, session=where)
        runs.append(train_run(material, config, tmp_path / name, metrics=metrics))
    for one, other in zip((runs[0], *runs[0].members), (runs[1], *runs[1].members), strict=True):
        assert "share called" in other.record.own_scores
        assert (one.folder / RUN_RECORD).read_bytes() == (other.folder / RUN_RECORD).read_bytes()

    material, lone = Material(patches, patches.groups, session=many), {"mine": OwnMetric(lambda *_: 1.0)}
    with pytest.raises(ConfigError, match="the metric 'mine' is defined where other processes do not find it"):
        train_run(material, config, tmp_path / "lone", metrics=lone)


@pytest.mark.usefixtures("patches")
def test_predict_and_evaluate_ask_an_engine(
    classifier: Classifier, phantom_folder: Path, session: Session, tmp_path: Path
) -> None:
    engine, run = InTurn(), classifier.runs[0]
    assert run.folder is not None
    assert run.own is not None
    many, network = replace(session, engine=engine), run.own.known[0].factory
    predict(classifier, phantom_folder, tmp_path / "one.csv", session)
    predict(classifier, phantom_folder, tmp_path / "many.csv", many)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "many.csv").read_bytes()
    predicted = len(engine.sent)
    assert predicted > 1

    labels = phantom_folder / "train_labels.csv"
    evaluate(run.folder, phantom_folder, labels, session, out=tmp_path / "one", network=network)
    evaluate(run.folder, phantom_folder, labels, many, out=tmp_path / "many", network=network)
    for name in ("predictions.csv", "scores.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    assert len(engine.sent) > predicted
    with pytest.raises(ConfigError, match="beside those asked for"):
        evaluate(run.folder, phantom_folder, labels, many, network=network)


def test_an_exported_model_is_computed_by_the_command_alone(
    classifier: Classifier, patches: PatchSet, session: Session, tmp_path: Path
) -> None:
    exported = classifier.with_runs([replace(run, folder=None) for run in classifier.runs])
    with pytest.raises(ConfigError, match="run: an exported model is computed by this process alone"):
        predict_patches(exported, patches, replace(session, engine=InTurn()), tmp_path / "a.csv")


def test_what_asks_for_nothing_of_a_machine_is_refused(
    classifier: Classifier, patches: PatchSet, session: Session, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'predict\.views' asks for nothing of a machine\. Set running\.cpus"):
        predict_patches(
            classifier, patches, replace(session, engine=InTurn()), tmp_path / "a.csv", {"predict.views": 1}
        )


def test_a_model_that_has_changed_is_not_the_one_that_was_asked(
    classifier: Classifier, patches: PatchSet, session: Session, tmp_path: Path
) -> None:
    class Changing(InTurn):
        def run(self, tasks: Any, watch: Any) -> Any:
            (tmp_path / "run" / "manifest.json").write_text("{}")
            return super().run(tasks, watch)

    with pytest.raises(TasksError, match=r"run: is another model than the task is of"):
        predict_patches(classifier, patches, replace(session, engine=Changing()), tmp_path / "a.csv")
