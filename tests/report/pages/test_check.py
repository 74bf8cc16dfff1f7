"""The page of a check tells each warning that it counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sentinode.audit.check import Counted
from sentinode.report.pages.check import findings, not_found


def test_what_is_lacking_stands_among_the_findings_with_its_next_step() -> None:
    lacking = Counted("slides", 0, "", "warning", "give a table of slides")
    check: Any = SimpleNamespace(
        table=(Counted("patches", 96, "", "note", ""), lacking, Counted("flat patches", 0, "", "", ""))
    )
    assert [row[:2] for row in findings(check).rows] == [["slides", "warning"], ["patches", "note"]]
    assert findings(check).rows[0][-1] == "give a table of slides"
    assert not_found(check) == "Not found: flat patches."
