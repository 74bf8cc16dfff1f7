"""A finished study in a program or a notebook: scores and verdicts as tables, its figures, its answers at a glance."""

from __future__ import annotations

from functools import cached_property
from html import escape
from typing import Final

import pandas as pd

from sentinode.errors import ConfigError
from sentinode.report.pages.study import answers, study_context
from sentinode.report.shown import Drawing, Shown, gathered, keep_tables
from sentinode.settings import suggestion
from sentinode.studies.study import FinishedStudy

_NUMBERS: Final = ("scores", "verdicts")


class Study(FinishedStudy):
    """A finished study, read from its folder. A notebook shows its questions, answers and differences."""

    @cached_property
    def _shown(self) -> Shown:
        with gathered() as shown:
            keep_tables(study_context(self))
        return shown

    @property
    def tables(self) -> list[str]:
        """The names that `table` knows: "scores" and "verdicts", and those of every table of the report."""
        return [*_NUMBERS, *self._shown.tables]

    @property
    def figures(self) -> list[str]:
        """The names that `figure` knows: every figure of the report."""
        return list(self._shown.figures)

    def table(self, name: str = "scores") -> pd.DataFrame:
        """ "scores": a row for each question, variant and metric, as numbers, with the ends of its 95 % interval (NaN
        where it is unknown). "verdicts": a row for each question and variant that was held against the first. Another
        of `tables`: the report's own text.
        """
        match name:
            case "scores":
                return pd.DataFrame(self._scores())
            case "verdicts":
                found = [(asked, verdict) for asked, of in self.evidence.items() for verdict in of.verdicts]
                return pd.DataFrame([{"question": asked, **vars(verdict)} for asked, verdict in found])
        table = self._shown.tables.get(name)
        if table is None:
            raise _unknown("table", name, self.tables)
        return pd.DataFrame(list(table.rows), columns=list(table.head))

    def figure(self, name: str) -> Drawing:
        """One of `figures`: a notebook displays it, `.save(path)` writes SVG, PDF or PNG, `.figure` is matplotlib's."""
        drawing = self._shown.figures.get(name)
        if drawing is None:
            raise _unknown("figure", name, self.figures)
        return drawing

    def _scores(self) -> list[dict[str, object]]:
        return [
            {
                "question": question,
                "variant": variant.name,
                "metric": metric,
                "mean": found.estimate,
                "low": found.low,
                "high": found.high,
                "standard deviation": variant.standard_deviation(metric) if metric in variant.runs[0].scores else None,
                "seeds": len(variant.distinct),
            }
            for question, asked in self.comparisons.items()
            for variant in asked.variants
            for metric, found in self.evidence[question].intervals[variant.name].items()
        ]

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r}: {', '.join(self.comparisons)}; {len(self.variants)} variants)"

    def _repr_html_(self) -> str:
        note = f"<p><b>{escape(self.record.note)}</b></p>" if self.record.note else ""
        told = [
            f"<h4>{escape(found.question)}</h4><p>{escape(found.answer)}</p><p>{escape(' '.join(found.sure))}</p>"
            f'<div style="max-width:30em">{"".join(chart.svg for chart in found.charts)}</div>'
            for found in answers(self)
        ]
        page = escape(str(self.folder / "report.html"))
        return f"{note}{''.join(told)}<p>The whole report: {page}</p>"


def _unknown(what: str, name: str, known: list[str]) -> ConfigError:
    return ConfigError(f"unknown {what} {name!r}", remedy=f"Choose one of {', '.join(known)}{suggestion(name, known)}")
