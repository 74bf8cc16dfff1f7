"""The neighbours of a study's mistakes -> their part of a page: what the network takes for like each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sentinode.report.prose.numbers import many
from sentinode.report.sections.patches import Picture, thumbnail
from sentinode.studies.review_record import Neighbour, Neighbourhood, Review

_AMONG: Final = 0.8
"""Of the nearest training patches, the share with the other label from which a patch is said to lie among these."""
_LABELS: Final = ("tumour-free", "tumour")


@dataclass(frozen=True)
class ShownNeighbour:
    """A small picture; `lines` below it, and `tie`, what a neighbour has in common with the mistake, "" for nothing."""

    picture: Picture
    lines: tuple[str, ...]
    tie: str = ""


@dataclass(frozen=True)
class NeighbourRow:
    """A mistake, and the training patches most like it, of each label by its name."""

    mistake: ShownNeighbour
    of_class: dict[str, tuple[ShownNeighbour, ...]]


@dataclass(frozen=True)
class NeighboursPart:
    """What `neighbours.html` shows."""

    rows: list[NeighbourRow]
    told: list[str]


def neighbours_part(folder: Path, review: Review) -> NeighboursPart | None:
    """`folder` has the small pictures of the review's `ids_to_show_small`; None where no neighbours were looked for."""
    if not review.neighbours:
        return None
    p = {seen.id: seen.probabilities[0] for found in review.mistakes for seen in found.first}
    rows = [_row(folder, of, p[of.id]) for of in review.neighbours]
    return NeighboursPart(rows, [_ties(review.neighbours), _among(review.neighbours)])


def _row(folder: Path, of: Neighbourhood, probability: float) -> NeighbourRow:
    lines = (f"p = {probability:.3f}", f"labelled {_LABELS[of.label]}", of.slide)
    of_class = {
        name: tuple(_alike(folder, one) for one in neighbours)
        for name, neighbours in zip(_LABELS, of.of_class, strict=True)
    }
    return NeighbourRow(ShownNeighbour(thumbnail(folder, of.id), tuple(filter(None, lines))), of_class)


def _alike(folder: Path, one: Neighbour) -> ShownNeighbour:
    return ShownNeighbour(thumbnail(folder, one.id), tuple(filter(None, (f"{one.similarity:.2f}", one.slide))), one.tie)


def _ties(found: tuple[Neighbourhood, ...]) -> str:
    tied = sum(bool(of.ties) for of in found)
    if not tied:
        return "No training patch among these is a copy of a mistake or shares tissue with it."
    verb = "has a copy or some of its tissue" if tied == 1 else "have a copy or some of their tissue"
    return f"{tied} of {many(len(found), 'mistake')} {verb} in the training set: validation scores are too good."


def _among(found: tuple[Neighbourhood, ...]) -> str:
    among = sum(of.other_class >= _AMONG * of.nearest for of in found)
    least = min(round(_AMONG * of.nearest) for of in found)
    nearest = max(of.nearest for of in found)
    return (
        f"For {among} of {many(len(found), 'mistake')}, at least {least} of the {nearest} most similar training "
        "patches have the other label. Then the network sees the other class there, or the label is wrong."
    )
