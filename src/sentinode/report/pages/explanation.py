"""What a model looks at -> what its page shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentinode.explain.explanation import Explanation
from sentinode.report.prose.cautions import NO_CLINIC
from sentinode.report.prose.numbers import many
from sentinode.report.sections import explanation as parts
from sentinode.report.sections.concepts import concepts_in_words, concepts_part
from sentinode.report.sections.patches import Answer


def explanation_context(folder: Path, found: Explanation) -> dict[str, Any]:
    rival = found.rival
    names, looks = [found.model], [found.look]
    if rival is not None:
        names, looks = [*names, rival.model], [*looks, rival.look]
    drawn = "" if found.patches == found.found else f" of {found.found:,}"
    return {
        "title": f"What {found.model} looks at in {found.images}",
        "note": found.note,
        "sections": {
            "conclusion": "Answer",
            "exam": "The exam of the methods",
            "look": "Centre or ring",
            **({"concepts": "Concepts"} if found.concepts else {}),
            "maps": "Patches and maps",
        },
        "facts": [
            f"{found.patches:,}{drawn} patches",
            many(found.networks, "network"),
            "as they lie" if found.views == 1 else f"mean of {found.views} views",
        ],
        "answers": _answers(found),
        "warnings": [
            *found.notices,
            *([] if found.exam.sound else ["A control passed the exam: do not trust it on these patches."]),
        ],
        "cautions": [NO_CLINIC],
        "exam_table": parts.exam_table(found.exam),
        "exam_rules": parts.exam_rules(),
        "examined_on": found.examined_on,
        "look_table": parts.look_table(names, looks),
        "look_rules": parts.look_rules(),
        "verdicts": [] if rival is None else [verdict.in_words() for verdict in rival.verdicts],
        "concepts": concepts_part(found.concepts) if found.concepts else None,
        "maps": parts.maps_part(folder, found),
    }


def _answers(found: Explanation) -> list[Answer]:
    answers = [
        Answer(
            "Can maps of this network be trusted?",
            parts.exam_in_words(found.exam),
            ["A map that passed shows where the evidence for the logit lies, and not whether the logit is right."],
            section="exam",
        ),
        Answer(
            "Does it look where the label is?",
            found.look.in_words,
            [] if found.rival is None else [f"{found.rival.model}: {found.rival.look.in_words}"],
            section="look",
        ),
    ]
    if found.concepts:
        answers.append(
            Answer(
                "Does it know more than what a pathologist can name?",
                concepts_in_words(found.concepts),
                ["What an additive model misses need not be beyond concepts, and an association is not a cause."],
                section="concepts",
            )
        )
    return answers
