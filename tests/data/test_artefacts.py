"""Files are complete or absent."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from sentinode.data.artefacts import write_atomically, write_json, write_text
from sentinode.errors import StorageError


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


def test_no_number_that_json_lacks_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"auc": float("nan")})
    assert list(tmp_path.iterdir()) == []
