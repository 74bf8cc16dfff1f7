"""The learning rate's course over a run."""

from __future__ import annotations

import pytest

from sentinode.config.fit import CosineSchedule, FitAll
from sentinode.fitting.optimizer import rate_factor


def test_constant_is_one() -> None:
    assert {rate_factor(FitAll(epochs=2), step, 10) for step in range(20)} == {1.0}


def test_warm_up_rises_in_a_line_and_the_cosine_falls_to_nearly_nothing() -> None:
    config = FitAll(epochs=4, schedule=CosineSchedule(warmup_epochs=1))
    factors = [rate_factor(config, step, 10) for step in range(40)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1.0 == max(factors)
    assert factors[25] == pytest.approx(0.5)  # half way down
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.01


def test_a_warm_up_longer_than_the_run_leaves_it_a_last_step() -> None:
    config = FitAll(epochs=1, schedule=CosineSchedule(warmup_epochs=9))
    assert [rate_factor(config, step, 3) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])
