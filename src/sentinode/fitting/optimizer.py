"""Adam with Keras's epsilon, over all parameters as one array."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from sentinode.config.fit import CosineSchedule, DescentConfig
from sentinode.kernels import at_hand


@dataclass(frozen=True)
class _Stretch:
    """Neighbouring values of the flat arrays that share a factor of the learning rate, and decay or do not."""

    values: slice
    rate: float
    decays: bool


class KerasAdam:
    """Adam (Kingma and Ba 2015) in the form of the paper's section 2, as Keras and TensorFlow have it.

    Keras adds epsilon to the root of the uncorrected second moment, PyTorch to that of the corrected one.

    The parameters move into one flat block of memory, of which they become views, each laid out as it was; so do
    their gradients. A step is then one pass over four arrays. Move a network between devices before this, not after.

    rates: a factor of the learning rate for each parameter. weight_decay: decoupled from the gradient (Loshchilov and
    Hutter 2019, AdamW), for weights of two dimensions or more: biases and batch norm do not decay.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        rates: Sequence[float] | None = None,
    ) -> None:
        self._parameters = list(parameters)
        self.learning_rate, self.betas, self.epsilon, self.weight_decay = learning_rate, betas, epsilon, weight_decay
        self.steps_done = 0
        self._offsets, self._stretches = self._plan(rates or [1.0] * len(self._parameters))
        total = sum(parameter.numel() for parameter in self._parameters)
        self._values, self._gradient, self._first, self._second = (
            torch.zeros(total, dtype=self._parameters[0].dtype, device=self._parameters[0].device) for _ in range(4)
        )
        for parameter, home, gradient in zip(
            self._parameters, self._views(self._values), self._views(self._gradient), strict=True
        ):
            home.copy_(parameter.detach())
            parameter.data = home
            parameter.grad = gradient

    @property
    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """The first and the second moment of each parameter, in its shape: views, to be read or written to."""
        return list(zip(self._views(self._first), self._views(self._second), strict=True))

    def zero_grad(self) -> None:
        """Set all gradients to zero; they are added to from then on."""
        self._gradient.zero_()

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Move every parameter against its gradient, at `factor` times the learning rate."""
        self.steps_done += 1
        beta1, beta2 = self.betas
        correction = (1 - beta2**self.steps_done) ** 0.5 / (1 - beta1**self.steps_done)
        for stretch in self._stretches:
            rate = self.learning_rate * factor * stretch.rate
            if stretch.decays:
                self._values[stretch.values] *= 1 - rate * self.weight_decay
            self._move(stretch.values, rate * correction)

    def _move(self, at: slice, step_size: float) -> None:
        beta1, beta2 = self.betas
        values, gradient, first, second = (
            array[at] for array in (self._values, self._gradient, self._first, self._second)
        )
        if values.device.type == "cpu" and values.dtype == torch.float32 and at_hand():
            from sentinode.kernels import adam  # here, because predicting, which reads this module, needs no Numba
            from sentinode.kernels.jit import share_threads

            share_threads()
            arrays = (values.numpy(), gradient.numpy(), first.numpy(), second.numpy())
            adam.step(*arrays, beta1, beta2, step_size, self.epsilon)
            return
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        values.addcdiv_(first, second.sqrt().add_(self.epsilon), value=-step_size)

    def _plan(self, rates: Sequence[float]) -> tuple[list[int], list[_Stretch]]:
        """Where each parameter begins in the flat arrays, and the stretches of those that are treated alike."""
        kinds = [
            (rate, self.weight_decay > 0 and parameter.ndim > 1)
            for parameter, rate in zip(self._parameters, rates, strict=True)
        ]
        offsets, stretches, start = [0] * len(kinds), [], 0
        for kind, members in groupby(sorted(range(len(kinds)), key=lambda at: kinds[at]), key=lambda at: kinds[at]):
            stop = start
            for at in members:
                offsets[at], stop = stop, stop + self._parameters[at].numel()
            stretches.append(_Stretch(slice(start, stop), *kind))
            start = stop
        return offsets, stretches

    def _views(self, flat: Tensor) -> list[Tensor]:
        """A flat array cut up and shaped as the parameters are, in their order."""
        return [
            flat.as_strided(parameter.shape, parameter.stride(), offset)
            for parameter, offset in zip(self._parameters, self._offsets, strict=True)
        ]


def rate_factor(config: DescentConfig, step: int, steps_per_epoch: int) -> float:
    """The factor in [0, 1] for a step, counted from 0 since the start of the run.

    "cosine" (Loshchilov and Hutter 2017, one period) rises linearly over the warm-up's steps and falls to 0 behind
    the last one. It depends on the step alone, so that a resumed run goes on as if never interrupted.
    """
    if not isinstance(config.schedule, CosineSchedule):
        return 1.0
    total = config.epochs * steps_per_epoch
    warm_up = min(round(config.schedule.warmup_epochs * steps_per_epoch), total - 1)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up)))
