"""Patches as pictures inside a page."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Picture:
    """A patch to show; `source` is a data: URI, "" where the folder holds no picture of it."""

    id: str
    source: str
    caption: str = ""

    @property
    def short_id(self) -> str:
        return self.id if len(self.id) <= 12 else f"{self.id[:8]}…"


def picture(folder: Path, patch_id: str, caption: str = "") -> Picture:
    path = folder / "pictures" / f"{patch_id}.png"
    if path.parent != folder / "pictures" or not path.is_file():
        return Picture(patch_id, "", caption)
    return Picture(patch_id, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"), caption)


def pictures(folder: Path, patch_ids: Iterable[str]) -> list[Picture]:
    return [picture(folder, patch_id) for patch_id in patch_ids]
