"""Heat maps that clients ask for, judged one after the other by `slides`' own code, in the folder of its results.

Which were asked for stands in `asked.json` there until each is judged or has failed, and what is judged of a slide in
the slide's own journal: a service that was killed goes on where it was, and ends in the same bytes. No other process
writes into a folder meanwhile, for the service holds it as `sentinode slides` does.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sentinode.apps.web.answers import Job
from sentinode.apps.web.judge import Judge, StoppedError, Task
from sentinode.apps.web.uploads import RefusedError
from sentinode.artefacts import claim
from sentinode.errors import SentinodeError
from sentinode.records import read_record, write_record
from sentinode.slides.cohort import COHORT_BEGUN, SlideRow, begin_cohort
from sentinode.slides.judging import SlideSettings
from sentinode.slides.outputs import require_tifffile

ASKED: Final = "asked.json"
_ENDED: Final = "the process that judges has ended, perhaps for want of memory; the service's terminal may say more"


@dataclass(frozen=True)
class AskedFor:
    """asked.json: the names of the slides that are still to be judged, in their order."""

    slides: tuple[str, ...]


class Jobs:
    """The heat maps that were asked for; in one event loop, between `start` and `close`, they are judged."""

    def __init__(self, judge: Judge, model_digest: str, settings: SlideSettings) -> None:
        self._judge, self._digest, self._settings = judge, model_digest, settings
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, Task] = {}
        self._held: dict[Path, ExitStack] = {}
        # A lock belongs to the thread that took it.
        self._files, self._judging = ThreadPoolExecutor(1, "results"), ThreadPoolExecutor(1, "judge")
        self._changed, self._closing, self._busy = asyncio.Event(), False, False

    @property
    def all(self) -> list[Job]:
        """In the order in which they were asked for."""
        return list(self._jobs.values())

    def job(self, number: str) -> Job:
        """By its id; raises RefusedError for one that is not known."""
        if number not in self._jobs:
            raise RefusedError(404, "no heat map that was asked for has this id. See /v1/jobs.")
        return self._jobs[number]

    async def resume(self, out: Path, known: Callable[[str], Task]) -> None:
        """Go on with what was asked for in a folder before; `known` finds a slide by its name, or raises RefusedError.

        Raises RefusedError where the folder is not to be had: then nothing in it is changed.
        """
        if not (out / ASKED).is_file():
            return
        names = read_record(out / ASKED, AskedFor).slides
        await self._in_files(self._hold, out)
        for name in names:
            try:
                self._add(known(name))
            except RefusedError:  # a slide that is no longer there
                continue
        await self._save(out)

    async def ask(self, task: Task) -> Job:
        """Have a slide judged, behind those that wait; where that is being done already, its job.

        Raises RefusedError where nothing can be written, or another model or other settings began the folder.
        """
        before = self._jobs.get(self._id(task))
        if before is not None and not before.is_over:
            return before
        _, out = task
        await self._in_files(self._hold, out)
        job = self._add(task)
        await self._save(out)  # what is promised stands on the disk
        return job

    def finished(self, task: Task) -> Job:
        """The job of a slide whose heat map is there already."""
        number = self._id(task)
        self._jobs[number] = Job(id=number, slide=task[0].name, state="done")
        return self._jobs[number]

    async def forget(self, task: Task) -> None:
        """Stop judging a slide, and let go of its folder of results, in which no other is judged."""
        number = self._id(task)
        job = self._jobs.pop(number, None)
        self._tasks.pop(number, None)
        if job is not None and not job.is_over:
            if job.state == "running":
                await asyncio.to_thread(self._judge.stop)
            await self._save(task[1])
        await self._in_files(self._let_go, task[1])
        self._wake()

    def is_judging(self, task: Task) -> bool:
        """Whether a slide waits or is being judged."""
        job = self._jobs.get(self._id(task))
        return job is not None and not job.is_over

    async def follow(self, number: str, beat_s: float) -> AsyncIterator[Job | None]:
        """A job now, and after each change until it is over; None where nothing has changed for `beat_s` seconds."""
        told = None
        while number in self._jobs and not self._closing:
            changed, job = self._changed, self._jobs[number]
            if job != told:
                yield (told := job)
            if job.is_over:
                return
            try:
                async with asyncio.timeout(beat_s):
                    await changed.wait()
            except TimeoutError:
                yield None

    async def run(self) -> None:
        """Judge until `close`; raises nothing that is one slide's fault."""
        while not self._closing:
            changed = self._changed
            number = next((number for number, job in self._jobs.items() if job.state == "waiting"), None)
            if number is None:
                await asyncio.to_thread(self._judge.stop)  # its memory is for others
                await changed.wait()
                continue
            await self._run_one(number)

    def end_streams(self) -> None:
        """Let nobody wait any longer: the service is about to stop."""
        self._closing = True
        self._wake()

    async def close(self) -> None:
        """Stop at once: what is judged is in its journal, and what is left is gone on with by the next service."""
        self.end_streams()
        while self._busy:  # it may only just be about to begin
            await asyncio.to_thread(self._judge.stop)
            await asyncio.sleep(0.02)
        await asyncio.to_thread(self._judge.stop)
        self._judging.shutdown()
        for out in list(self._held):
            await self._in_files(self._let_go, out)
        self._files.shutdown()

    async def _run_one(self, number: str) -> None:
        task, loop = self._tasks[number], asyncio.get_running_loop()

        def told(done: int, total: int, note: str) -> None:
            loop.call_soon_threadsafe(self._tell, number, {"done": done, "total": total, "note": note})

        self._tell(number, {"state": "running"})
        self._busy = True
        try:
            row = await loop.run_in_executor(self._judging, self._judge.judge, task, told)
        except StoppedError:
            if self._closing or number not in self._jobs:  # stopped by us
                return
            row = SlideRow(str(task[0].path), task[0].name, "failed", _ENDED)
        finally:
            self._busy = False
        if number in self._jobs:  # before it is told: whoever hears of it finds nothing that is still asked for
            await self._save(task[1], but=number)
        if row.state == "done":
            self._tell(number, {"state": "done", "note": ""})
        else:
            self._tell(number, {"state": "failed", "note": "", "problem": _without_folders(row.reason, task)})

    def _add(self, task: Task) -> Job:
        number = self._id(task)
        self._jobs.pop(number, None)
        self._jobs[number] = Job(id=number, slide=task[0].name, state="waiting")
        self._tasks[number] = task
        self._wake()
        return self._jobs[number]

    def _tell(self, number: str, news: dict[str, object]) -> None:
        if number in self._jobs:
            self._jobs[number] = self._jobs[number].model_copy(update=news)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _id(self, task: Task) -> str:
        """The same after a restart."""
        entry, out = task
        return hashlib.sha256(f"{self._digest}\n{out}\n{entry.name}".encode()).hexdigest()[:16]

    async def _in_files(self, work: Callable[..., None], *given: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._files, work, *given)

    def _hold(self, out: Path) -> None:
        """Take a folder of results for this service alone, until `close`."""
        if out in self._held:
            return
        require_tifffile()
        try:
            with ExitStack() as stack:
                stack.enter_context(claim(out, begun=COHORT_BEGUN))
                begin_cohort(out, self._digest, self._settings)
                self._held[out] = stack.pop_all()
        except SentinodeError as error:
            told = error.what.partition(" (")[0]  # behind it stands the command of who holds the folder, with its paths
            raise RefusedError(
                409, f"the folder of heat maps: {told}. Start the service with another --heatmaps."
            ) from error

    async def _save(self, out: Path, *, but: str = "") -> None:
        """Write down what is asked for and not over, without the job `but`."""
        left = [self._tasks[number] for number, job in self._jobs.items() if not job.is_over and number != but]
        await self._in_files(_write_asked, out, tuple(entry.name for entry, folder in left if folder == out))

    def _let_go(self, out: Path) -> None:
        if (held := self._held.pop(out, None)) is not None:
            held.close()


def _write_asked(out: Path, names: tuple[str, ...]) -> None:
    if names:
        write_record(out / ASKED, AskedFor(names))
    else:
        (out / ASKED).unlink(missing_ok=True)


def _without_folders(reason: str, task: Task) -> str:
    """What a client may read of why a slide failed."""
    entry, out = task
    told = reason.replace(str(entry.path), entry.path.name).replace(str(out / entry.name), entry.name)
    return told.replace(str(out), "the folder of heat maps")
