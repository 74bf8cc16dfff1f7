"""Requests are joined without changing an answer; what is too much is refused, and what was begun is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from conftest import make_patches
from sentinode import Classifier
from sentinode.apps.web.batcher import AT_ONCE, Batcher, BusyError, Said
from sentinode.apps.web.metrics import Metrics
from sentinode.inference.classifier import Pixels

PATCHES = make_patches(40, seed=6).pixels


class Slow:
    """A model that answers when it is allowed to, with each patch's first pixel, and keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.go, self.asked, self.sizes = threading.Event(), threading.Event(), list[int]()

    def __call__(self, patches: Pixels) -> Said:
        self.sizes.append(len(patches))
        self.asked.set()
        assert self.go.wait(10)
        return patches[:, 0, 0, 0].astype(np.float64), np.zeros(len(patches))


def while_running(model: Callable[[Pixels], Said], client: Callable[[Batcher], object], most: int = 1000) -> Metrics:
    async def both() -> Metrics:
        metrics = Metrics()
        batcher = Batcher(model, metrics, most_waiting=most)
        running = asyncio.create_task(batcher.run())
        await client(batcher)
        batcher.close()
        await asyncio.wait_for(running, 20)
        return metrics

    return asyncio.run(both())


def test_joined_requests_get_the_bits_that_they_would_get_alone(classifier: Classifier) -> None:
    cuts = [0, 1, 2, 7, 8, 20, 21, 40]
    said: list[Said] = []

    async def client(batcher: Batcher) -> None:
        said.extend(await asyncio.gather(*(batcher.ask(PATCHES[a:b]) for a, b in pairwise(cuts))))

    metrics = while_running(classifier.with_disagreement, client)
    assert metrics.batches < len(cuts) - 1
    assert metrics.patches == len(PATCHES)
    for (probabilities, _), (a, b) in zip(said, pairwise(cuts), strict=True):
        np.testing.assert_array_equal(probabilities, classifier(PATCHES[a:b]))
        np.testing.assert_array_equal(probabilities, [classifier(PATCHES[i : i + 1])[0] for i in range(a, b)])


def test_a_full_queue_refuses_and_what_waits_is_answered_at_the_end() -> None:
    model = Slow()

    async def client(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.ask(PATCHES[:1]))
        await asyncio.to_thread(model.asked.wait, 10)
        waiting = [asyncio.create_task(batcher.ask(PATCHES[k : k + 5])) for k in (5, 10)]
        await asyncio.sleep(0)
        assert batcher.waiting == 10
        with pytest.raises(BusyError):
            await batcher.ask(PATCHES[:1])
        batcher.close()
        model.go.set()
        answers = await asyncio.gather(first, *waiting)
        for (said, _), start in zip(answers, (0, 5, 10), strict=True):
            np.testing.assert_array_equal(said, PATCHES[start : start + len(said), 0, 0, 0])
        with pytest.raises(BusyError):
            await batcher.ask(PATCHES[:1])

    while_running(model, client, most=10)
    assert model.sizes == [1, 10]


def test_a_request_that_has_gone_is_not_computed() -> None:
    model = Slow()

    async def client(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.ask(PATCHES[:1]))
        await asyncio.to_thread(model.asked.wait, 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.ask(PATCHES[:7])
        last = asyncio.create_task(batcher.ask(PATCHES[:2]))
        await asyncio.sleep(0)
        model.go.set()
        await asyncio.gather(first, last)

    while_running(model, client)
    assert model.sizes == [1, 2]


def test_batches_are_bounded_but_a_large_request_stays_whole() -> None:
    model = Slow()
    large = np.repeat(PATCHES[:1], AT_ONCE + 1, axis=0)

    async def client(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.ask(PATCHES[:1]))
        await asyncio.to_thread(model.asked.wait, 10)
        rest = [asyncio.create_task(batcher.ask(of)) for of in (PATCHES[:3], large, PATCHES[:2])]
        await asyncio.sleep(0)
        model.go.set()
        await asyncio.gather(first, *rest)

    while_running(model, client)
    assert model.sizes == [1, 3, AT_ONCE + 1, 2]


def test_a_batch_that_fails_fails_alone() -> None:
    def model(patches: Pixels) -> Said:
        if len(patches) == 1:
            raise ArithmeticError("no")
        return np.zeros(len(patches)), np.zeros(len(patches))

    async def client(batcher: Batcher) -> None:
        with pytest.raises(ArithmeticError):
            await batcher.ask(PATCHES[:1])
        assert len((await batcher.ask(PATCHES[:2]))[0]) == 2

    while_running(model, client)
