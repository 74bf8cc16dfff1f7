"""Several processes train what one would: the same steps on shares of the same batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from rounding import FACTOR
from sentinode.apps.cli import run
from sentinode.config.fit import AugmentConfig
from sentinode.config.presets import load_preset
from sentinode.config.run import RunConfig
from sentinode.inputs.augment import draw
from sentinode.models import build as models
from sentinode.processes import ALONE, Processes
from sentinode.runs import train
from sentinode.runs.material import Material, gather
from sentinode.session import Session
from sentinode.settings import override, parse_settings

# No batch norm: its statistics are those of a process's own share, and so would differ.
SETTINGS = [
    "preprocess.size_px=96",
    "model.architecture=timm",
    "model.backbone=test_vit",
    "model.pretrained=none",
    "sample.per_class=20",
    "fit.epochs=2",
    "fit.batch_size=9",
    "fit.average.kind=ema",
    "predict.views=1",
]

# What `torchrun` and `accelerate launch` tell two processes, which here import everything once, before they part.
TWICE = """
import os, sys
import accelerate, timm, sentinode.api.experiments
from sentinode.apps.cli import run
from sentinode.report.pages import page
from sentinode.runs import train
page.write_run_page = lambda run: run.folder / "report.html"  # no page is what is looked at here
first = os.fork()
rank = "0" if first else "1"
os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
code = run(sys.argv[1:])

# Once more, cut in the second epoch, and gone on with.
*ask, out = sys.argv[1:]
tell = train._Training._tell
def cut(training, history):
    if len(history) == 2:
        raise KeyboardInterrupt
    tell(training, history)
train._Training._tell = cut
code |= run([*ask, out + "-cut"]) != 1
train._Training._tell = tell
code |= run([*ask, out + "-cut", "--resume"])
sys.exit(code or (os.waitpid(first, 0)[1] if first else 0))
"""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def test_a_process_on_its_own_has_everything() -> None:
    batch = torch.arange(5.0)
    assert ALONE.writes
    assert ALONE.share(batch) is batch
    assert np.array_equal(ALONE.gathered(np.arange(3)), np.arange(3))


def test_shares_are_disjoint_and_complete_and_keep_their_draws() -> None:
    batch = torch.arange(7)
    shares = [Processes(rank, 3).share(batch) for rank in range(3)]
    assert sorted(torch.cat(shares).tolist()) == batch.tolist()
    draws = draw(AugmentConfig(stain_jitter=0.5), 7, torch.Generator().manual_seed(1))
    second = draws.of(Processes(1, 3).share)
    assert second.zoom is None
    assert second.stain is not None
    assert draws.stain is not None
    assert torch.equal(second.stain, draws.stain[1::3])


def train_from_other_last_digits(
    material: Material, config: RunConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train in one process, initial weights changed by a last digit at most: how far rounding leads."""
    seed = int(out.name)

    def build(*args: Any, **keywords: Any) -> nn.Module:
        network, generator = models.build(*args, **keywords), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weights in network.parameters():
                weights *= 1 + torch.finfo(torch.float32).eps * (2 * torch.rand(weights.shape, generator=generator) - 1)
        return network

    with monkeypatch.context() as patch:
        patch.setattr(train, "build", build)
        train.train_run(material, config, out)


@pytest.mark.usefixtures("undrawn")
def test_two_processes_train_what_one_does(
    phantom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ["train", str(phantom_folder), "--device", "cpu", "--cache", str(tmp_path / "cache")]
    for setting in SETTINGS:
        ask += ["--set", setting]
    assert run([*ask, "--out", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out.count("average_precision") == 1
    finished = subprocess.run(
        [sys.executable, "-c", TWICE, *ask, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("average_precision") == 2  # one process tells of both runs
    for name in ("model.safetensors", "predictions.csv", "scores.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "two-cut" / name).read_bytes()
    config = override(load_preset("fair").run_config(), parse_settings(SETTINGS))
    material = gather(phantom_folder, config, Session(tmp_path / "cache", torch.device("cpu"), workers=1)).material
    for seed in ("1", "2", "3"):
        train_from_other_last_digits(material, config, tmp_path / seed, monkeypatch)
    one, two, *others = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two", "1", "2", "3"))
    losses, ranks = ["training_loss", "validation_loss"], ["training_auc", "validation_auc", "training_patches"]
    bound = FACTOR * max(np.abs(other[losses] / one[losses] - 1).to_numpy().max() for other in others)
    np.testing.assert_allclose(two[losses], one[losses], rtol=bound)
    assert two[ranks].equals(one[ranks])


def test_other_commands_refuse_to_run_several_times(
    phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["study", str(phantom_folder), "--out", str(tmp_path / "study")]) == 2
    assert "only `train` is for them" in capsys.readouterr().err
