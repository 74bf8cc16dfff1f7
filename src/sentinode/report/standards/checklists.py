"""TRIPOD+AI and CLAIM answered from a study's own records: what is reported here, and what the records do not know."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any, Final

from sentinode.report.prose.data_statements import DataStatements
from sentinode.report.prose.model_statements import ModelStatements
from sentinode.studies.study import FinishedStudy

_CHECKLISTS: Final = ("tripod-ai", "claim")


class Status(StrEnum):
    """How far the records answer an item."""

    REPORTED = "reported"
    PARTLY = "partly"
    NOT_DONE = "not done"
    NOT_APPLICABLE = "not applicable"
    NOT_KNOWN = "not known"
    FOR_THE_AUTHOR = "for the author"


@dataclass(frozen=True)
class Item:
    """What a checklist asks, in our own words, and what a study answers."""

    number: str
    topic: str
    asked: str
    status: Status
    answer: str


@dataclass(frozen=True)
class Checklist:
    name: str
    citation: str
    items: tuple[Item, ...]

    @property
    def counts(self) -> dict[Status, int]:
        """How many items have each status, every status named."""
        found = Counter(item.status for item in self.items)
        return {status: found[status] for status in Status}

    @property
    def summary(self) -> str:
        """Such as "21 of 52 items reported, 15 partly, 2 not done, ..."."""
        reported, *others = self.counts.items()
        told = [f"{count} {status}" for status, count in others if count]
        return ", ".join([f"{reported[1]} of {len(self.items)} items {reported[0]}", *told])


def checklists(study: FinishedStudy) -> list[Checklist]:
    """TRIPOD+AI, then CLAIM, each with all its items in their order."""
    return [_answered(name, DataStatements(study), ModelStatements(study)) for name in _CHECKLISTS]


def _answered(name: str, data: DataStatements, model: ModelStatements) -> Checklist:
    text = resources.files("sentinode.report").joinpath(f"checklists/{name}.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return Checklist(table["name"], table["citation"], tuple(_item(entry, data, model) for entry in table["items"]))


def _item(entry: Mapping[str, Any], data: DataStatements, model: ModelStatements) -> Item:
    status, answer = (entry[key].format(data=data, model=model) for key in ("status", "answer"))
    if entry.get("of_people") and data.synthetic:
        status, answer = Status.NOT_APPLICABLE, data.no_people
    return Item(entry["number"], entry["topic"], entry["asked"], Status(status), answer)
