"""Batch normalisation with Keras's bookkeeping: its epsilon, its momentum, its biased moving variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KerasBatchNorm(nn.Module):
    """Normalise over all but the channel axis (Ioffe and Szegedy 2015), as Keras 3 does.

    `momentum` is Keras's: the share of the old moving average that is kept (PyTorch's is one minus
    it). Keras averages the biased batch variance, PyTorch the unbiased one; for a dense layer and
    32 patches the two differ by 3 %, so this layer takes the correction out again.
    Input: (N, C) or (N, C, H, W); output: the same shape.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, momentum: float, epsilon: float = 1e-3) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"batch-norm momentum must lie in [0, 1], not {momentum}")
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.epsilon
            )
        if x.numel() == x.shape[1]:
            return self._of_one_value(x)
        # Autograd keeps the averages that batch_norm was given, so it gets copies of ours.
        mean, var = self.running_mean.clone(), self.running_var.clone()
        y = F.batch_norm(x, mean, var, self.weight, self.bias, True, 1 - self.momentum, self.epsilon)
        values_per_channel = x.numel() // x.shape[1]
        with torch.no_grad():
            # var is now momentum * running_var + (1 - momentum) * variance * n / (n - 1).
            correction = (var - self.momentum * self.running_var) / values_per_channel
            self.running_mean.copy_(mean)
            self.running_var.copy_(var - correction)
        return y

    def _of_one_value(self, x: Tensor) -> Tensor:
        """A pass may end in a batch of one patch: PyTorch refuses it, Keras takes its variance as zero."""
        mean = x.mean(dim=0)
        self.follow(mean.detach().flatten(), torch.zeros_like(self.running_var))
        scale, shift = (of_channel.reshape(mean.shape) for of_channel in (self.weight, self.bias))
        y: Tensor = (x - mean) * self.epsilon**-0.5 * scale + shift
        return y

    @torch.no_grad()
    def follow(self, mean: Tensor, variance: Tensor) -> None:
        """Let the moving averages follow a batch's mean and biased variance, (C,), computed elsewhere."""
        self.running_mean.lerp_(mean, 1 - self.momentum)
        self.running_var.lerp_(variance, 1 - self.momentum)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, momentum={self.momentum}, epsilon={self.epsilon}"
