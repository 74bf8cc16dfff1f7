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
        (group,) = self.param_groups
        done = next((int(self.state[p]["step"]) for p in group["params"] if p in self.state), 0)
        group["eps"] = group["keras_epsilon"] / (1.0 - group["betas"][1] ** (done + 1)) ** 0.5
        on_cpu = group["params"][0].device.type == "cpu"
        # The first step lays out the moments, so it is PyTorch's.
        return self._step_on_cpu(group) if done and on_cpu and closure is None else super().step(closure)

    @torch.no_grad()
    def _step_on_cpu(self, group: dict[str, Any]) -> None:
        """The kernel that PyTorch's own step ends in, without its way there, which costs more than the kernel."""
        moved = [(p, p.grad, self.state[p]) for p in group["params"] if p.grad is not None]
        state = [entry for _, _, entry in moved]
        torch._foreach_add_([entry["step"] for entry in state], 1.0)
        torch._fused_adam_(
            [parameter for parameter, _, _ in moved],
            [gradient for _, gradient, _ in moved],
            [entry["exp_avg"] for entry in state],
            [entry["exp_avg_sq"] for entry in state],
            [],
            [entry["step"] for entry in state],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments, laid out in memory as their parameters are.

        PyTorch's fused kernel walks parameter and moments in memory order: moments from a file, which
        are row by row, would be paired with the wrong weights of a channels-last convolution.
        """
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.empty_like(parameter).copy_(state[name])
