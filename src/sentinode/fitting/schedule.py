"""The learning rate over a run, as a factor of the highest: constant, or a warm-up and half a cosine."""

from __future__ import annotations

import math

from sentinode.config import CosineSchedule, DescentConfig


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
