"""Patches read chunk by chunk, by several threads, in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
from jaxtyping import UInt8

from sentinode.progress import StepProgress

_CHUNK_PATCHES: Final = 32
# The anchors of so many chunks take more than the 32 MB from which glibc always gives memory back.
_BLOCK_CHUNKS: Final = 512

Pixels = UInt8[np.ndarray, "n 96 96 3"]
_Result = TypeVar("_Result")


def map_chunks(
    function: Callable[[int, Pixels], _Result],
    pixels: Pixels,
    *,
    workers: int,
    on_progress: StepProgress | None = None,
) -> Iterator[_Result]:
    """Yield `function(first row, chunk)` for consecutive chunks, in order, read by several threads.

    Chunks are small enough for a processor's cache, and copied from a memory map only once.
    """

    def call(start: int) -> _Result:
        return function(start, np.ascontiguousarray(pixels[start : start + _CHUNK_PATCHES]))

    starts = range(0, len(pixels), _CHUNK_PATCHES)
    for start, result in zip(starts, in_threads(call, starts, workers), strict=True):
        if on_progress is not None:
            on_progress(min(start + _CHUNK_PATCHES, len(pixels)), len(pixels))
        yield result


def in_blocks(results: Iterator[_Result]) -> Iterator[list[_Result]]:
    """Gather the results of many chunks, to be joined: small arrays stay in the heap when they are dropped."""
    while block := list(itertools.islice(results, _BLOCK_CHUNKS)):
        yield block


def in_threads(function: Callable[[int], _Result], starts: Iterable[int], workers: int) -> Iterator[_Result]:
    """Yield `function(start)` in order; whoever leaves early does not wait for what has not begun."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(function, starts)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
