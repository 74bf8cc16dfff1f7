"""Adam with Keras's epsilon, over all parameters as one array."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class KerasAdam:
    """Adam (Kingma and Ba 2015) in the form of the paper's section 2, as Keras and TensorFlow have it.

    Keras adds epsilon to the root of the uncorrected second moment, PyTorch to that of the corrected one.

    The parameters move into one flat block of memory, of which they become views, each laid out as it was; so do
    their gradients. A step is then one pass over four arrays. Move a network between devices before this, not after.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-7,
    ) -> None:
        self._parameters = list(parameters)
        self.learning_rate, self.betas, self.epsilon = learning_rate, betas, epsilon
        self.steps_done = 0
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
    def step(self) -> None:
        """Move every parameter against its gradient."""
        self.steps_done += 1
        beta1, beta2 = self.betas
        step_size = self.learning_rate * (1 - beta2**self.steps_done) ** 0.5 / (1 - beta1**self.steps_done)
        values, gradient, first, second = self._values, self._gradient, self._first, self._second
        if values.device.type == "cpu" and values.dtype == torch.float32:
            from sentinode.loops import adam  # here, because predicting, which reads this module, needs no Numba
            from sentinode.loops.jit import share_threads

            share_threads()
            arrays = (values.numpy(), gradient.numpy(), first.numpy(), second.numpy())
            adam.step(*arrays, beta1, beta2, step_size, self.epsilon)
            return
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        values.addcdiv_(first, second.sqrt().add_(self.epsilon), value=-step_size)

    def _views(self, flat: Tensor) -> list[Tensor]:
        """A flat array cut up and shaped as the parameters are, in the order of their memory."""
        views, offset = [], 0
        for parameter in self._parameters:
            views.append(flat.as_strided(parameter.shape, parameter.stride(), offset))
            offset += parameter.numel()
        return views
