"""A backbone row by row: so its frozen beginning, whose maps are the largest, runs on few patches at a time.

Batch norm that trains needs a batch whole; frozen rows do not. A patch's early maps are megabytes, so those of a
batch overflow a processor's caches, and every layer waits for memory. A few patches' stay in the cache from row to row.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, Final

import torch
from torch import Tensor, nn

_PATCHES_AT_ONCE: Final = 4

Row = Callable[[Tensor], Tensor]


def rows_of(body: nn.Module) -> list[Row] | None:
    """The stem and the rows of blocks of one of timm's EfficientNets, in their order; None for other networks."""
    from timm.models.efficientnet import EfficientNet

    if not isinstance(body, EfficientNet):
        return None
    known: Any = body
    return [lambda x: known.bn1(known.conv_stem(x)), *known.blocks]


def frozen_then_trained(
    rows: list[Row], frozen: int, x: Tensor, *, told: Container[int], tell: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Run all rows, the first `frozen` of them on small parts of the batch in turn.

    Returns what `tell` makes of the maps behind each row whose number is in `told`, (n, ...) each, and the last maps.
    """
    parts = [_run(rows[:frozen], 0, part, told, tell) for part in torch.split(x, _PATCHES_AT_ONCE)]
    tellings = [torch.cat(of_row) for of_row in zip(*(of_part for of_part, _ in parts), strict=True)]
    later, maps = _run(rows[frozen:], frozen, torch.cat([maps for _, maps in parts]), told, tell)
    return [*tellings, *later], maps


def _run(
    rows: list[Row], first: int, maps: Tensor, told: Container[int], tell: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], Tensor]:
    tellings = []
    for number, row in enumerate(rows, start=first):
        maps = row(maps)
        if number in told:
            tellings.append(tell(maps))
    return tellings, maps
