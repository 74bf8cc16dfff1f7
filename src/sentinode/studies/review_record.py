"""errors.json: what to look at once a study is done, as `explain` found it, for pages to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sentinode.evaluation.clusters import ClusterKind


@dataclass(frozen=True)
class Seen:
    """A patch to look at: `slide` names its slide, stain cluster or group, "" where unknown.

    `probabilities` of tumour: one of the variant's mean, the variant's and its rival's, or one for each seed.
    """

    id: str
    label: int
    slide: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Found:
    """The first patches of a kind, and how many there are in all."""

    total: int
    first: tuple[Seen, ...]


@dataclass(frozen=True)
class Suspects:
    """Label-error suspects, the most suspect first, with what confident learning found them by.

    `class_thresholds`: the mean probability that patches of class 0 and of class 1 have for their own class.
    `confident_joint[given][counted]`: patches by label and by the class whose threshold they reach.
    """

    found: Found
    class_thresholds: tuple[float, float]
    confident_joint: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class SubgroupScores:
    """One subgroup: means over the seeds, at the threshold 0.5; None where a class is absent that the score needs.

    `flag` is "few patches", "one class only", "few of one class" or "".
    """

    subgroup: str
    patches: int
    positive: int
    auc: float | None
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    flag: str


@dataclass(frozen=True)
class Subgroups:
    """Scores by one attribute: from least to most where its values are `ordered`, else the lowest AUC first.

    Flagged lines without an order come last. `lines` is empty where there are more subgroups (`count`) than half
    the patches, for then almost every patch is alone.
    """

    by: str
    ordered: bool
    count: int
    lines: tuple[SubgroupScores, ...]


Tie = Literal["", "equal", "shared tissue", "nearly equal"]
"""What two patches have in common beside their looks: equal pixels, also rotated or flipped, some of the same tissue
pixel for pixel, or pixels that differ by no more than another compression would change them."""


@dataclass(frozen=True)
class Neighbour:
    """A training patch; `similarity` is at most 1."""

    id: str
    label: int
    slide: str
    similarity: float
    tie: Tie


@dataclass(frozen=True)
class Neighbourhood:
    """A patch's most similar training patches of each class, the most similar first.

    Of the `nearest` ones of either class, `other_class` have another label than it.
    """

    id: str
    label: int
    slide: str
    of_class: tuple[tuple[Neighbour, ...], tuple[Neighbour, ...]]
    nearest: int
    other_class: int

    @property
    def ties(self) -> list[Neighbour]:
        """Training patches that it has more in common with than looks: leaks."""
        return [neighbour for neighbours in self.of_class for neighbour in neighbours if neighbour.tie]


@dataclass(frozen=True)
class Review:
    """Of one variant's validation patches. `mistakes[label]` holds the patches of that label that it got wrong.

    `rival` and `disagreements` are None where there is no other variant, `seed_spread` where there is one seed.
    `few`: a subgroup of fewer patches is flagged.
    """

    variant: str
    rival: str | None
    seeds: tuple[int, ...]
    folds: int
    patches: int
    few: int
    cluster_kind: ClusterKind
    mistakes: tuple[Found, Found]
    disagreements: Found | None
    seed_spread: tuple[Seen, ...] | None
    suspects: Suspects
    subgroups: tuple[Subgroups, ...]
    neighbours: tuple[Neighbourhood, ...] = ()
    """Of the mistakes, in their order; none where they were not looked for."""

    def ids_of_mistakes(self) -> list[str]:
        """Of those that are shown, of the first label first."""
        return [seen.id for found in self.mistakes for seen in found.first]

    def ids_to_show_small(self) -> list[str]:
        """The ids of the mistakes and of their neighbours, each once."""
        around = [one.id for of in self.neighbours for neighbours in of.of_class for one in neighbours]
        return list(dict.fromkeys([*(of.id for of in self.neighbours), *around]))

    def ids_to_show(self) -> list[str]:
        """The ids of all patches that need a picture, each once."""
        shown = [
            *self.mistakes[0].first,
            *self.mistakes[1].first,
            *(self.seed_spread or ()),
            *self.suspects.found.first,
        ]
        shown += self.disagreements.first if self.disagreements else ()
        return list(dict.fromkeys(patch.id for patch in shown))
