"""A study as it would be with other runs, without writing one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sentinode.runs.run import Run
from sentinode.studies.comparison import Comparison
from sentinode.studies.study import FinishedStudy


def with_runs(study: FinishedStudy, change: Callable[[Run], Run]) -> FinishedStudy:
    """The study, each of its runs changed."""
    changed = {id(run): change(run) for variant in study.variants for run in variant.runs}
    return replace(
        study,
        comparisons={
            question: Comparison(
                tuple(replace(each, runs=tuple(changed[id(run)] for run in each.runs)) for each in found.variants)
            )
            for question, found in study.comparisons.items()
        },
    )
