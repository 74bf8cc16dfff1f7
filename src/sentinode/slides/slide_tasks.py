"""Slides as tasks: what is sent to judge one elsewhere, and how it is done there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from sentinode.engine.engine import Watch, in_sight
from sentinode.engine.task import Desk, EngineTask, TaskOutcome
from sentinode.errors import RunError
from sentinode.runs.load import classifier_of, digest_of_model, open_runs, runtime_cache_of
from sentinode.runs.tasks import sent_along, workplace
from sentinode.session import Session
from sentinode.slides.judging import Model, SlideEntry, SlideSettings, judge_alone

ALL_SLIDES: Final = "slides"
"""The step that all slides of a cohort are parts of."""

_open: dict[str, Model] = {}
"""The model that this process judged with last, by its digest."""


def judge_together(
    entries: Sequence[SlideEntry], model: Model, settings: SlideSettings, out: Path, session: Session
) -> dict[SlideEntry, TaskOutcome]:
    """Have the session's engine look at every slide and judge it; what became of each.

    The largest files go first, so that no worker is left alone at the end with one that takes long.
    """
    assert session.engine is not None
    assert model.folder is not None
    in_order = sorted(entries, key=lambda entry: _size(entry.path), reverse=True)
    tasks = [_task(entry, model, settings, out, session) for entry in in_order]
    of_task = {entry.name: entry for entry in entries}
    outcomes = session.engine.run(tasks, Watch(ALL_SLIDES, session.progress, session.notify))
    return {of_task[outcome.task.name]: outcome for outcome in map(in_sight, outcomes)}


def _task(entry: SlideEntry, model: Model, settings: SlideSettings, out: Path, session: Session) -> EngineTask:
    assert model.folder is not None
    places = None if settings.places is None else str(settings.places.resolve())
    return EngineTask(
        "slide",
        entry.name,
        {
            **sent_along(session, out / entry.name, model.own.addresses),
            "slide": str(entry.path.resolve()),
            "spacing": entry.spacing,
            "settings": {**asdict(settings), "places": places},
            "model": str(model.folder.resolve()),
            "note": model.note,
            "ways": list(model.classifier.ways),
        },
        model.needs,
        digests={"model": model.digest},
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def do(task: EngineTask, desk: Desk) -> None:
    """Judge the slide of a task; what is there of it is gone on with."""
    given = task.given
    entry = SlideEntry(Path(given["slide"]), task.name, given["spacing"])
    places = given["settings"]["places"]
    settings = SlideSettings(**{**given["settings"], "places": None if places is None else Path(places)})
    folder = Path(given["out"])
    with workplace(task, desk) as (session, own):
        if task.digests["model"] not in _open:
            _open.clear()
            runs = open_runs(Path(given["model"]), own)
            fastest = runtime_cache_of(session)
            classifier = classifier_of(runs, session.device, folder=Path(given["model"]), fastest=fastest)
            found = Model(classifier, digest_of_model(Path(given["model"])), given["note"])
            if found.digest != task.digests["model"]:
                raise RunError("is another model than the task is of", where=given["model"], remedy="Give it again.")
            _open[found.digest] = found
        model = _open[task.digests["model"]]
        model.classifier.compute_by(given["ways"])
        judge_alone(entry, model, settings, folder, lambda *cells: desk.progress(f"judge {entry.name}", *cells))
