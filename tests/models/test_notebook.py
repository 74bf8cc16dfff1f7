"""The notebook's networks against Keras's own numbers (`keras_reference.py` made them), and their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.fit.optimizer import KerasAdam
from sentinode.models.batch_norm import KerasBatchNorm
from sentinode.models.notebook import notebook_network

Order = Literal["before", "after"]
Arrays = Mapping[str, np.ndarray]

TOLERANCE = 1e-5
SAMPLE_STRIDE = 7  # as in keras_reference.py
ORDERS: tuple[Order, ...] = ("before", "after")
MOMENTA = (0.99, 0.25)


@pytest.fixture(scope="module")
def keras() -> Arrays:
    with np.load(Path(__file__).with_name("keras_reference.npz"), allow_pickle=False) as file:
        return dict(file)


def generator(seed: int = 25) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors_by_keras_path(network: nn.Sequential) -> dict[str, Tensor]:
    """The network's parameters and moving statistics, under the names that Keras gives them."""
    of_type = {kind: [m for m in network if isinstance(m, kind)] for kind in (nn.Conv2d, nn.Linear)}
    tensors: dict[str, Tensor] = {}
    for keras_name, layers in (("conv", of_type[nn.Conv2d]), ("dense", of_type[nn.Linear])):
        for number, layer in enumerate(layers, 1):
            tensors[f"{keras_name}_{number}/kernel"] = layer.weight
            tensors[f"{keras_name}_{number}/bias"] = layer.bias
    norms = [m for m in network if isinstance(m, KerasBatchNorm)]
    for number, norm in enumerate(norms, 1):
        tensors |= {
            f"norm_{number}/gamma": norm.weight,
            f"norm_{number}/beta": norm.bias,
            f"norm_{number}/moving_mean": norm.running_mean,
            f"norm_{number}/moving_variance": norm.running_var,
        }
    return tensors


def from_keras(path: str, value: np.ndarray) -> np.ndarray:
    """Keras's layout to PyTorch's: HWIO to OIHW; dense (in, out) to (out, in), inputs from HWC to CHW."""
    match path.split("/"):
        case [name, "kernel"] if name.startswith("conv"):
            return value.transpose(3, 2, 0, 1)
        case ["dense_1", "kernel"]:  # its inputs are the flattened 2 x 2 x 64 of the last pooling
            return value.reshape(2, 2, 64, 128).transpose(3, 2, 0, 1).reshape(128, 256)
        case ["dense_2", "kernel"]:
            return value.T
    return value


def to_keras(path: str, tensor: Tensor) -> np.ndarray:
    """The way back of `from_keras`."""
    value = tensor.detach().numpy()
    match path.split("/"):
        case [name, "kernel"] if name.startswith("conv"):
            return value.transpose(2, 3, 1, 0)
        case ["dense_1", "kernel"]:
            return value.reshape(128, 64, 2, 2).transpose(2, 3, 1, 0).reshape(256, 128)
        case ["dense_2", "kernel"]:
            return value.T
    return value


def network_with_keras_weights(keras: Arrays, norm: Order, momentum: float) -> nn.Sequential:
    network = notebook_network(norm=norm, bn_momentum=momentum, generator=generator())
    with torch.no_grad():
        for path, tensor in tensors_by_keras_path(network).items():
            tensor.copy_(torch.from_numpy(from_keras(path, keras[f"initial/{path}"]).copy()))
    return network


def batch(keras: Arrays) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(keras["pixels"]).permute(0, 3, 1, 2)  # channels-last in memory
    return pixels.float() / 256, torch.from_numpy(keras["labels"])


def logits_in_eval_mode(network: nn.Module, x: Tensor) -> np.ndarray:
    network.eval()
    with torch.no_grad():
        logits: Tensor = network(x)
    network.train()
    return logits.numpy()


def assert_agree(actual: np.ndarray, expected: np.ndarray, name: str) -> None:
    assert actual.shape == expected.shape, name
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("norm", ORDERS)
def test_outputs_agree_with_keras(keras: Arrays, norm: Order, momentum: float) -> None:
    network, (x, _), case = network_with_keras_weights(keras, norm, momentum), batch(keras), f"{norm}/{momentum}"
    logits = logits_in_eval_mode(network, x)
    assert_agree(logits, keras[f"{case}/inference_logits"], "inference logits")
    probabilities = torch.sigmoid(torch.from_numpy(logits)).numpy()
    assert_agree(probabilities, keras[f"{case}/inference_probabilities"], "inference probabilities")
    assert_agree(network(x).detach().numpy(), keras[f"{case}/training_logits"], "training logits")


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("norm", ORDERS)
def test_training_steps_agree_with_keras(keras: Arrays, norm: Order, momentum: float) -> None:
    """Loss, every weight and every moving statistic after one step; a sample of them after three."""
    network, (x, y), case = network_with_keras_weights(keras, norm, momentum), batch(keras), f"{norm}/{momentum}"
    optimizer = KerasAdam(network.parameters())
    for step in (1, 2, 3):
        loss = F.binary_cross_entropy_with_logits(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_agree(np.float32(loss.item()), keras[f"{case}/losses"][step - 1], f"loss of step {step}")
        if step == 2:
            continue
        for path, tensor in tensors_by_keras_path(network).items():
            value = to_keras(path, tensor)
            if "moving" in path:
                expected = keras[f"{case}/step_{step}/{path}"]
            else:
                expected = keras[f"{norm}/step_{step}/{path}"]
                value = value if step == 1 else value.reshape(-1)[::SAMPLE_STRIDE]
            assert_agree(value, expected, f"{path} after step {step}")
        logits = logits_in_eval_mode(network, x)
        assert_agree(logits, keras[f"{case}/step_{step}/inference_logits"], f"logits after step {step}")
