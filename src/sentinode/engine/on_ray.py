"""Tasks on Ray: begun here on the loopback alone, or a cluster that is joined by its address.

Ray pickles what it sends. So what is sent are strings: a task and what becomes of it, as JSON, and bytes of files. The
functions that do the work are sent by their names, and each machine runs those of its own installation.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from sentinode.engine.engine import PAUSE_S, Attempts, Board, Watch
from sentinode.engine.task import Desk, EngineTask, Needs, TaskOutcome, do
from sentinode.errors import ConfigError, FailureError, SentinodeError, one_line
from sentinode.machine import default_cache, free_processors, keep_ray_to_itself, optional_module

Parcels = dict[str, dict[str, tuple[str, list[Any]]]]
"""By what a task calls them, files by their names: the SHA-256 of each, and its chunks in Ray's object store."""
FETCHED: Final = "fetched"
"""The folder of a machine's cache with what tasks there had sent to them, each in a folder."""
WHOLE: Final = ".whole"
"""The last file of such a folder; its time is that of its last use."""
_CHUNK: Final = 32 * 2**20
_STORE: Final = 2**27  # bytes of an embedded Ray's object store: machines that share a disk send no files
_LOOKS_S: Final = 0.2  # between two looks at what the tasks say


@dataclass(frozen=True)
class OnRay:
    """Ray at an address, such as "HOST:6379" or "ray://HOST:10001"; without one, Ray that begins and ends here.

    `most` tasks are done at a time, at most (default: as many as the machines have room for).
    """

    address: str | None = None
    most: int | None = None
    pause_s: float = PAUSE_S

    def run(self, tasks: Iterable[EngineTask | None], watch: Watch) -> Generator[TaskOutcome, None, None]:
        """See `Engine`."""
        with self._joined() as ray:
            yield from _Driver(ray, self, Attempts(iter(tasks), self.pause_s), Board(watch, tasks), watch).outcomes()

    @contextmanager
    def _joined(self) -> Iterator[Any]:
        """Ray, connected; where this process is connected already, as it is and stays."""
        keep_ray_to_itself(loopback=self.address is None)
        ray = optional_module("ray", what="--engine ray", extra="cluster")
        if ray.is_initialized():
            yield ray
            return
        asked: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            asked |= {"num_cpus": self.most or free_processors(), "object_store_memory": _STORE}
            asked |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            ray.init(self.address or "local", **asked)  # with no address, one that happens to run here would be joined
        except (OSError, RuntimeError, ValueError) as error:
            told = f"Ray cannot be joined ({one_line(str(error))[:200]})"
            raise FailureError(
                told, where=self.address or "--engine ray", remedy="Check the address, and that Ray runs there."
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


class _Driver:
    """The tasks of one call: which are being done, what they say, and what becomes of them."""

    def __init__(self, ray: Any, asked: OnRay, attempts: Attempts, board: Board, watch: Watch) -> None:
        self._ray, self._asked, self._attempts, self._board, self._watch = ray, asked, attempts, board, watch
        # On this machine, if it is one of the cluster's; anywhere else it begins anew where its machine is lost.
        board_options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 10_000}
        self._switchboard = ray.remote(Switchboard).options(**board_options, **self._here()).remote()
        self._doing: dict[Any, EngineTask] = {}
        self._by_call: dict[str, EngineTask] = {}
        self._calls = 0
        self._parcels: dict[str, dict[str, tuple[str, list[Any]]]] = {}
        self._answers: dict[str, bool] = {}
        self._needs = Needs()
        self._is_told = False
        self._room = (0.0, 0)  # until when it is known, and how much there is

    def outcomes(self) -> Iterator[TaskOutcome]:
        """Of all tasks, as they end."""
        try:
            while True:
                while len(self._doing) < self._room_for() and (task := self._attempts.next()):
                    self._begin(task)
                    self._board.begun(task)
                if not self._doing and self._attempts.over:
                    return
                ready, _ = self._ray.wait([*self._doing], num_returns=1, timeout=_LOOKS_S) if self._doing else ([], [])
                self._hear()
                if not self._doing:
                    time.sleep(_LOOKS_S)
                for call in ready:
                    task, told = self._doing.pop(call), self._told(call)
                    if "lacks" in told:
                        self._begin(task, self._sent(task, told["lacks"]))
                        continue
                    outcome = self._attempts.outcome(task, told)
                    self._board.ended(task, outcome)
                    if outcome is not None:
                        yield outcome
        finally:
            for call in self._doing:
                with suppress(Exception):  # Ray itself may be gone
                    self._ray.cancel(call, force=True)

    def _begin(self, task: EngineTask, parcels: Parcels | None = None) -> None:
        self._needs = needs = task.needs
        cpus = needs.cpus or 1
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": needs.gpus, "max_retries": 0}
        if needs.memory_mb is not None:
            options["memory"] = needs.memory_mb * 10**6
        self._calls += 1
        name = f"{self._calls}"
        self._by_call[name] = task
        work = self._ray.remote(perform).options(**options, name=task.name)
        self._doing[work.remote(task.to_json(), name, parcels or {}, self._switchboard, cpus)] = task

    def _told(self, call: Any) -> dict[str, Any]:
        """What a task that is over amounts to; that its machine was lost is one of the things that can be."""
        from ray.exceptions import RayError, RayTaskError

        try:
            told: dict[str, Any] = json.loads(self._ray.get(call))
        except RayTaskError as error:
            cause = error.cause
            return {"failed": str(cause if isinstance(cause, SentinodeError) else one_line(str(cause)))}
        except RayError as error:
            return {"failed": f"its process or machine was lost ({type(error).__name__})"}
        return told

    def _hear(self) -> None:
        """What the tasks said since the last look; rows are answered at the next."""
        from ray.exceptions import RayError

        try:
            answers, self._answers = self._answers, {}
            said = json.loads(self._ray.get(self._switchboard.take.remote(json.dumps(answers)), timeout=60))
        except (RayError, TimeoutError):  # it begins anew elsewhere
            return
        for name, message in said:
            task = self._by_call[name]
            if "row" in message:
                self._answers[name] = self._watch.row(task, message["row"])
            else:
                self._board.told(task, message)

    def _room_for(self) -> int:
        """How many tasks such as the last all machines can do at a time now; machines may join and leave."""
        if time.monotonic() > self._room[0]:
            needs = self._needs
            wanted = {"CPU": needs.cpus or 1, "GPU": needs.gpus, "memory": (needs.memory_mb or 0) * 1e6}
            found = [
                int(min(node["Resources"].get(name, 0) / amount for name, amount in wanted.items() if amount))
                for node in self._ray.nodes()
                if node["Alive"]
            ]
            self._room = time.monotonic() + 1.0, min(self._asked.most or sum(found), max(1, sum(found)))
            if not any(found) and not self._is_told:
                self._tell_that_none_has({name: amount for name, amount in wanted.items() if amount})
        return self._room[1]

    def _tell_that_none_has(self, wanted: dict[str, float]) -> None:
        """No machine has what a task asks for: one of a cluster's may join, but what is begun here stays as it is."""
        asked = " and ".join(f"{name} {amount:,g}" for name, amount in wanted.items())
        if self._asked.address is None:
            told = f"a task asks for {asked}, which this machine does not have"
            raise ConfigError(told, where="running", remedy="Lower running.cpus, running.gpus or running.memory_mb.")
        self._watch.notify(f"a task asks for {asked}, which no machine of the cluster has now: it waits for one")
        self._is_told = True

    def _here(self) -> dict[str, Any]:
        if self._ray.util.client.ray.is_connected():  # by a proxy; this machine is none of the cluster's
            return {}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = self._ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}

    def _sent(self, task: EngineTask, groups: Iterable[str]) -> Parcels:
        """The files of a task, in the object store: each is put there once, whoever asks for it."""
        for group in groups:
            if task.digests[group] not in self._parcels:
                files = {name: _put(self._ray, Path(path)) for name, path in task.files[group].items()}
                self._parcels[task.digests[group]] = files
        return {group: self._parcels[task.digests[group]] for group in groups}


