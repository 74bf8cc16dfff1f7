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

from models.behaviour import require_weights_of_the_generator
from rounding import Rounding
from sentinode.fitting.optimizer import KerasAdam
from sentinode.models.batch_norm import KerasBatchNorm
from sentinode.models.notebook import notebook_network

pytestmark = pytest.mark.numeric

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


def network_with_keras_weights(
    keras: Arrays, norm: Order, momentum: float, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    network = notebook_network(norm=norm, bn_momentum=momentum, generator=generator()).to(dtype)
    with torch.no_grad():
        for path, tensor in tensors_by_keras_path(network).items():
            tensor.copy_(torch.from_numpy(from_keras(path, keras[f"initial/{path}"]).copy()))
    return network


def fixed_batch(keras: Arrays, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(keras["pixels"]).permute(0, 3, 1, 2)  # channels-last in memory
    return pixels.to(dtype) / 256, torch.from_numpy(keras["labels"]).to(dtype)


def logits_in_evaluation(network: nn.Module, x: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():
        logits: Tensor = network(x)
    network.train()
    return logits


def assert_close(actual: np.ndarray | Tensor, expected: np.ndarray, name: str, tolerance: float) -> None:
    actual = np.asarray(actual)
    assert actual.shape == expected.shape, name
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=name)


def train(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> list[float]:
    """Training steps with Keras's Adam; the loss of each, before its update."""
    network.train()
    optimizer, losses = KerasAdam(network.parameters()), []
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("norm", ORDERS)
def test_outputs_agree_with_keras(keras: Arrays, norm: Order, momentum: float) -> None:
    """In float64 to 1e-9, which leaves no room for another epsilon or layout; in float32 as nearly as Keras itself."""
    rounding = Rounding()
    told: dict[torch.dtype, dict[str, Tensor]] = {}
    for dtype in (torch.float64, torch.float32):
        network = network_with_keras_weights(keras, norm, momentum, dtype).to(memory_format=torch.contiguous_format)
        x = fixed_batch(keras, dtype)[0].contiguous()  # see below
        logits = logits_in_evaluation(network, x)
        told[dtype] = {
            "inference_logits": logits,
            "inference_probabilities": torch.sigmoid(logits),
            "training_logits": network(x).detach(),
        }
    for name, value in told[torch.float64].items():
        exact, theirs = (torch.from_numpy(keras[f"{norm}/{momentum}/{kind}/{name}"]) for kind in ("float64", "float32"))
        assert_close(value, exact.numpy(), name, 1e-9)
        rounding.add(name, told[torch.float32][name], theirs, exact)
    rounding.check()


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("norm", ORDERS)
def test_one_training_step_agrees_with_keras(keras: Arrays, norm: Order, momentum: float) -> None:
    """Loss, every weight, every moving statistic and the outputs after it, in float32 as nearly as Keras itself.

    What is exact is told by the same step in float64, which the test below holds to Keras's own. In PyTorch's standard
    layout: its channels-last batch norm adds up the 28,800 values of a channel one by one in float32, which puts the
    variance wrong by up to 1e-4 of itself. The test below has the layout that the project trains in.
    """
    case, shared = f"{norm}/{momentum}/float32", f"{norm}/float32"
    told: dict[torch.dtype, dict[str, Tensor]] = {}
    for dtype in (torch.float64, torch.float32):
        network = network_with_keras_weights(keras, norm, momentum, dtype).to(memory_format=torch.contiguous_format)
        x, y = (tensor.contiguous() for tensor in fixed_batch(keras, dtype))
        losses = torch.tensor(train(network, x, y, steps=1), dtype=dtype)
        told[dtype] = {"losses": losses} | {
            path: torch.from_numpy(to_keras(path, tensor)) for path, tensor in tensors_by_keras_path(network).items()
        }
        told[dtype]["inference_logits_afterwards"] = logits_in_evaluation(network, x)
    rounding = Rounding()
    for name, ours in told[torch.float32].items():
        path = f"afterwards/{name}" if "/" in name else name
        theirs = torch.from_numpy(keras[f"{case if 'moving' in name or '/' not in name else shared}/{path}"])
        # Kernels with kernels, and so on: Adam's first step divides a gradient by its size, so the error of a tensor is
        # that of its smallest gradient, which is a matter of chance in each.
        rounding.add(Path(name).name, ours, theirs.reshape(ours.shape), told[torch.float64][name])
    rounding.check()


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("norm", ORDERS)
def test_three_training_steps_in_channels_last_agree_with_keras(keras: Arrays, norm: Order, momentum: float) -> None:
    """In float64, where rounding plays no part (but for Keras's beta2, which it rounds to float32)."""
    network = network_with_keras_weights(keras, norm, momentum, torch.float64)
    x, y = fixed_batch(keras, torch.float64)
    assert x.is_contiguous(memory_format=torch.channels_last)
    case, shared = f"{norm}/{momentum}/float64", f"{norm}/float64"
    losses = train(network, x, y, steps=3)
    assert_close(np.array(losses), keras[f"{case}/losses"], "losses", TOLERANCE)
    for path, tensor in tensors_by_keras_path(network).items():
        value = to_keras(path, tensor)
        if "moving" in path:
            assert_close(value, keras[f"{case}/afterwards/{path}"], path, TOLERANCE)
        else:
            sample = value.reshape(-1)[::SAMPLE_STRIDE]
            assert_close(sample, keras[f"{shared}/afterwards/{path}"], path, 1e-6)
    logits = logits_in_evaluation(network, x)
    assert_close(logits, keras[f"{case}/inference_logits_afterwards"], "logits afterwards", TOLERANCE)


@pytest.mark.parametrize("norm", ORDERS)
def test_a_wrong_epsilon_would_be_seen(keras: Arrays, norm: Order) -> None:
    """PyTorch's default epsilon moves the outputs by more than the tolerance."""
    network, (x, _) = network_with_keras_weights(keras, norm, 0.99), fixed_batch(keras)
    for layer in network:
        if isinstance(layer, KerasBatchNorm):
            layer.epsilon = 1e-5
    case = f"{norm}/0.99/float32"
    logits, training_logits = logits_in_evaluation(network, x), network(x).detach()
    assert np.abs(logits.numpy() - keras[f"{case}/inference_logits"]).max() > 3 * TOLERANCE
    assert np.abs(training_logits.numpy() - keras[f"{case}/training_logits"]).max() > 3 * TOLERANCE


@pytest.mark.parametrize("norm", ORDERS)
def test_parameter_counts(keras: Arrays, norm: Order) -> None:
    network = notebook_network(norm=norm, bn_momentum=0.99, generator=generator())
    trainable = sum(p.numel() for p in network.parameters())
    moving = sum(b.numel() for b in network.buffers())
    assert (trainable + moving, trainable, moving) == (53_313, 52_865, 448)
    assert keras[f"{norm}/totals"].tolist() == [53_313, 52_865, 448]

    def own_count(layer: nn.Module) -> int:
        return sum(t.numel() for t in (*layer.parameters(), *layer.buffers()))

    # Keras's last layer is the sigmoid, which our loss contains.
    assert [own_count(layer) for layer in network] == keras[f"{norm}/parameter_counts"].tolist()[:-1]


def test_the_two_orders_differ_in_the_place_of_batch_norm() -> None:
    def kinds(norm: Order) -> list[str]:
        network = notebook_network(norm=norm, bn_momentum=0.99, generator=generator())
        return [type(layer).__name__ for layer in network]

    assert kinds("before")[:4] == ["Conv2d", "KerasBatchNorm", "ReLU", "MaxPool2d"]
    assert kinds("after")[:4] == ["Conv2d", "ReLU", "KerasBatchNorm", "MaxPool2d"]
    assert sorted(kinds("before")) == sorted(kinds("after"))


def test_initial_weights_are_glorot_uniform_and_biases_zero() -> None:
    network = notebook_network(norm="before", bn_momentum=0.99, generator=generator())
    fans = {(3, 32): 9, (32, 64): 9, (256, 128): 1, (128, 1): 1}  # (inputs, outputs): places of the kernel
    layers = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer, ((inputs, outputs), places) in zip(layers, fans.items(), strict=True):
        weights = layer.weight.detach()
        bound = (6 / (places * (inputs + outputs))) ** 0.5
        assert weights.numel() == places * inputs * outputs
        assert 0.95 * bound < weights.abs().max() <= bound
        # Of a uniform distribution, the variance is bound^2 / 3 and the mean 0; five standard errors.
        standard_error = weights.numel() ** -0.5
        assert weights.var().item() == pytest.approx(bound**2 / 3, rel=5 * 0.9 * standard_error)
        assert abs(weights.mean().item()) < 5 * bound / 3**0.5 * standard_error
        assert layer.bias is not None
        assert not layer.bias.any()
    for norm in (layer for layer in network if isinstance(layer, KerasBatchNorm)):
        assert (norm.epsilon, norm.momentum) == (1e-3, 0.99)
        assert (norm.weight == 1).all()
        assert not norm.bias.any()
        assert not norm.running_mean.any()
        assert (norm.running_var == 1).all()


def test_the_generator_alone_decides_the_weights() -> None:
    require_weights_of_the_generator(
        lambda generator: notebook_network(norm="after", bn_momentum=0.25, generator=generator)
    )


@pytest.mark.parametrize("norm", ORDERS)
def test_one_logit_a_patch_and_channels_last_weights(norm: Order) -> None:
    network = notebook_network(norm=norm, bn_momentum=0.99, generator=generator())
    x = torch.rand(5, 3, 32, 32, generator=generator())
    assert network(x).shape == (5, 1)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert network[0](x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm", ORDERS)
def test_overfits_32_patches_with_random_labels(keras: Arrays, norm: Order) -> None:
    x, y = fixed_batch(keras)
    network = notebook_network(norm=norm, bn_momentum=0.25, generator=generator())
    losses = train(network, x, y, steps=20)
    assert losses[0] > 0.5
    assert losses[-1] < 0.05
    assert ((logits_in_evaluation(network, x) > 0) == y.bool()).all()


def test_a_batch_of_one_patch_is_normalised_to_its_bias_as_in_keras() -> None:
    """Keras: mean is the value, variance 0, so the output is beta, and the moving averages follow."""
    norm = KerasBatchNorm(3, momentum=0.9).train()
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.tensor([[5.0, -4.0, 0.5]], requires_grad=True)
    y = norm(x)
    assert y.tolist() == [[1.0, 2.0, 3.0]]
    torch.autograd.backward(y.sum())
    assert x.grad is not None
    assert x.grad.abs().max() == 0
    torch.testing.assert_close(norm.running_mean, 0.1 * x.detach()[0])
    torch.testing.assert_close(norm.running_var, torch.full((3,), 0.9))


@pytest.mark.parametrize("order", ORDERS)
def test_a_training_pass_may_end_in_a_batch_of_one(order: Order) -> None:
    network = notebook_network(norm=order, bn_momentum=0.9, generator=generator()).train()
    logits = network(torch.rand(1, 3, 32, 32))
    torch.autograd.backward(logits.sum())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
