"""The loop: it learns, is the same after any interruption, and stops where the loss is no number."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import make_patches
from rounding import UNIT
from sentinode.config.fit import AugmentConfig, FitAll
from sentinode.config.run import NotebookModel, PreprocessConfig
from sentinode.errors import DivergedError, RunError
from sentinode.fitting.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from sentinode.fitting.epochs import EpochRecord, FitState, _Collector, fit_epochs, steps_in_epoch, train_step
from sentinode.inputs.batches import BatchStream
from sentinode.inputs.preprocess import prepare
from sentinode.models.build import build

CPU = torch.device("cpu")
AUGMENT = AugmentConfig(stain_jitter=0.1)
CONFIG = FitAll(epochs=4, batch_size=8, augment=AUGMENT)


def stream(config: FitAll, *, count: int = 40, shuffle: bool = True, seed: int = 5) -> BatchStream:
    patches = make_patches(count)
    prepared = prepare(patches, np.arange(count), PreprocessConfig(), budget_mb=100)
    return BatchStream(prepared, patches.labels, batch_size=config.batch_size, seed=seed, shuffle=shuffle)


def new_state(config: FitAll = CONFIG, *, bn_momentum: float = 0.75) -> FitState:
    generator = torch.Generator().manual_seed(3)
    return FitState.start(build(NotebookModel(bn_momentum=bn_momentum), input_size_px=32, generator=generator), config)


def run(state: FitState, config: FitAll = CONFIG) -> list[EpochRecord]:
    return list(fit_epochs(state, stream(config), stream(config, shuffle=False), config, device=CPU))


def test_it_learns() -> None:
    config = FitAll(epochs=12, batch_size=8)
    records = run(new_state(config), config)
    assert records[-1].training.loss < 0.2 < records[0].training.loss
    found = (records[-1].validation.logits > 0) == (records[-1].validation.labels == 1)
    assert found.mean() > 0.9


def test_records_hold_what_was_seen() -> None:
    (first, *_) = records = run(new_state())
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert len(first.training.labels) == len(first.validation.labels) == 40
    logits, labels = first.validation.logits.astype(np.float64), first.validation.labels
    by_hand = np.mean(np.logaddexp(0, logits) - labels * logits)
    # A sum of 40 losses in single precision, of four operations each.
    assert first.validation.loss == pytest.approx(by_hand, rel=44 * UNIT)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    whole = new_state()
    run(whole)
    broken = new_state()
    records = fit_epochs(broken, stream(CONFIG), stream(CONFIG, shuffle=False), CONFIG, device=CPU)
    for _ in range(stop_after):
        next(records)
        save_checkpoint(tmp_path / "c.safetensors", broken, [{"epoch": broken.epochs_done}])
    resumed = new_state()
    history = load_checkpoint(tmp_path / "c.safetensors", resumed)
    assert history == [{"epoch": stop_after}]
    assert len(run(resumed)) == CONFIG.epochs - stop_after
    for name, expected in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], expected), name
    assert resumed.optimizer.steps_done == whole.optimizer.steps_done == 4 * 5
    for mine, theirs in zip(resumed.optimizer.moments, whole.optimizer.moments, strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def test_a_checkpoint_restores_torchs_own_random_state(tmp_path: Path) -> None:
    state = new_state()
    save_checkpoint(tmp_path / "c.safetensors", state, [])
    expected = torch.rand(3)
    load_checkpoint(tmp_path / "c.safetensors", state)
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_gives_another_network() -> None:
    first, second = new_state(), new_state()
    run(first)
    list(fit_epochs(second, stream(CONFIG, seed=6), stream(CONFIG), CONFIG, device=CPU))
    weights = [state.network.state_dict()["0.weight"] for state in (first, second)]
    assert not torch.equal(*weights)


def test_steps_are_a_whole_pass_at_most() -> None:
    batches = stream(CONFIG)
    assert steps_in_epoch(batches, None) == 5
    assert steps_in_epoch(batches, 3) == 3
    assert steps_in_epoch(batches, 99) == 5
    config = FitAll(epochs=2, batch_size=8, steps_per_epoch=2, validation_steps=1)
    records = run(new_state(config), config)
    assert [len(r.training.labels) for r in records] == [16, 16]
    assert [len(r.validation.labels) for r in records] == [8, 8]


@pytest.mark.parametrize(
    ("patches", "batches"), [(35_000, 546), (15_000, 234), (4_900, 76), (2_100, 32), (100, 1), (40, 1), (3, 1)]
)
def test_half_an_epoch_is_half_of_however_many_patches_there_are(patches: int, batches: int) -> None:
    """The notebook's 546 and 234 batches of 32 are half of its two sides, in whole batches."""
    side = BatchStream.__new__(BatchStream)
    side.labels, side.batch_size = torch.zeros(patches), 32
    assert steps_in_epoch(side, None, 0.5) == batches
    assert steps_in_epoch(side, None) == side.batches_per_pass


