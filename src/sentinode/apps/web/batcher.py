"""Requests that come together are computed together, and each gets what it would have got alone.

What waits while a batch is computed is the next batch: no request waits for others to come. A `Classifier` gives a
patch the same bits whatever patches come with it (on a GPU the same to rounding), so joining changes no answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from sentinode.apps.web.metrics import Metrics
from sentinode.inference.classifier import Pixels
from sentinode.inference.network import Probabilities

Said = tuple[Probabilities, Probabilities]
"""Probabilities, and disagreements, of some patches."""
AT_ONCE: Final = 256
"""Patches in a batch, unless one request has more."""


class BusyError(Exception):
    """The queue is full: the client may come again in a second."""


@dataclass(frozen=True, eq=False)
class _Job:
    patches: Pixels
    said: asyncio.Future[Said]


class Batcher:
    """A queue of patches before a model, in one event loop; the model is asked in a thread of its own."""

    def __init__(self, model: Callable[[Pixels], Said], metrics: Metrics, *, most_waiting: int) -> None:
        """`most_waiting`: patches; what would make more wait is refused."""
        self._model, self._metrics, self._most_waiting = model, metrics, most_waiting
        self._jobs: deque[_Job] = deque()
        self._come, self._closing = asyncio.Event(), False
        self._thread = ThreadPoolExecutor(1, "model")

    @property
    def waiting(self) -> int:
        """Patches in the queue."""
        return sum(len(job.patches) for job in self._jobs)

    async def ask(self, patches: Pixels) -> Said:
        """What the model says of them; raises BusyError where too many wait. If cancelled, it is not computed."""
        if self._closing or (self._jobs and self.waiting + len(patches) > self._most_waiting):
            raise BusyError
        job = _Job(patches, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._come.set()
        return await job.said

    async def run(self) -> None:
        """Answer until `close`, and then what still waits."""
        loop = asyncio.get_running_loop()
        while self._jobs or not self._closing:
            batch = self._next()
            if not batch:
                self._come.clear()
                await self._come.wait()
                continue
            joined = np.concatenate([job.patches for job in batch])
            try:
                said = await loop.run_in_executor(self._thread, self._model, joined)
            except Exception as error:  # of the model: each of its requests hears of it, and the next batch goes on
                for job in batch:
                    if not job.said.done():
                        job.said.set_exception(error)
                continue
            self._metrics.batches += 1
            self._metrics.patches += len(joined)
            start = 0
            for job in batch:
                end = start + len(job.patches)
                if not job.said.done():
                    job.said.set_result((said[0][start:end], said[1][start:end]))
                start = end
        self._thread.shutdown()

    def close(self) -> None:
        """Take no more; `run` ends when what waits is answered."""
        self._closing = True
        self._come.set()

    def _next(self) -> list[_Job]:
        batch: list[_Job] = []
        while self._jobs:
            job = self._jobs[0]
            if job.said.done():  # timed out, or its client has gone
                self._jobs.popleft()
            elif batch and sum(len(other.patches) for other in batch) + len(job.patches) > AT_ONCE:
                break
            else:
                batch.append(self._jobs.popleft())
        return batch
