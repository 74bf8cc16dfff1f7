"""Without Numba everything runs, and says once that training is slower."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rounding import Rounding
from sentinode import kernels
from sentinode.config.fit import FitAll
from sentinode.errors import SentinodeWarning
from sentinode.fitting.epochs import FitState
from sentinode.inputs.augment import zoom, zoom_by_grid
from sentinode.models.notebook import notebook_network

WITHOUT = (
    "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None; from sentinode.apps.cli import main; main()"
)


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    kernels.at_hand.cache_clear()
    with pytest.warns(SentinodeWarning, match=r"Numba is not installed.*pip install 'sentinode\[fast\]'"):
        assert not kernels.at_hand()
    yield
    kernels.at_hand.cache_clear()


def network(seed: int) -> torch.nn.Module:
    return notebook_network(norm="before", bn_momentum=0.5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("without_numba")
def test_training_goes_through_autograd_and_the_zoom_through_the_grid() -> None:
    assert FitState.start(network(0), FitAll()).chain is None
    images, factors = torch.rand(2, 3, 32, 32), torch.tensor([[0.9, 1.1], [1.0, 0.8]])
    assert torch.equal(zoom(images, factors), zoom_by_grid(images, factors))


@pytest.mark.numeric
def test_a_step_without_loops_is_that_with_them_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Adam on equal gradients; the loops' own results beside double precision."""
    rounding = Rounding()
    for seed in range(3):
        base, drawn = network(seed), torch.Generator().manual_seed(seed)
        gradients = [0.1 * torch.randn(p.shape, generator=drawn) for p in base.parameters()]
        moved = []
        for dtype, with_loops in ((torch.float32, True), (torch.float32, False), (torch.float64, False)):
            monkeypatch.setattr("sentinode.fitting.optimizer.at_hand", lambda found=with_loops: found)
            own = copy.deepcopy(base).to(dtype)
            optimizer = FitState.start(own, FitAll(learning_rate=0.01)).optimizer
            for parameter, gradient in zip(own.parameters(), gradients, strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(gradient)
            optimizer.step()
            moved.append(torch.cat([p.detach().flatten() for p in own.parameters()]))
        rounding.add("weights", moved[1], moved[0], moved[2])
    rounding.check()


def test_a_run_is_trained_and_predicts_without_numba(phantom_folder: Path, tmp_path: Path) -> None:
    command = ["train", str(phantom_folder), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    command += ["--set", "fit.epochs=1", "--set", "preprocess.size_px=32", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Numba is not installed") == 1
    assert (tmp_path / "run" / "manifest.json").is_file()
