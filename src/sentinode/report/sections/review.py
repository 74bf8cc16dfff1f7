"""A review -> its part of a page: galleries of mistakes, disagreements and suspects; tables by subgroup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sentinode.explain.explanation import Explanation
from sentinode.report.prose.numbers import number
from sentinode.report.sections.explanation import METHOD_NAMES
from sentinode.report.sections.neighbours import NeighboursPart, neighbours_part
from sentinode.report.sections.patches import Gallery, Picture, picture
from sentinode.report.sections.tables import Table
from sentinode.runs.study_record import STUDY_EXPLANATION
from sentinode.studies.review_record import Found, Review, Seen, Subgroups, SubgroupScores

MOST_LINES: Final = 20
_LABELS: Final = ("labelled tumour-free", "labelled tumour")
_MISTAKES: Final = (
    ("Called tumour, labelled tumour-free", "False positives", "negative"),
    ("Tumour missed", "False negatives", "positive"),
)
_CLUSTERS: Final = {
    "slide": "slide",
    "patient": "patient",
    "slide+group": "slide or group",
    "slide+stain": "slide or stain cluster",
    "group": "group",
    "stain": "stain cluster",
}
_MEANINGS: Final = {
    "slide": "The slide that a patch was cut from.",
    "patient": "The patient that a patch comes from.",
    "slide+group": "The slide that a patch was cut from; if that is not known, patches that share tissue form a group.",
    "slide+stain": "The slide that a patch was cut from; if that is not known, patches of similar stain and texture.",
    "stain": "Slides are not known; patches of similar stain and texture are used instead.",
    "group": "Slides are not known; patches that share tissue form a group.",
    "brightness": "The mean of red, green and blue, 0 (black) to 255 (white), over the whole patch.",
    "optical_density": "How much light the stain absorbs: more stain, higher density.",
    "saturation": "How strong the colour is, 0 (grey) to 1.",
}


@dataclass(frozen=True)
class ReviewedPatch(Picture):
    """A picture with further `lines` below its caption, `marks` in [0, 1] on a strip, and a map below it."""

    lines: tuple[str, ...] = ()
    marks: tuple[float, ...] = ()
    map: Picture | None = None


@dataclass(frozen=True)
class Explained:
    """A table under its title and a note; no table where it would have a line for almost each patch."""

    title: str
    note: str
    table: Table | None


@dataclass(frozen=True)
class ReviewPart:
    """What `review.html` shows."""

    review: Review
    mistakes: list[Gallery]
    neighbours: NeighboursPart | None
    disagreements: Gallery | None
    seeds: Gallery | None
    suspects: Gallery
    joint: Explained
    by_subgroup: list[Explained]

    @property
    def of_variant(self) -> str:
        """Whose probability is shown where there is one."""
        seeds = len(self.review.seeds)
        return f"“{self.review.variant}”" + (f" (the mean of its {seeds} seeds)" if seeds > 1 else "")

    @property
    def how_scored(self) -> str:
        """What every line of the tables by subgroup is, and what its flag means."""
        seeds, folds = len(self.review.seeds), self.review.folds
        means = f", means over {seeds} seeds" if seeds > 1 else ""
        pooled = (
            f" The predictions of all {folds} folds are pooled. Their networks do not share a scale, so a pooled AUC "
            "is usually slightly too low."
            if folds > 1
            else ""
        )
        return (
            f"These are scores of “{self.review.variant}” at threshold 0.5{means}.{pooled} Small subgroups differ by "
            f"chance: do not draw conclusions from flagged lines (fewer than {self.review.few} patches, or hardly any "
            "of one class). A subgroup of one class has no AUC."
        )


def review_part(folder: Path, review: Review, explanation: Explanation | None = None) -> ReviewPart:
    """Put a review into galleries and tables; `folder` has the pictures of its `ids_to_show`.

    `explanation`: whose maps stand beside the mistakes, by the first method that passed its exam.
    """
    method = next(iter(explanation.exam.passed), None) if explanation else None
    return ReviewPart(
        review,
        [_mistakes(folder, review, label, method) for label in (0, 1)],
        neighbours_part(folder, review),
        _disagreements(folder, review, review.disagreements) if review.disagreements else None,
        _seeds(folder, review, review.seed_spread) if review.seed_spread is not None else None,
        _suspects(folder, review),
        _joint(review),
        [_by_subgroup(review, found) for found in review.subgroups],
    )


def _mistakes(folder: Path, review: Review, label: int, method: str | None) -> Gallery:
    title, kind, colour = _MISTAKES[label]
    found = review.mistakes[label]
    cards = [_card(folder, review, seen, f"p = {_p(seen)}") for seen in found.first]
    caption = f"{kind}, most confident first: {_shown(found)}."
    if method:
        home = folder / STUDY_EXPLANATION.parent
        maps = [picture(home, f"{card.id}.{method}") for card in cards]
        cards = [replace(card, map=of if of.source else None) for card, of in zip(cards, maps, strict=True)]
        caption += (
            f" Below each, its map by {METHOD_NAMES[method]}, of the first run: orange speaks for tumour, blue against "
            "it. It shows where the evidence lies, not why the network is wrong; patches that this run trained on "
            "have none."
        )
    return Gallery(title, colour, [*cards], caption)


def _disagreements(folder: Path, review: Review, found: Found) -> Gallery:
    cards = [
        _card(folder, review, seen, " / ".join(f"{p:.2f}" for p in seen.probabilities), _LABELS[seen.label])
        for seen in found.first
    ]
    caption = f"p of “{review.variant}” / p of “{review.rival}”, largest difference first: {_shown(found)}."
    return Gallery("The largest disagreements", "plain", [*cards], caption)


def _seeds(folder: Path, review: Review, found: Iterable[Seen]) -> Gallery:
    cards = [
        _card(
            folder,
            review,
            seen,
            f"{min(seen.probabilities):.2f} to {max(seen.probabilities):.2f}",
            _LABELS[seen.label],
            marks=seen.probabilities,
        )
        for seen in found
    ]
    caption = (
        "Largest standard deviation over seeds first. Each dot on the strip is one seed's p, from 0 (left) to 1 "
        "(right), with a tick at 0.5."
    )
    return Gallery("Patches with the largest spread over seeds", "plain", [*cards], caption)


def _suspects(folder: Path, review: Review) -> Gallery:
    found = review.suspects.found
    cards = [
        _card(folder, review, seen, f"{rank}. p = {_p(seen)}", _LABELS[seen.label])
        for rank, seen in enumerate(found.first, start=1)
    ]
    return Gallery("Labels to look at first", "plain", [*cards], f"Most suspect first: {_shown(found)}.")


def _joint(review: Review) -> Explained:
    rows = [
        [name, *(f"{count:,}" for count in counts), number(threshold, 3)]
        for name, counts, threshold in zip(
            _LABELS, review.suspects.confident_joint, review.suspects.class_thresholds, strict=True
        )
    ]
    return Explained(
        "Labels and confident predictions",
        "A patch counts as tumour if its probability is at least the average probability of patches labelled tumour, "
        "and likewise for the other class. A patch that reaches neither average is not counted.",
        Table("", ["label", "counted as tumour-free", "counted as tumour", "average probability"], rows),
    )


def _by_subgroup(review: Review, found: Subgroups) -> Explained:
    name = _CLUSTERS.get(found.by, found.by.replace("_", " "))
    meaning = _MEANINGS.get(found.by, "From the table of attributes.")
    if not found.lines:
        alone = f"The {review.patches:,} patches fall into {found.count:,} subgroups, most of a single patch."
        return Explained(f"By {name}", f"{meaning} {alone}", None)
    shown = found.lines[:MOST_LINES]
    told = [] if found.ordered else ["Lowest AUC first; then those too small to judge, largest first"]
    if len(shown) < len(found.lines):
        told.append(f"{len(shown)} of {len(found.lines):,} are shown")
    order = f" {'; '.join(told)}." if told else ""
    return Explained(f"By {name}", f"{meaning}{order}", _scores_table(name, shown))


def _scores_table(name: str, lines: Sequence[SubgroupScores]) -> Table:
    flagged = any(line.flag for line in lines)
    rows = [
        [
            line.subgroup,
            f"{line.patches:,}",
            f"{line.positive:,}",
            *(_score(score) for score in (line.auc, line.accuracy, line.sensitivity, line.specificity)),
            *([line.flag] if flagged else []),
        ]
        for line in lines
    ]
    head = [name, "patches", "positive", "AUC", "accuracy", "sensitivity", "specificity"]
    return Table("", [*head, *(["flag"] if flagged else [])], rows)


def _card(
    folder: Path, review: Review, seen: Seen, said: str, label: str = "", *, marks: tuple[float, ...] = ()
) -> ReviewedPatch:
    noun = _CLUSTERS[review.cluster_kind]
    slide = seen.slide if not seen.slide or seen.slide.startswith(noun.split()[0]) else f"{noun} {seen.slide}"
    of_patch = picture(folder, seen.id, said)
    return ReviewedPatch(of_patch.id, of_patch.source, said, tuple(line for line in (label, slide) if line), marks)


def _shown(found: Found) -> str:
    shown = len(found.first)
    return f"{shown} of {found.total:,}" if shown < found.total else f"all {shown}"


def _p(seen: Seen) -> str:
    return f"{seen.probabilities[0]:.3f}"


def _score(score: float | None) -> str:
    return number(float("nan") if score is None else score, 3)
