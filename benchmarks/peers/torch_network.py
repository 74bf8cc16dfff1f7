"""The notebook's network in plain PyTorch, and a plain training step."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def notebook_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32, eps=1e-3), nn.ReLU(), nn.MaxPool2d(3),
        nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64, eps=1e-3), nn.ReLU(), nn.MaxPool2d(3),
        nn.Flatten(), nn.Linear(256, 128), nn.BatchNorm1d(128, eps=1e-3), nn.ReLU(), nn.Linear(128, 1),
    )  # fmt: skip


def train_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> None:
    optimizer.zero_grad()
    loss = F.binary_cross_entropy_with_logits(network(images).squeeze(1), labels.float())
    loss.backward()
    optimizer.step()
    if not torch.isfinite(loss):
        raise FloatingPointError("the loss is no longer a finite number")
