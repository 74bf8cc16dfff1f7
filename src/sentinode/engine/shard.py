"""A share of a list of tasks, for jobs of a batch system that know nothing of each other but their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sentinode.errors import ConfigError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Shard:
    """The shard of a number, from 1, among so many; raises ConfigError for one that is none."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            told = f"{self.number}/{self.of} is no shard"
            raise ConfigError(told, where="shard", remedy="Give its number and how many there are, from 1/20 to 20/20.")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of such as "3/20"."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            told = f"{text!r} is no shard"
            raise ConfigError(told, where="shard", remedy="Give its number and how many there are, such as 3/20.")
        return cls(int(number), int(of))

    def part(self, items: Sequence[_T]) -> list[_T]:
        """Every so-manieth: what stands side by side in a list, and takes as long, is dealt out to different shards."""
        return list(items[self.number - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
