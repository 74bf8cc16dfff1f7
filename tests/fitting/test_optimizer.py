"""`KerasAdam` against the paper's section 2 in NumPy, and its resumption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rounding import UNIT, Rounding
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


def descend(optimizer: KerasAdam | torch.optim.Optimizer, weights: Tensor, gradients: np.ndarray) -> None:
    for gradient in gradients:
        if weights.grad is None:
            weights.grad = torch.zeros_like(weights)
        weights.grad.copy_(torch.from_numpy(gradient))
        optimizer.step()


def test_agrees_with_the_paper() -> None:
    g = gradients((50,))
    weights = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    descend(KerasAdam([weights]), weights, g)
    np.testing.assert_allclose(weights.detach().numpy(), adam_of_section_2(np.zeros(50), g), rtol=1e-9)


@pytest.mark.numeric
def test_agrees_with_the_paper_for_other_settings_in_float32() -> None:
    settings = {"learning_rate": 3e-2, "betas": (0.8, 0.95), "epsilon": 1e-4}
    g, rounding = gradients((8, 50)).astype(np.float32), Rounding()
    for of_case in g.transpose(1, 0, 2):
        weights = nn.Parameter(torch.zeros(50))
        descend(KerasAdam([weights], **settings), weights, of_case)
        single = adam_of_section_2(np.zeros(50, np.float32), of_case, **settings)
        exact = adam_of_section_2(np.zeros(50), of_case.astype(float), **settings)
        rounding.add("weights", weights.detach(), torch.from_numpy(single), torch.from_numpy(exact))
    rounding.check()


def test_differs_from_pytorchs_adam_where_gradients_are_small() -> None:
    """Otherwise the tests above would not see a wrong epsilon."""
    g = gradients((50,))
    weights = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    descend(torch.optim.Adam([weights], eps=1e-7), weights, g)
    assert np.abs(weights.detach().numpy() - adam_of_section_2(np.zeros(50), g)).max() > 1e-4


def test_moments_and_steps_continue_bit_for_bit() -> None:
    g = gradients((50,))
    uninterrupted = nn.Parameter(torch.zeros(50))
    descend(KerasAdam([uninterrupted]), uninterrupted, g)

    first_half = nn.Parameter(torch.zeros(50))
    before = KerasAdam([first_half])
    descend(before, first_half, g[:7])
    resumed = nn.Parameter(first_half.detach().clone())
    after = KerasAdam([resumed])
    after.steps_done = before.steps_done
    for ours, theirs in zip(after.moments[0], before.moments[0], strict=True):
        ours.copy_(theirs)
    descend(after, resumed, g[7:])

    assert torch.equal(resumed, uninterrupted)


def test_parameters_keep_their_values_their_layout_and_their_gradients() -> None:
    layer = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    before, stride = layer.weight.detach().clone(), layer.weight.stride()
    optimizer = KerasAdam(layer.parameters())
    assert torch.equal(layer.weight, before)
    assert layer.weight.stride() == stride
    for _ in range(2):  # what autograd adds to is what the step reads
        optimizer.zero_grad()
        layer(torch.ones(1, 3, 4, 4)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((8,), 4.0))
    optimizer.step()
    # Off by epsilon beside the second moment's root, by eight operations, and by the last digit of the weights.
    near = 1e-7 / (4 * 0.001**0.5) + 8 * UNIT
    off = UNIT * before.abs().max().item()
    torch.testing.assert_close(before - layer.weight, torch.full_like(before, 1e-3), rtol=near, atol=off)


def test_decay_and_rates_are_those_of_pytorchs_adamw() -> None:
    """With gradients far above epsilon both forms of Adam agree, and so must the decay."""
    rng = np.random.default_rng(1)
    start = [torch.from_numpy(rng.normal(size=shape)) for shape in ((4, 3), (4,), (2, 4))]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    optimizer = KerasAdam(ours, learning_rate=0.01, epsilon=1e-12, weight_decay=0.1, rates=[0.5, 0.5, 1.0])
    reference = torch.optim.AdamW(
        [
            {"params": theirs[:1], "lr": 0.005, "weight_decay": 0.1},
            {"params": theirs[1:2], "lr": 0.005, "weight_decay": 0.0},
            {"params": theirs[2:], "lr": 0.01, "weight_decay": 0.1},
        ],
        eps=1e-12,
    )
    assert [tuple(first.shape) for first, _ in optimizer.moments] == [(4, 3), (4,), (2, 4)]
    for _ in range(10):
        for mine, other in zip(ours, theirs, strict=True):
            gradient = torch.from_numpy(rng.normal(size=mine.shape))
            mine.grad.copy_(gradient)
            other.grad = gradient.clone()
        optimizer.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


def test_a_factor_scales_the_step() -> None:
    whole, half = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    for weights, factor in ((whole, 1.0), (half, 0.5)):
        optimizer = KerasAdam([weights])
        weights.grad.fill_(1.0)
        optimizer.step(factor)
    assert torch.equal(half * 2, whole)
