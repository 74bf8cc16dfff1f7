"""Predictions keep their ids: averaged where these agree, refused where they do not. Devices are chosen or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sentinode.data.patches import UNLABELLED
from sentinode.device import choose_device
from sentinode.errors import ConfigError, RunError
from sentinode.inference.predictions import Predictions, average
from sentinode.session import Session


def test_averaging_needs_the_same_patches() -> None:
    ids, labels = np.array(["a", "b"]), np.full(2, UNLABELLED, np.int8)
    first = Predictions(ids, labels, np.array([0.0, 0.4]))
    second = Predictions(ids, labels, np.array([1.0, 0.6]))
    assert average([first, second]).probabilities.tolist() == [0.5, 0.5]
    with pytest.raises(RunError, match="different patches"):
        average([first, Predictions(ids[::-1], labels, np.array([0.0, 0.4]))])


def test_a_gpu_computes_in_float32_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    for flag, usual in (("allow_tf32", True), ("deterministic", False)):
        monkeypatch.setattr(cudnn, flag, usual)
    Session(device=torch.device("cpu"))
    assert (cudnn.allow_tf32, cudnn.deterministic) == (True, False)
    Session(device=torch.device("cuda"))
    assert (cudnn.allow_tf32, cudnn.deterministic) == (False, True)


def test_the_device_is_chosen_or_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="not available"):
            choose_device("cuda")
