"""Every command claims its --out before it reads anything, and none writes into what is finished."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinode.api import data as on_data
from sentinode.api import experiments
from sentinode.api import study as studies
from sentinode.artefacts import claim, claim_file, write_json, write_text
from sentinode.config.presets import load_preset
from sentinode.errors import RunError, SentinodeError, StorageError
from sentinode.phantom.phantom import write_phantom
from sentinode.session import Session

NOWHERE = Path("no") / "such" / "data"  # whoever reads it before claiming says so
STUDY = load_preset("fair")
RUN = STUDY.run_config()

Command = Callable[[Path, Session], object]
INTO_FOLDERS: dict[str, Command] = {
    "train": lambda out, session: experiments.fit(NOWHERE, RUN, out, session, resume=True),
    "study": lambda out, session: studies.study(NOWHERE, STUDY, out, session, resume=True),
    "compare": lambda out, session: studies.compare(NOWHERE, STUDY, out, session, resume=True),
    "compare runs": lambda out, session: experiments.compare_runs([NOWHERE], out),
    "check": lambda out, session: on_data.check(NOWHERE, session=session, out=out),
}
INTO_FILES: dict[str, Command] = {
    "split": lambda out, session: on_data.split(NOWHERE, RUN, out, session),
    "phantom": lambda out, session: write_phantom(out, patches=60, slides=4, workers=1),
}
EVERY = INTO_FOLDERS | INTO_FILES


@pytest.mark.parametrize("name", EVERY)
def test_what_another_holds_is_refused_before_anything_is_read(name: str, session: Session, tmp_path: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with (claim if name in INTO_FOLDERS else claim_file)(tmp_path / "out"):
            held.set()
            done.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(60)
    try:
        with pytest.raises(RunError, match=r"out: is being written by process \d+ on .* since .*Wait for it"):
            EVERY[name](tmp_path / "out", session)
    finally:
        done.set()
        other.join()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", ["run", "study"])
@pytest.mark.parametrize("place", ["", "new"])
def test_nothing_is_written_into_what_is_finished(
    name: str, kind: str, place: str, session: Session, tmp_path: Path
) -> None:
    finished = tmp_path / "finished"
    if kind == "run":
        write_json(finished / "manifest.json", {"sentinode_run": 1})
    else:
        write_text(finished / "study.toml", "")
        write_json(finished / "study.json", {})
    before = sorted(finished.rglob("*"))
    with pytest.raises(SentinodeError):
        EVERY[name](finished / place / "out" if place else finished, session)
    assert sorted(finished.rglob("*")) == before


@pytest.mark.parametrize("name", EVERY)
def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(
    name: str, session: Session, tmp_path: Path
) -> None:
    write_text(tmp_path / "file", "")
    with pytest.raises(StorageError, match="cannot write"):
        EVERY[name](tmp_path / "file" / "out", session)
