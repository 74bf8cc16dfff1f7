"""Adam with Keras's epsilon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class KerasAdam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015) in the form of the paper's section 2, as Keras and TensorFlow have it.

    Keras adds epsilon to the root of the uncorrected second moment, PyTorch to that of the corrected
    one. The two are the same when PyTorch's epsilon is epsilon / sqrt(1 - beta2^t), set anew for
    every step t; PyTorch's fused kernel then does the work.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(parameters, lr=learning_rate, betas=betas, eps=epsilon, fused=True)
        # In the groups, as "eps" itself is, so that it travels with state dicts and copies.
        for settings in (self.defaults, *self.param_groups):
            settings["keras_epsilon"] = epsilon

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            done = next((int(self.state[p]["step"]) for p in group["params"] if p in self.state), 0)
            group["eps"] = group["keras_epsilon"] / (1.0 - group["betas"][1] ** (done + 1)) ** 0.5
        return super().step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments, laid out in memory as their parameters are.

        PyTorch's fused kernel walks parameter and moments in memory order: moments from a file, which
        are row by row, would be paired with the wrong weights of a channels-last convolution.
        """
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.empty_like(parameter).copy_(state[name])