def _put(ray: Any, path: Path) -> tuple[str, list[Any]]:
    digest, chunks = hashlib.sha256(), []
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            chunks.append(ray.put(chunk))
    return digest.hexdigest(), chunks


class Switchboard:
    """Between those who do tasks and whoever asked for them: an actor that keeps what is said until it is heard."""

    def __init__(self) -> None:
        self._said: list[tuple[str, Any]] = []
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    async def tell(self, call: str, message: str) -> None:
        self._said.append((call, json.loads(message)))

    async def ask(self, call: str, message: str) -> bool:
        """The answer to a task's question; each has one open at most."""
        self._said.append((call, json.loads(message)))
        self._waiting[call] = asyncio.get_running_loop().create_future()
        return await self._waiting[call]

    async def take(self, answers: str) -> str:
        """What was said since, for answers to what was asked before."""
        for call, answer in json.loads(answers).items():
            if call in self._waiting:
                self._waiting.pop(call).set_result(answer)
        said, self._said = self._said, []
        return json.dumps(said)


def perform(text: str, call: str, parcels: Parcels, switchboard: Any, threads: int) -> str:
    """Do a task in a worker of Ray's; returns what became of it, as JSON."""
    import ray

    task = EngineTask.from_json(text)
    lacks = [group for group, files in task.files.items() if group not in parcels and not _are_here(files)]
    if lacks:
        return json.dumps({"lacks": lacks})
    fetched = {group: _fetch(ray, task.digests[group], files) for group, files in parcels.items()}

    def tell(message: dict[str, Any]) -> None:
        switchboard.tell.remote(call, json.dumps(message))

    def ask(message: dict[str, Any]) -> bool:
        answer: bool = ray.get(switchboard.ask.remote(call, json.dumps(message)))
        return answer

    def place(group: str, name: str) -> Path:
        return fetched[group] / name if group in fetched else Path(task.files[group][name])

    device = "cuda" if task.needs.gpus else "cpu"
    return json.dumps(do(task, Desk(threads, device, tell, ask, place)))


def _are_here(files: Mapping[str, str]) -> bool:
    return all(Path(path).is_file() for path in files.values())


def _fetch(ray: Any, digest: str, files: Mapping[str, tuple[str, list[Any]]]) -> Path:
    """A folder of this machine's cache with files that are fetched, unless another worker here did that before."""
    folder = default_cache() / FETCHED / digest[:20]
    whole = folder / WHOLE
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not whole.exists():
            for name, (sha256, chunks) in files.items():
                found = hashlib.sha256()
                with (folder / name).open("wb") as file:
                    for chunk in chunks:
                        content: bytes = ray.get(chunk)
                        found.update(content)
                        file.write(content)
                if found.hexdigest() != sha256:
                    raise FailureError(
                        "did not arrive as it was sent", where=folder / name, remedy="Check the network."
                    )
        whole.touch()
    return folder
