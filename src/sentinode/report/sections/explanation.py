"""An explanation -> the parts of its page: the exam, the look, the pictures, the concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sentinode.evaluation.bootstrap import Interval
from sentinode.explain.exam import LEAST_STABLE, MOST_ALIKE, Exam, MethodExam, Part
from sentinode.explain.explanation import Explanation, ShownPatch
from sentinode.explain.look import AREA, BLUR_PX, LooksAt
from sentinode.inference.attribution import COMPLETE_SHARE, COMPLETE_WITHIN, METHODS, WINDOW_PX
from sentinode.report.prose.numbers import MISSING, number
from sentinode.report.sections.concepts import concepts_in_words
from sentinode.report.sections.patches import Picture, picture
from sentinode.report.sections.tables import Table

METHOD_NAMES: Final = {
    "cam": "class activation map",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
    "constant": "constant (control)",
    "edges": "edges (control)",
}
_PARTS: Final[dict[Part, str]] = {
    "completeness": "completeness",
    "randomisation": "shuffled weights",
    "deletion": "deletion",
    "insertion": "insertion",
    "stability": "stability",
}
_UNSEEN: Final = {
    "cam": "Its squares are as coarse as the network's last maps; what lies between them, and what earlier layers saw "
    "within one, it does not show.",
    "integrated_gradients": "It shows what differs from a patch of one colour: what the network makes of the colour "
    "itself, and of things that are absent, it does not show.",
    "occlusion": f"It shows squares of {WINDOW_PX} pixels one by one: what takes two of them together, and what is "
    "there twice, it does not show.",
}
_LABELS: Final = ("labelled tumour-free", "labelled tumour")


@dataclass(frozen=True)
class MapRow:
    """A patch beside its maps, with what is written under each picture."""

    pictures: Sequence[Picture]
    title: str


@dataclass(frozen=True)
class MapsPart:
    """The patches and their maps, or, for a method that failed, why there are none."""

    rows: Sequence[MapRow]
    captions: Sequence[str]
    refusals: Sequence[str]
    limit: str


@dataclass(frozen=True)
class LookPart:
    """What a study's page shows of what its choice looks at."""

    exam: Table
    passed: str
    uses: str
    knows: str
    of: str
    """Which patches, and how they lay."""
    more: str
    """What `sentinode explain` adds."""
    table: Table
    rules: Sequence[str]


def look_part(found: Explanation) -> LookPart:
    sat = {exam.method for exam in found.exam.methods}
    return LookPart(
        exam_table(found.exam),
        exam_in_words(found.exam),
        found.look.in_words,
        concepts_in_words(found.concepts) if found.concepts else "",
        f"{found.patches:,} validation patches{', as they lie' if found.views == 1 else ''}",
        _enumerated([*(METHOD_NAMES[method] for method in METHODS if method not in sat), "other patches"]),
        look_table([found.model], [found.look]),
        look_rules(),
    )


def exam_table(exam: Exam) -> Table:
    """How each method did, the controls last."""
    rows = [
        [
            METHOD_NAMES[found.method],
            _verdict(found),
            _share(found.complete) if not found.control else MISSING,
            number(found.unlike[-1], 2) if found.unlike else MISSING,
            _gain(found.deletion),
            _gain(found.insertion),
            number(found.stability, 2),
        ]
        for found in exam.methods
    ]
    head = ["method", "exam", "complete", "alike, shuffled", "deletion", "insertion", "stability"]
    caption = (
        f"The exam of each method on this network: {exam.patches:,} patches of {exam.clusters:,} {exam.unit}, "
        "95 % intervals over these."
    )
    return Table(caption, head, rows, frozenset({"exam"}), wraps=True)


def exam_rules() -> list[str]:
    """What each column is, and what passes, a sentence each."""
    return [
        f"Complete: share of the maps that, with the logit of nothing, sum to the logit within {COMPLETE_WITHIN:.0%}; "
        f"{COMPLETE_SHARE:.0%} must. Occlusion does not claim it.",
        "Alike, shuffled: rank correlation with the maps of the same network after all its weights were shuffled, "
        f"layer by layer; it must be between -{MOST_ALIKE:g} and {MOST_ALIKE:g}.",
        "Deletion and insertion: by how many logits painting over, or putting back, what the map ranks first is ahead "
        "of a random order; the interval must lie above 0.",
        f"Stability: rank correlation of the maps under the 8 rotations and flips; at least {LEAST_STABLE:g}. Where a "
        "model is explained under 8 views it is 1 by its making.",
        "A constant and a detector of edges look at no network, and must fail.",
    ]


