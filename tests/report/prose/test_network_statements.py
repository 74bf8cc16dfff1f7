"""How the report tells of the ways in which networks are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from sentinode.config.run import RunConfig
from sentinode.report.prose.model_statements import training_statement
from sentinode.runs.run import Run
from sentinode.settings import override


@dataclass
class Told:
    """As much of a run as the statement asks for."""

    config: RunConfig
    history: list[int]
    networks: list[Told] = field(init=False)

    def __post_init__(self) -> None:
        self.networks = [self]


def statement(*runs: tuple[dict[str, Any], int]) -> str:
    base = override(RunConfig(), {"model.architecture": "timm", "model.backbone": "test_efficientnet"})
    told = [Told(override(base, fit), list(range(rows))) for fit, rows in runs]
    return training_statement(cast("list[Run]", told))


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        ({}, "learning rate 0.001, batches of 32, 4 of at most 20 epochs."),
        ({"fit.train": "head"}, "frozen backbone (a linear probe), with 7 penalties, a fit each."),
        (
            {"fit.train": "head", "fit.copies.count": 2},
            "and of 2 augmented copies of each patch, with 7 pen",
        ),
        (
            {"fit.train": "stages", "fit.head_first": {}, "fit.frozen_stages": 3},
            ", the head fitted before the rest, the first 3 stages frozen, ",
        ),
        (
            {"fit.schedule.kind": "cosine", "fit.average.kind": "ema"},
            "cosine schedule, batches of 32, 4 of at most 20 epochs, exp",
        ),
    ],
)
def test_what_is_said_of_a_training(fit: dict[str, Any], said: str) -> None:
    assert said in statement((fit, 4))


def test_seeds_of_one_way_are_told_once_with_the_epochs_that_they_took() -> None:
    told = statement(({"fit.seed": 1}, 3), ({"fit.seed": 2}, 9), ({"fit.seed": 3, "fit.batch_size": 64}, 5))
    assert told.count("Adam") == 2
    assert "batches of 32, 3 to 9 of at most 20 epochs" in told
