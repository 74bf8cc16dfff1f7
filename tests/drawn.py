"""Models for tests that no one trained: networks whose weights are drawn, and classifiers of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from sentinode import Classifier
from sentinode.config.run import RunConfig
from sentinode.inference.classifier import TrainedRun
from sentinode.inference.trained import TrainedNetwork
from sentinode.models.build import build
from sentinode.settings import override


def network_of(settings: dict[str, Any], seed: int = 0) -> TrainedNetwork:
    """Never trained, but with norms that do something."""
    config = override(RunConfig(), {"predict.precision": "float32", **settings})
    generator = torch.Generator().manual_seed(seed)
    network = build(config.model, input_size_px=config.preprocess.size_px, generator=generator, pretrained=False)
    for name, values in network.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 2, generator=generator)
        elif name in ("head.weight", "head.bias"):
            values.normal_(std=0.1, generator=generator)
    return TrainedNetwork(network, config, torch.device("cpu"))


def classifier_of(*runs: TrainedRun) -> Classifier:
    def absent() -> NoReturn:
        pytest.fail("an export does not ask for it")

    return Classifier(
        "drawn",
        runs,
        calibrations={},
        operating_points={},
        undecided="it was drawn",
        decided_in=Path("decision.json"),
        spacing_um_per_px=0.972,
        validation=absent,
        card=absent,
    )
