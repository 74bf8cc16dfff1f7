"""Averages of a network's weights over its training: they generalise better than the last weights do."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sentinode.config.fit import DescentConfig, EmaAverage, SwaAverage


class WeightAverage:
    """A second network that holds the average of the first one's weights and buffers.

    "ema": an exponential average over steps (Polyak and Juditsky 1992); early on it looks back over fewer steps, so
    that the first weights, which are random, are soon forgotten. "swa": the mean of the weights at the ends of epochs
    (Izmailov et al. 2018), from `start` of the run on, the last weights before that. Unlike there, the moving
    statistics of batch norm are averaged as the weights are, and not computed anew.
    """

    def __init__(self, network: nn.Module, config: DescentConfig) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._kind, self._epochs = config.average, config.epochs
        self.updates = 0

    def after_step(self, network: nn.Module) -> None:
        """Take the weights after a training step into an exponential average."""
        if isinstance(self._kind, EmaAverage):
            self.updates += 1
            self._mix(network, 1 - min(self._kind.decay, (1 + self.updates) / (10 + self.updates)))

    def after_epoch(self, network: nn.Module, epochs_done: int) -> None:
        """Take the weights at an epoch's end into a mean."""
        if not isinstance(self._kind, SwaAverage):
            return
        if epochs_done > self._kind.start * self._epochs:
            self.updates += 1
        self._mix(network, 1 / max(self.updates, 1))

    @torch.no_grad()
    def _mix(self, network: nn.Module, share: float) -> None:
        for mine, theirs in zip(self._tensors(self.network), self._tensors(network), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, share)
            else:
                mine.copy_(theirs)

    @staticmethod
    def _tensors(network: nn.Module) -> list[torch.Tensor]:
        return [*network.parameters(), *network.buffers()]
