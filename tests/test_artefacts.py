"""Files are complete or absent; folders are claimed by one process at a time."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from sentinode.artefacts import claim, claim_file, put_first, tidy_finished, write_atomically, write_json, write_text
from sentinode.errors import RunError, SentinodeWarning, StorageError


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "härlig")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "härlig"
    (tmp_path / "plain").touch()
    assert (tmp_path / "new" / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full_disk(file: IO[bytes]) -> None:
        file.write(b"half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left") as caught:
        write_atomically(path, full_disk)
    assert caught.value.exit_code == 1
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_no_unicode_is_spelled_out_in_what_is_written(tmp_path: Path) -> None:
    place = os.fsdecode(b"K\xf6ln")
    write_json(tmp_path / "a.json", {"of": place, "other": "Köln"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"of": r"K\udcf6ln", "other": "Köln"}
    write_text(tmp_path / "a.html", f"<p>{place} Köln")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == r"<p>K\udcf6ln Köln"


def test_a_number_that_json_lacks_is_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"auc": float("nan"), "ends": [float("-inf"), 0.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"auc": None, "ends": [None, 0.5]}


HOLD = """
import sys, time
from pathlib import Path
from sentinode.artefacts import claim, claim_file
with (claim if sys.argv[1] == "folder" else claim_file)(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_by_another_process(kind: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process claims `path` and sleeps."""
    with subprocess.Popen([sys.executable, "-c", HOLD, kind, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_another_process_holds_is_refused_and_free_once_that_is_killed(tmp_path: Path, kind: str) -> None:
    path, claim_it = tmp_path / "out", claim if kind == "folder" else claim_file
    with held_by_another_process(kind, path) as other:
        with pytest.raises(RunError) as caught, claim_it(path):
            pass
        said = str(caught.value)
        assert f"{path}: is being written by process {other.pid} on {socket.gethostname()} since " in said
        assert "(-c " in said  # the command
        assert "\n" not in said
        other.kill()  # as the kernel kills: nothing is tidied up
        other.wait()
        with claim_it(path):
            pass
    assert not [found for found in tmp_path.rglob("*") if found.is_file()]


def test_another_thread_is_another_but_the_same_one_may_claim_again(tmp_path: Path) -> None:
    refused: list[str] = []

    def elsewhere() -> None:
        try:
            with claim(tmp_path / "out"):
                pass
        except RunError as error:
            refused.append(str(error))

    with claim(tmp_path / "out"):
        with claim(tmp_path / "out"):
            pass
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        assert len(refused) == 1
        assert f"process {os.getpid()} " in refused[0]
        write_text(tmp_path / "out" / "result.txt", "done")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.txt"]


def test_a_claim_that_fails_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claim(tmp_path / "new" / "out"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyError), claim(tmp_path / "mine"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_only_what_the_command_left_itself_may_lie_in_a_claimed_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "begun.toml", "")
    write_text(tmp_path / ".begun.toml.k3j2h1g0.part", "half")
    with pytest.raises(RunError, match=r"is not empty\. Choose"), claim(tmp_path):
        pass
    with pytest.raises(RunError, match="is not empty"), claim(tmp_path, begun="other.toml", replaces=["other.json"]):
        pass
    assert (tmp_path / ".begun.toml.k3j2h1g0.part").exists()  # of another command it is not swept
    with claim(tmp_path, begun="begun.toml"):
        assert not (tmp_path / ".begun.toml.k3j2h1g0.part").exists()
    with claim(tmp_path, replaces=["begun.toml", "end.toml"]):
        pass
    write_text(tmp_path / "thesis.txt", "precious")
    with pytest.raises(RunError, match="is not empty"), claim(tmp_path, replaces=["begun.toml"]):
        pass


def test_leftovers_of_killed_processes_are_swept_and_make_no_folder_full(tmp_path: Path) -> None:
    for leftover in (".a.txt.k3j2h1g0.part", "pictures/.1.png.abcdefgh.part", ".lock", ".lock.holder"):
        write_text(tmp_path / "out" / leftover, "half")
    (tmp_path / "out" / "pictures" / ".member.part").mkdir()
    with pytest.raises(RunError, match="is not empty"), claim(tmp_path / "out"):
        pass  # a folder of pictures is no leftover
    with claim(tmp_path / "out", replaces=["pictures"]):
        assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock", ".lock.holder", "pictures"}
        assert list((tmp_path / "out" / "pictures").iterdir()) == []
    write_text(tmp_path / ".a.csv.k3j2h1g0.part", "half")
    write_text(tmp_path / ".b.csv.k3j2h1g0.part", "another's")
    with claim_file(tmp_path / "a.csv"):
        assert not (tmp_path / ".a.csv.k3j2h1g0.part").exists()
        assert (tmp_path / ".b.csv.k3j2h1g0.part").exists()


def seal(folder: Path, kind: str) -> None:
    if kind == "run":
        write_json(folder / "manifest.json", {"sentinode_run": 1, "sha256": {}})
    else:
        write_text(folder / "study.toml", "")
        write_json(folder / "study.json", {})


@pytest.mark.parametrize("kind", ["run", "study"])
def test_nothing_is_claimed_in_what_is_finished(tmp_path: Path, kind: str) -> None:
    seal(tmp_path / "done", kind)
    (tmp_path / "link").symlink_to(tmp_path / "done", target_is_directory=True)
    for folder in (tmp_path / "done", tmp_path / "done" / "new" / "er", tmp_path / "link" / "new"):
        with pytest.raises(RunError, match=f"finished {kind}.*never changed"), claim(folder, begun="study.toml"):
            pass
        with pytest.raises(RunError, match=f"finished {kind}.*never changed"), claim_file(folder / "a.csv"):
            pass
    assert not (tmp_path / "done" / "new").exists()
    write_json(tmp_path / "site" / "manifest.json", {"name": "of another program"})
    with claim(tmp_path / "site" / "out"):
        pass


def test_what_a_process_left_that_was_killed_when_all_was_done_is_taken_away(tmp_path: Path) -> None:
    seal(tmp_path / "done", "run")
    for leftover in (".lock", ".lock.holder", ".report.html.k3j2h1g0.part"):
        write_text(tmp_path / "done" / leftover, "half")
    with claim_file(tmp_path / "done" / "report.html", of_finished=True):  # a page may be drawn anew
        assert not (tmp_path / "done" / ".report.html.k3j2h1g0.part").exists()
    tidy_finished(tmp_path / "done")
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["manifest.json"]


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    with pytest.raises(RunError, match="is a file, not a directory"), claim(tmp_path / "file"):
        pass
    with pytest.raises(StorageError, match="cannot write"), claim(tmp_path / "file" / "out"):
        pass
    with pytest.raises(StorageError, match="cannot write"), claim_file(tmp_path / "file" / "a.csv"):
        pass


def test_a_file_system_without_locks_is_told_of_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(SentinodeWarning, match="no locks .No locks available"), claim(tmp_path / "out"):
        write_text(tmp_path / "out" / "result.txt", "done")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.txt"]


@pytest.mark.parametrize("links", [True, False])
def test_of_files_that_are_to_be_put_at_one_place_the_first_stays(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise OSError("this file system has no links")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)

    def both(draft: Path) -> None:
        """Another process is first while this one writes."""
        draft.write_text("second")
        if links:
            put_first(tmp_path / "chosen", lambda other: other.write_text("first"))

    put_first(tmp_path / "chosen", both)
    assert (tmp_path / "chosen").read_text() == ("first" if links else "second")
    assert [path.name for path in tmp_path.iterdir()] == ["chosen"]
