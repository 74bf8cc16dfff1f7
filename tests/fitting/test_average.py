"""Averages of weights: what they are, by hand, and that what is kept is the average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fitting.test_epochs import AUGMENT, CPU, new_state, run, stream
from sentinode.config.fit import CosineSchedule, EmaAverage, FitAll, SwaAverage
from sentinode.fitting.average import WeightAverage
from sentinode.fitting.checkpoint import load_checkpoint, save_checkpoint
from sentinode.fitting.epochs import fit_epochs


def layer(value: float) -> nn.Linear:
    made = nn.Linear(1, 1)
    nn.init.constant_(made.weight, value)
    return made


def test_ema_forgets_its_start_quickly_and_then_at_its_rate() -> None:
    average = WeightAverage(layer(0.0), FitAll(average=EmaAverage(decay=0.5)))
    expected, network = 0.0, layer(1.0)
    for count in range(1, 30):
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay)
        average.after_step(network)
        assert average.network.weight.item() == pytest.approx(expected, rel=1e-6)
    assert network.weight.item() == 1.0


def test_swa_is_the_mean_of_the_last_epochs_ends() -> None:
    average = WeightAverage(layer(0.0), FitAll(epochs=4, average=SwaAverage(start=0.5)))
    seen = []
    for epoch, value in enumerate((1.0, 2.0, 3.0, 5.0), start=1):
        average.after_step(layer(99.0))
        average.after_epoch(layer(value), epoch)
        seen.append(average.network.weight.item())
    assert seen == pytest.approx([1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("average", [EmaAverage(decay=0.9), SwaAverage()])
def test_the_average_is_validated_and_resumed_bit_for_bit(tmp_path: Path, average: EmaAverage | SwaAverage) -> None:
    config = FitAll(
        epochs=4, batch_size=8, average=average, weight_decay=0.01, schedule=CosineSchedule(), augment=AUGMENT
    )
    whole = new_state(config)
    records = run(whole, config)
    assert whole.result is not whole.network
    broken = new_state(config)
    some = fit_epochs(broken, stream(config), stream(config, shuffle=False), config, device=CPU)
    for _ in range(3):
        next(some)
    save_checkpoint(tmp_path / "c.safetensors", broken, [])
    resumed = new_state(config)
    load_checkpoint(tmp_path / "c.safetensors", resumed)
    (last,) = run(resumed, config)
    assert (last.validation.logits == records[-1].validation.logits).all()
    for name, tensor in whole.result.state_dict().items():
        assert torch.equal(tensor, resumed.result.state_dict()[name]), name