def test_half_epochs_go_on_where_the_last_one_stopped() -> None:
    config = FitAll(epochs=2, batch_size=8, epoch_fraction=0.5)
    records = run(new_state(config), config)
    assert [len(r.training.labels) for r in records] == [len(r.validation.labels) for r in records] == [16, 16]
    halves = [record.validation.labels for record in records]
    whole = stream(config, shuffle=False).labels.numpy()
    assert np.array_equal(np.concatenate(halves), whole[:32])


def test_a_loss_that_is_no_number_stops_with_a_clear_error() -> None:
    config = FitAll(epochs=3, batch_size=8)
    state = new_state(config)
    with torch.no_grad():
        state.network.get_parameter("0.weight").fill_(float("nan"))
    with pytest.raises(DivergedError, match="no longer a finite number in epoch 1") as caught:
        run(state, config)
    assert "learning_rate" in str(caught.value)


def test_weights_read_back(tmp_path: Path) -> None:
    first, second = new_state(), new_state(bn_momentum=0.5)
    run(first)
    save_weights(tmp_path / "w.safetensors", first.network)
    load_weights(tmp_path / "w.safetensors", second.network)
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], tensor)


@pytest.mark.parametrize("content", [None, b"", b"not a safetensors file at all, but long enough to look like one"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match="is missing" if content is None else "not a safetensors file"):
        load_weights(path, new_state().network)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", torch.nn.Linear(3, 1))
    with pytest.raises(RunError, match="another network"):
        load_weights(tmp_path / "w.safetensors", new_state().network)
    with pytest.raises(RunError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "w.safetensors", new_state())


class Operations(TorchDispatchMode):
    """The names of PyTorch's operations, in the order they were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def test_a_step_moves_large_activations_in_compiled_loops_alone() -> None:
    state, batches = new_state(), stream(CONFIG)
    augment = AugmentConfig(zoom_across_centre=0.2, symmetries="none")
    state.network.train()
    for number in range(2):  # the first step of Adam lays out its moments
        batch = batches.batch(number)
        with Operations() as called:
            train_step(state, batch.images, batch.labels, augment, batches.augmentation_generator(number))
    names = Counter(called.names)
    # No arithmetic of the network is left to PyTorch, and no activation is copied from one layout to another.
    theirs = {"convolution", "convolution_backward", "addmm", "mm", "grid_sampler_2d", "max_pool2d_with_indices"}
    assert not names.keys() & (theirs | {"native_batch_norm", "relu", "mul", "add", "clone"})
    assert len(called.names) - names["detach"] < 70


def test_what_an_epoch_keeps_of_a_step_does_not_hold_the_steps_memory() -> None:
    """A view of 8 logits would: an epoch of the whole competition then took 1.8 GB."""
    kept, memory = _Collector(), torch.zeros(100_000)
    assert kept.add(torch.zeros(8), memory[:8], torch.zeros(8))
    assert all(array.base is None and array.nbytes == 32 for array in kept.logits)
