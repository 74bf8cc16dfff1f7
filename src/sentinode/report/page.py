"""Runs -> one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path


def write_check_page(folder: Path) -> Path:
    return folder / "check.html"


def write_study_page(folder: Path) -> Path:
    return folder / "report.html"
