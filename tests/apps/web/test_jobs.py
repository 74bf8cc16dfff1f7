"""Heat maps that clients ask for are those of `sentinode slides`, byte for byte, whatever came between."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from sentinode import Classifier, Session
from sentinode.api.slides import judge_one_more, judge_slides, model_of, usual_settings
from sentinode.apps.web.deep_zoom import Slides
from sentinode.apps.web.jobs import ASKED, Jobs
from sentinode.apps.web.judge import HowToJudge, Judge, JudgingProcess, StoppedError, Task, Told
from sentinode.apps.web.server import application
from sentinode.apps.web.service import Service
from sentinode.apps.web.uploads import Limits, RefusedError
from sentinode.artefacts import claim
from sentinode.phantom.tissue import paint_section
from sentinode.phantom.whole_slides import write_pyramid
from sentinode.runs.load import digest_of_model
from sentinode.slides.cohort import COHORT_BEGUN, SlideRow, cohort_of
from sentinode.slides.outputs import JOURNAL

NAMES = ("one", "two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of three blocks of cells each, and one without tissue."""
    place = tmp_path_factory.mktemp("asked")
    for number, name in enumerate(NAMES):
        rgb = np.full((200, 2200, 3), 243, np.uint8)
        section = paint_section(np.random.default_rng(number), side_px=300, tumour_share=0.3).rgb[:160, :280]
        for left in (100, 1100, 1900):
            rgb[20:180, left : left + 280] = section
        write_pyramid(place / f"{name}.tif", rgb, spacing=0.972)
    write_pyramid(place / "zero.tif", np.full((200, 300, 3), 243, np.uint8), spacing=0.972)
    return place


@pytest.fixture(scope="module")
def digest(served: Path) -> str:
    return digest_of_model(served)