def exam_in_words(exam: Exam) -> str:
    """Which methods passed."""
    passed = [METHOD_NAMES[method] for method in exam.passed]
    if not passed:
        return "No method passed its exam on this network, so no map is shown."
    named = _enumerated(passed)
    return f"{named[0].upper()}{named[1:]} passed the exam on this network."


def look_table(names: Sequence[str], looks: Sequence[LooksAt]) -> Table:
    """What one model, or two, look at, a row each."""
    methods = list(dict.fromkeys(method for found in looks for method in found.attribution))
    head = ["model", "follows the centre", "pairs", "answer from the centre", "centre blurred", "ring blurred"]
    rows = [
        [
            name,
            _percent(found.follows_centre),
            f"{found.pairs:,}",
            _percent(found.centre_share),
            _logits(found.centre_blurred),
            _logits(found.ring_blurred),
            *(_percent(found.attribution[method]) if method in found.attribution else MISSING for method in methods),
        ]
        for name, found in zip(names, looks, strict=True)
    ]
    caption = "Centre against ring, with 95 % intervals."
    return Table(caption, [*head, *(f"{METHOD_NAMES[method]} in the centre" for method in methods)], rows, wraps=True)


def look_rules() -> list[str]:
    """What each column of the look is, a sentence each."""
    return [
        "Follows the centre: of patches whose centre was exchanged with one of the other class from the same stain "
        "cluster, the share whose decision is that of the centre's own patch. The label would follow in 100 %; 50 % is "
        "no preference. The edge of the inserted square is something that no network was trained on.",
        "Blurred: by how much the logit moves, up or down, when the centre, or the ring around it, is blurred "
        f"(standard deviation {BLUR_PX:g} pixels). The centre is {AREA:.0%} of the area.",
        f"In the centre: share of the absolute map within the centre; a map of equal values has {AREA:.0%} there.",
    ]


def maps_part(folder: Path, found: Explanation) -> MapsPart:
    methods = list(found.exam.passed)
    return MapsPart(
        [_row(folder, patch, methods) for patch in found.shown],
        [f"{METHOD_NAMES[method][0].upper()}{METHOD_NAMES[method][1:]}: {_UNSEEN[method]}" for method in methods],
        [_refusal(of) for of in found.exam.methods if not of.passed and not of.control],
        f"{found.limit:.2g}",
    )


def _row(folder: Path, patch: ShownPatch, methods: Sequence[str]) -> MapRow:
    maps = [
        Picture(
            f"{patch.id}.{method}",
            picture(folder, f"{patch.id}.{method}").source,
            f"{METHOD_NAMES[method]}, {_share(patch.shares[method])} in the centre",
        )
        for method in methods
    ]
    of_patch = picture(folder, patch.id)
    label = "" if patch.label is None else f"{_LABELS[patch.label]}, "
    title = f"{label}logit {patch.logit:+.2f}{f', {patch.slide}' if patch.slide else ''}"
    return MapRow([Picture(patch.id, of_patch.source, of_patch.short_id), *maps], title)


def _enumerated(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verdict(found: MethodExam) -> str:
    if found.passed:
        return "passed"
    if not found.failed:
        return "not possible"
    return f"failed: {', '.join(_PARTS[part] for part in found.failed)}"


def _refusal(found: MethodExam) -> str:
    name = METHOD_NAMES[found.method]
    why = found.refused or f"it failed in {' and '.join(_PARTS[part] for part in found.failed)}"
    return f"No pictures by {name}: {why}."


def _share(value: float) -> str:
    return MISSING if np.isnan(value) else f"{value:.0%}"


def _ends(found: Interval, digits: str = ".0%") -> str:
    return found.ends_in_words(digits)


def _percent(found: Interval) -> str:
    return f"{_share(found.estimate)} ({_ends(found)})"


def _logits(found: Interval) -> str:
    return f"{number(found.estimate, 2)} ({_ends(found, '.2f')})"


def _gain(found: Interval | None) -> str:
    return MISSING if found is None else f"{found.estimate:+.2f} ({_ends(found, '+.2f')})"
