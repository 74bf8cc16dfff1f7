"""The record of a check -> what its page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from sentinode.audit.audit import AuditRecord, DuplicateIds, OverlapIds
from sentinode.audit.check import CheckRecord
from sentinode.audit.explore import Explored, baseline
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.report.figures import charts
from sentinode.report.prose.data_statements import label_rule
from sentinode.report.prose.numbers import many
from sentinode.report.sections.patches import Answer, Gallery, SideBySide, picture, pictures
from sentinode.report.sections.tables import Table

_BLANK_TITLES: Final = {
    "white": "Near-white patches",
    "black": "Near-black patches",
    "flat": "Flat patches",
}
_IDS: Final = "An id should be the SHA-1 of its pixels."
_GRAVEST: Final = ("error", "warning", "note", "")
_SHOWN: Final = 12
_PAIRS_SHOWN: Final = 6
_Pair = TypeVar("_Pair", DuplicateIds, OverlapIds)


def check_context(folder: Path, check: CheckRecord, explored: Explored | None) -> dict[str, Any]:
    audit = check.audit
    labels = audit.labels
    parts = ", ".join(f"{count:,} {part}" for part, count in check.parts.items())
    sections = {"conclusion": "Answers", "counts": "Findings", "classes": "Classes and slides"}
    blanks = blank_galleries(folder, audit)
    duplicates = pairs(folder, audit.duplicates.pairs, _duplicate_caption)
    overlaps = pairs(folder, audit.overlaps.pairs, _overlap_caption)
    if blanks or duplicates or overlaps:
        sections["pictures"] = "Patches worth a look"
    if explored:
        sections["colours"] = "Colour and brightness"
    return {
        "title": "A check of the data",
        "note": check.note,
        "sections": sections,
        "answers": answers(check),
        "facts": [f"{parts} patches ({check.kind} folder)"],
        "label_rule": label_rule(check.origin),
        "ids_lead": _IDS if check.kind == "competition" else "",
        "findings": findings(check),
        "not_found": not_found(check),
        "details": details(check),
        "unreadable": unreadable(check),
        "class_charts": [
            charts.class_counts("Labelled patches", "check-classes", labels["negative"], labels["positive"])
        ],
        "by_slide": charts.by_slide(explored) if explored else [],
        "slides_table": slides_table(audit),
        "blanks": blanks,
        "duplicates": duplicates,
        "overlaps": overlaps,
        "appearance": charts.appearance(explored) if explored else [],
        "appearance_patches": explored.patches if explored else 0,
    }


def answers(check: CheckRecord) -> list[Answer]:
    """Whether the data can be used, and what a network must beat."""
    grave = Counter(row.severity for row in check.table)
    if grave["error"]:
        answer = f"Not yet: {many(grave['error'], 'finding')} to fix first, {many(grave['warning'], 'warning')}."
    elif grave["warning"]:
        answer = f"Yes, with care: {many(grave['warning'], 'warning')}."
    else:
        answer = "Yes: nothing was found that needs fixing."
    read = "Every table, every file and the pixels of every patch were checked; nothing was dropped or changed."
    beaten = "Over at most 20,000 labelled training patches, by their mean brightness."
    return [
        Answer("Can these data be used as they are?", answer, [read], section="counts"),
        Answer("What must a network beat?", baseline(check.brightness_auc), [beaten]),
    ]


def findings(check: CheckRecord) -> Table:
    """What was found or is lacking, the gravest first, and the next step; what was looked for in vain: `not_found`."""
    told = (row for row in check.table if row.count or row.severity)
    found = sorted(told, key=lambda row: _GRAVEST.index(row.severity))
    rows = [[row.what, row.severity, f"{row.count:,}", row.note, row.next_step] for row in found]
    head = ["what", "severity", "count", "note", "next step"]
    text = frozenset({"severity", "note", "next step"})
    return Table("Patches are left out of training only if a setting asks for it.", head, rows, text)


def not_found(check: CheckRecord) -> str:
    """Everything that was looked for in vain, in a sentence."""
    names = [row.what for row in check.table if not (row.count or row.severity)]
    return f"Not found: {', '.join(names)}." if names else ""


def details(check: CheckRecord) -> Table | None:
    """Findings about tables and files, with their first examples."""
    rows = [[finding.what, f"{finding.count:,}", ", ".join(finding.examples)] for finding in check.findings]
    return Table("Tables and files.", ["finding", "count", "examples"], rows, frozenset({"examples"})) if rows else None


def unreadable(check: CheckRecord) -> Table | None:
    rows = [[entry.id, entry.reason] for entry in check.unreadable[:_SHOWN]]
    caption = f"Unusable images: the first {len(rows)} of {len(check.unreadable):,}."
    return Table(caption, ["image", "why"], rows, frozenset({"why"})) if rows else None


def slides_table(audit: AuditRecord) -> Table | None:
    rows = [
        [
            slide.slide or "(unknown)",
            f"{slide.patches:,}",
            f"{slide.labelled:,}",
            f"{slide.positive:,}",
            f"{slide.tumour_fraction:.1%}" if slide.labelled else "–",
        ]
        for slide in audit.slides
    ]
    head = ["slide", "patches", "labelled", "positive", "positive share"]
    return Table("", head, rows) if any(slide.slide for slide in audit.slides) else None


def blank_galleries(folder: Path, audit: AuditRecord) -> list[Gallery]:
    galleries = []
    for kind, title in _BLANK_TITLES.items():
        ids = audit.blanks.get(kind, [])
        shown = [p for p in pictures(folder, ids[:_SHOWN]) if p.source]
        if shown:
            galleries.append(Gallery(title, "plain", shown, f"{len(shown):,} of {len(ids):,}."))
    return galleries


def pairs(folder: Path, entries: Sequence[_Pair], caption: Callable[[_Pair], str]) -> list[SideBySide]:
    """The first pairs of which both pictures are at hand."""
    shown = [SideBySide((picture(folder, e.a), picture(folder, e.b)), caption(e)) for e in entries[:_PAIRS_SHOWN]]
    return [pair for pair in shown if all(each.source for each in pair.pictures)]


def _duplicate_caption(entry: DuplicateIds) -> str:
    return "pixel for pixel" if entry.symmetry == 0 else "rotated or flipped"


def _overlap_caption(entry: OverlapIds) -> str:
    share = entry.shared_area_px / PATCH_SIZE_PX**2
    return f"shifted by {entry.dx_px}, {entry.dy_px} px: {share:.0%} shared"
