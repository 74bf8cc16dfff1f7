"""`KerasAdam` against the paper's section 2 in NumPy, and its resumption."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from sentinode.fitting.optimizer import KerasAdam

STEPS = 20


def gradients(shape: tuple[int, ...]) -> np.ndarray:
    """Gradients from 1e-9 to 1, on both sides of epsilon, which is what tells the two Adams apart."""
    rng = np.random.default_rng(25)
    scales = 10.0 ** rng.uniform(-9, 0, shape)
    return scales * rng.normal(size=(STEPS, *shape))


def adam_of_section_2(
    start: np.ndarray,
    gradients: np.ndarray,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-7,
) -> np.ndarray:
    """Kingma and Ba (2015), end of section 2: bias correction in the step size, epsilon on the plain root."""
    weights, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t, gradient in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        step_size = learning_rate * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        weights -= step_size * m / (np.sqrt(v) + epsilon)
    return weights


def descend(optimizer: torch.optim.Optimizer, weights: Tensor, gradients: np.ndarray) -> None:
    for gradient in gradients:
        weights.grad = torch.from_numpy(gradient).to(weights)
        optimizer.step()


def test_agrees_with_the_paper() -> None:
    g = gradients((50,))
    weights = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    descend(KerasAdam([weights]), weights, g)
    np.testing.assert_allclose(weights.detach().numpy(), adam_of_section_2(np.zeros(50), g), rtol=1e-9)


def test_agrees_with_the_paper_for_other_settings_in_float32() -> None:
    g = gradients((50,))
    weights = nn.Parameter(torch.zeros(50))
    descend(KerasAdam([weights], learning_rate=3e-2, betas=(0.8, 0.95), epsilon=1e-4), weights, g)
    expected = adam_of_section_2(np.zeros(50), g, learning_rate=3e-2, betas=(0.8, 0.95), epsilon=1e-4)
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-5, atol=1e-8)


def test_differs_from_pytorchs_adam_where_gradients_are_small() -> None:
    """Otherwise the tests above would not see a wrong epsilon."""
    g = gradients((50,))
    weights = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    descend(torch.optim.Adam([weights], eps=1e-7), weights, g)
    assert np.abs(weights.detach().numpy() - adam_of_section_2(np.zeros(50), g)).max() > 1e-4


def test_a_loaded_state_continues_bit_for_bit_with_the_fused_kernel() -> None:
    g = gradients((50,))
    uninterrupted = nn.Parameter(torch.zeros(50))
    descend(KerasAdam([uninterrupted]), uninterrupted, g)

    first_half = nn.Parameter(torch.zeros(50))
    before = KerasAdam([first_half])
    descend(before, first_half, g[:7])
    resumed = nn.Parameter(first_half.detach().clone())
    after = KerasAdam([resumed])
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    descend(after, resumed, g[7:])

    assert torch.equal(resumed, uninterrupted)
    assert all(group["fused"] for group in (*before.param_groups, *after.param_groups))


def test_a_loaded_state_brings_its_epsilon() -> None:
    saved = KerasAdam([nn.Parameter(torch.zeros(50))], epsilon=1e-2).state_dict()
    g = gradients((50,))
    weights = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    optimizer = KerasAdam([weights])
    optimizer.load_state_dict(saved)
    descend(optimizer, weights, g)
    expected = adam_of_section_2(np.zeros(50), g, epsilon=1e-2)
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-9)


def test_a_copy_of_the_optimizer_still_steps() -> None:
    weights = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    optimizer, copied_weights = copy.deepcopy((KerasAdam([weights]), weights))
    g = gradients((50,))
    descend(optimizer, copied_weights, g)
    np.testing.assert_allclose(copied_weights.detach().numpy(), adam_of_section_2(np.zeros(50), g), rtol=1e-9)


def test_moments_from_a_file_are_laid_out_as_their_parameters_are() -> None:
    """PyTorch's fused kernel pairs memory, not indices: row-by-row moments would go to other weights."""
    weights = []
    for stored_row_by_row in (False, True):
        layer = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(0)
        torch.nn.init.normal_(layer.weight, generator=generator)
        torch.nn.init.zeros_(layer.bias)
        optimizer = KerasAdam(layer.parameters())
        for step in range(4):
            if step == 2 and stored_row_by_row:
                state = optimizer.state_dict()
                for moments in state["state"].values():
                    moments.update({key: value.clone().contiguous() for key, value in moments.items()})
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            inputs = torch.rand(2, 3, 8, 8, generator=generator).to(memory_format=torch.channels_last)
            layer(inputs).square().sum().backward()
            optimizer.step()
        weights.append(layer.weight.detach().clone())
    assert torch.equal(*weights)