@pytest.fixture(scope="module")
def expected(served: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the command writes of the two slides."""
    place = tmp_path_factory.mktemp("expected")
    session = Session(cache_root=place / "cache", runtime="pytorch")
    judge_slides(served, [folder / f"{name}.tif" for name in NAMES], place / "out", session)
    return contents(place / "out")


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class InThread:
    """A judge in this process; `go` lets it begin a slide, and after a block of the first it may have to stop."""

    def __init__(self, served: Path, session: Session) -> None:
        self._model, self._session = model_of(served, session), session
        self.settings = usual_settings(self._model.classifier, session)
        self.go, self.blocks_until_stop = threading.Event(), 10**9
        self._stop = threading.Event()
        self.go.set()

    def judge(self, task: Task, told: Told) -> SlideRow:
        self._stop.clear()

        def progress(step: str, done: int, total: int, note: str = "", /) -> None:
            if step == "judge cells":
                told(done, total, note)
                self.blocks_until_stop -= 1
            if self.blocks_until_stop < 0 or self._stop.is_set():
                raise KeyboardInterrupt  # which ends the work as a killed process does: no slide is told of it

        while not self.go.wait(0.01):
            if self._stop.is_set():
                raise StoppedError
        try:
            return judge_one_more(
                task[0], self._model, self.settings, task[1], replace(self._session, progress=progress)
            )
        except KeyboardInterrupt as error:
            raise StoppedError from error

    def stop(self) -> None:
        self._stop.set()


@pytest.fixture
def judge(served: Path, session: Session) -> InThread:
    return InThread(served, session)


@contextmanager
def client_of(classifier: Classifier, digest: str, judge: InThread, folder: Path, out: Path) -> Iterator[TestClient]:
    jobs = Jobs(judge, digest, judge.settings)
    service = Service(classifier, digest, maps="", limits=Limits(), slides=Slides(folder, out), jobs=jobs)
    with TestClient(application(service), base_url="http://localhost") as client:
        yield client


def events_of(client: TestClient, number: str) -> list[tuple[str, dict[str, Any]]]:
    """All events of a job until its stream ends."""
    answer = client.get(f"/v1/jobs/{number}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [block.splitlines() for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in told]


def test_what_is_asked_for_is_judged_in_turn_and_is_what_the_command_writes(
    classifier: Classifier, digest: str, judge: InThread, folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    judge.go.clear()
    with client_of(classifier, digest, judge, folder, tmp_path / "new" / "out") as client:
        asked = [client.post(f"/v1/slides/{name}/heatmap") for name in (*NAMES, "one")]
        assert [answer.status_code for answer in asked] == [202] * 3
        first, second, again = (answer.json()["id"] for answer in asked)
        assert first == again != second
        jobs = client.get("/v1/jobs").json()["jobs"]
        assert [(job["slide"], job["state"] in ("waiting", "running")) for job in jobs] == [
            ("one", True),
            ("two", True),
        ]
        assert jobs[1]["state"] == "waiting"
        judge.go.set()
        events = events_of(client, second)
        assert [kind for kind, _ in events] == ["progress"] * (len(events) - 1) + ["done"]
        done = [job["done"] for _, job in events]
        assert done == sorted(done)
        assert events[-1][1] == client.get(f"/v1/jobs/{second}").json()
        assert events[-1][1]["done"] == events[-1][1]["total"] > 0
        assert client.get("/v1/slides/two").json()["heat_map"]["model_sha256"] == digest
        there = client.post("/v1/slides/one/heatmap")
        assert (there.status_code, there.json()["state"]) == (200, "done")
        assert client.get("/v1/jobs/none/events").status_code == client.get("/v1/jobs/none").status_code == 404
    assert contents(tmp_path / "new" / "out") == expected


def test_a_service_that_was_killed_goes_on_and_ends_in_the_same_bytes(
    classifier: Classifier, digest: str, judge: InThread, folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    judge.blocks_until_stop = 2
    with client_of(classifier, digest, judge, folder, out) as client:
        for name in NAMES:
            client.post(f"/v1/slides/{name}/heatmap")
        while judge.blocks_until_stop >= 0:
            time.sleep(0.01)
        judge.go.clear()  # whatever it begins next, it has not begun when the service ends
    journal = (out / "one" / JOURNAL).read_bytes()
    assert journal
    (out / ASKED).write_text('{"version": 1, "slides": ["one", "gone", "two"]}')  # as a killed service leaves it
    judge.blocks_until_stop = 10**9
    judge.go.set()
    with client_of(classifier, digest, judge, folder, out) as client:
        jobs = client.get("/v1/jobs").json()["jobs"]
        assert [job["slide"] for job in jobs] == list(NAMES)
        assert [events_of(client, job["id"])[-1][0] for job in jobs] == ["done", "done"]
        assert not (out / ASKED).exists()
    assert contents(out) == expected


def test_what_is_being_judged_when_the_service_ends_is_still_asked_for(
    classifier: Classifier, digest: str, judge: InThread, folder: Path, tmp_path: Path
) -> None:
    judge.go.clear()
    with client_of(classifier, digest, judge, folder, tmp_path / "out") as client:
        for name in NAMES:
            client.post(f"/v1/slides/{name}/heatmap")
    assert json.loads((tmp_path / "out" / ASKED).read_text())["slides"] == list(NAMES)
    with claim(tmp_path / "out", begun=COHORT_BEGUN):
        pass  # the service has let go of it


def test_a_slide_that_cannot_be_judged_has_its_reason_and_the_next_is_judged(
    classifier: Classifier, digest: str, judge: InThread, folder: Path, tmp_path: Path
) -> None:
    with client_of(classifier, digest, judge, folder, tmp_path / "out") as client:
        zero, two = (client.post(f"/v1/slides/{name}/heatmap").json()["id"] for name in ("zero", "two"))
        kind, job = events_of(client, zero)[-1]
        assert (kind, job["state"]) == ("failed", "failed")
        assert "no tissue" in job["problem"]
        assert str(tmp_path) not in job["problem"]
        assert str(folder) not in job["problem"]
        assert events_of(client, two)[-1][0] == "done"
        rows = (tmp_path / "out" / "slides.csv").read_text().splitlines()
    assert ["failed" in row for row in rows[1:]] == [True, False]


def test_a_folder_of_another_model_and_one_that_is_held_are_refused(
    classifier: Classifier, digest: str, judge: InThread, folder: Path, tmp_path: Path, session: Session, served: Path
) -> None:
    out = tmp_path / "out"
    judge_slides(served, [folder / "one.tif"], out, session, threshold=0.25)
    before = contents(out)
    with client_of(classifier, digest, judge, folder, out) as client:
        answer = client.post("/v1/slides/two/heatmap")
        assert answer.status_code == 409
        assert "begun with another threshold" in answer.json()["detail"]
        assert str(tmp_path) not in answer.json()["detail"]
    assert contents(out) == before
    with claim(tmp_path / "held"), client_of(classifier, digest, judge, folder, tmp_path / "held") as client:
        answer = client.post("/v1/slides/two/heatmap")
        assert answer.status_code == 409
        assert "being written by process" in answer.json()["detail"]
        assert "/" not in answer.json()["detail"]  # nor the command of who does


def test_without_a_folder_or_a_run_the_option_is_named(classifier: Classifier, folder: Path) -> None:
    service = Service(classifier, "", maps="", limits=Limits(), slides=Slides(folder, None))
    client = TestClient(application(service), base_url="http://localhost")
    assert "--heatmaps DIR" in client.post("/v1/slides/one/heatmap").json()["detail"]
    assert client.post("/v1/slides/none/heatmap").status_code == 404
    assert client.get("/v1/jobs").json() == {"jobs": []}


def test_a_slide_that_is_forgotten_is_judged_no_further(judge: InThread, folder: Path, tmp_path: Path) -> None:
    judge.go.clear()
    tasks = [(entry, tmp_path / "out") for entry in cohort_of([folder])]

    async def story() -> None:
        jobs = Jobs(judge, "m", judge.settings)
        running = asyncio.create_task(jobs.run())
        asked = [await jobs.ask(task) for task in tasks]
        while jobs.job(asked[0].id).state != "running":
            await asyncio.sleep(0.01)
        await jobs.forget(tasks[0])
        await jobs.forget(tasks[1])
        with pytest.raises(RefusedError):
            jobs.job(asked[0].id)
        assert [job.slide for job in jobs.all] == [tasks[2][0].name]
        assert json.loads((tmp_path / "out" / ASKED).read_text())["slides"] == [tasks[2][0].name]
        await jobs.close()
        await asyncio.wait_for(running, 10)

    asyncio.run(story())


def test_a_stream_without_news_says_something_and_ends_with_the_service(
    judge: InThread, folder: Path, tmp_path: Path
) -> None:
    judge.go.clear()
    entry = cohort_of([folder])[0]

    async def story() -> list[object]:
        jobs = Jobs(judge, "m", judge.settings)
        job = await jobs.ask((entry, tmp_path / "out"))
        told: list[object] = []
        async for news in jobs.follow(job.id, 0.01):
            told.append(news)
            if len(told) == 3:
                jobs.end_streams()
        await jobs.close()
        return told

    first, *beats = asyncio.run(story())
    assert first is not None
    assert beats == [None, None]


def test_the_process_gives_way_and_judges_what_the_command_does(
    served: Path, folder: Path, tmp_path: Path, expected: dict[str, bytes], judge: InThread
) -> None:
    process: Judge = JudgingProcess(HowToJudge(served, (), judge.settings, tmp_path / "cache", "cpu", 1, "fastest"))
    seen: list[tuple[int, int, str]] = []
    nice: list[int] = []

    def told(done: int, total: int, note: str) -> None:
        seen.append((done, total, note))
        if sys.platform != "win32":
            nice.append(os.getpriority(os.PRIO_PROCESS, vars(process)["_process"].pid))

    task = cohort_of([folder])[0], tmp_path / "out"
    assert process.judge(task, told).state == "done"
    assert contents(tmp_path / "out" / "one") == {
        name.removeprefix("one/"): content for name, content in expected.items() if name.startswith("one/")
    }
    assert set(nice) <= {19}
    assert seen[0] == (0, 0, "looking for tissue")
    os.kill(vars(process)["_process"].pid, 9)
    with pytest.raises(StoppedError):
        process.judge(task, told)
    process.stop()
