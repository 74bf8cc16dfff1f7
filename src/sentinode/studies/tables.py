"""Tables of predictions, of any program -> the same paired comparison as of runs.

A table is one variant, under the name of its file: a row for each patch, with its id and its tumour probability, and,
where it was trained under several seeds, a column `seed` and a row for each patch and seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sentinode.config.fit import Metric
from sentinode.data.tables import (
    ID_COLUMNS,
    SLIDE_COLUMNS,
    column_of,
    columns_of,
    read_column_by_id,
    read_table,
    require_ids,
)
from sentinode.errors import DataError, RunError
from sentinode.evaluation.metrics import scores
from sentinode.inference.predictions import Predictions
from sentinode.runs.run import digest_of
from sentinode.runs.run_record import Seeded
from sentinode.runs.variant import Variant
from sentinode.studies.comparison import Comparison, paired
from sentinode.studies.given import GIVEN_PREDICTIONS

PROBABILITY_COLUMNS: Final = ("probability", "tumour_probability", "tumor_probability", "prediction", "score", "label")
"""The last is how the competition's submissions call it."""
_LARGEST_SEED: Final = 2**53
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, eq=False)
class PredictedRun:
    """What a table says under one seed, of the labelled patches alone; to a comparison it is a run."""

    folder: Path
    """The table's file."""
    name: str
    """The variant's."""
    seed: int
    predictions: Predictions
    metric: Metric
    """The score that decides."""
    training_ids: frozenset[str] = frozenset()
    seeded: frozenset[Seeded] = frozenset()

    @cached_property
    def scores(self) -> Mapping[str, float]:
        return scores(self.predictions.labels, self.predictions.probabilities)

    @property
    def weights_digest(self) -> str:
        """Of what it predicts: all that is known of its weights; no two variants are called one network."""
        return f"{self.name} {hashlib.sha256(self.predictions.probabilities.tobytes()).hexdigest()}"


@dataclass(frozen=True)
class GivenTable:
    """What a table said under one seed, as a record has it: kept in `predictions` beside it, with its digest."""

    name: str
    seed: int
    metric: Metric
    predictions_sha256: str


def read_tables(paths: Sequence[Path], labels: Mapping[str, int], metric: Metric) -> list[PredictedRun]:
    """What each table predicts of all labelled patches, seed by seed; raises DataError where a patch is missing."""
    names = _names(paths)
    return [run for path, name in zip(paths, names, strict=True) for run in _read(path, name, labels, metric)]


def pair_tables(runs: Sequence[PredictedRun]) -> Comparison[PredictedRun]:
    """The tables as variants, seed by seed; raises RunError where they have other seeds, or a seed is one again."""
    by_name: dict[str, list[PredictedRun]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    comparison = paired([Variant(name, {}, tuple(own)) for name, own in by_name.items()])
    if comparison.repeated_seeds:
        again = ", ".join(map(str, comparison.repeated_seeds))
        raise RunError(f"every table says under seed {again} what it says under another", remedy="Keep one of them.")
    return comparison


def slides_of(path: Path | None, comparison: Comparison[PredictedRun]) -> tuple[dict[str, str], int]:
    """The slide of each patch, from a table id,slide, and of how many it is not known.

    These are taken as one slide: without their pixels nothing tells them apart, and as single patches they would make
    every interval too narrow.
    """
    ids = comparison.ids.tolist()
    table = {} if path is None else read_column_by_id(path, SLIDE_COLUMNS)
    known = [i for i in ids if table.get(i)]
    if path is not None and not known:
        raise DataError(
            f"has {len(table):,} rows, none with the slide of a labelled patch",
            where=path,
            remedy="Fix its ids, or give the table of these patches.",
        )
    return {i: table.get(i) or _UNKNOWN for i in ids}, len(ids) - len(known)


def unknown_slides(patches: int, unknown: int) -> str | None:
    """What it means that the slides of so many of the patches are not known; None where all are."""
    if not unknown:
        return None
    advice = "Give a table of slides with --slides" if unknown == patches else "Complete the table of slides"
    whose = "Slides are" if unknown == patches else f"The slides of {unknown:,} of {patches:,} patches are"
    means = ", and no interval is known" if unknown == patches else ""
    return (
        f"{whose} not known, so these patches count as one slide{means}. {advice}, or give the patches themselves with "
        "--data, from whose pixels clusters of stain are made."
    )


def write_tables(runs: Sequence[PredictedRun], out: Path) -> tuple[GivenTable, ...]:
    """Keep what the tables said in the comparison's folder."""
    given = []
    for number, run in enumerate(runs, 1):
        place = _place(out, number)
        run.predictions.write(place)
        given.append(GivenTable(run.name, run.seed, run.metric, digest_of(place)))
    return tuple(given)


def reopen_tables(given: Sequence[GivenTable], out: Path) -> list[PredictedRun]:
    """What was compared; raises RunError where it is not there any more, or was changed."""
    runs = []
    for number, table in enumerate(given, 1):
        place = _place(out, number)
        if not place.is_file() or digest_of(place) != table.predictions_sha256:
            raise RunError("is not what was compared", where=place, remedy="Restore it, or compare the tables again.")
        runs.append(PredictedRun(place, table.name, table.seed, Predictions.read(place), table.metric))
    return runs


def _place(out: Path, number: int) -> Path:
    return out / GIVEN_PREDICTIONS / f"{number}.csv"


def _names(paths: Sequence[Path]) -> list[str]:
    """What a table is called: its file's name, with its folder's where two files have one name."""
    stems = [path.name.split(".")[0] for path in paths]
    names = [
        stem if stems.count(stem) == 1 else f"{path.absolute().parent.name}/{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two tables are called {twice}", remedy="Rename one of the files: a table is a variant.")
    return names


def _read(path: Path, name: str, labels: Mapping[str, int], metric: Metric) -> list[PredictedRun]:
    table = read_table(path, purpose="id,probability, and seed where there are several")
    of_value, of_seed = column_of(table, PROBABILITY_COLUMNS), column_of(table, ("seed",))
    if column_of(table, ID_COLUMNS) is None or of_value is None:
        raise DataError(
            f"has the columns {columns_of(table)}",
            where=path,
            remedy=f"It must have the columns id and {' or '.join(PROBABILITY_COLUMNS)}, and may have seed.",
        )
    rows = pd.DataFrame(
        {
            "id": require_ids(table, path),
            "value": pd.to_numeric(table[of_value].str.strip(), errors="coerce"),
            "seed": 0 if of_seed is None else pd.to_numeric(table[of_seed].str.strip(), errors="coerce"),
        }
    )
    rows = rows[rows["id"].isin(list(labels))]
    wrong = rows[~rows["value"].between(0, 1)]  # nor NaN
    if len(wrong):
        first = wrong.index[0]
        raise DataError(
            f"{len(wrong):,} values of {of_value} are not probabilities (first: {rows['id'][first]} has "
            f"{table[of_value][first]!r})",
            where=path,
            remedy="Give probabilities from 0 to 1; of logits, their sigmoid.",
        )
    if not (rows["seed"].between(0, _LARGEST_SEED) & (rows["seed"] % 1 == 0)).all():
        raise DataError("has seeds that are not whole numbers", where=path, remedy="Number them 0, 1, 2 and so on.")
    order = sorted(labels)
    known = np.array([labels[i] for i in order], np.int8)
    found = []
    for seed in sorted({int(seed) for seed in rows["seed"]}):
        of, under = rows[rows["seed"] == seed], "" if of_seed is None else f" under seed {seed}"
        twice = of["id"][of["id"].duplicated()]
        if len(twice):
            raise DataError(
                f"predicts {len(twice):,} patches twice{under} (first: {twice.iloc[0]})",
                where=path,
                remedy="Keep one row for each patch, or add a column seed.",
            )
        values = dict(zip(of["id"].tolist(), of["value"].tolist(), strict=True))
        absent = [i for i in order if i not in values]
        if absent:
            raise DataError(
                f"lacks {len(absent):,} of the {len(order):,} labelled patches{under} (first: {absent[0]})",
                where=path,
                remedy="Predict them all, or give --labels without them: scores on other patches do not compare.",
            )
        probabilities = np.array([values[i] for i in order], np.float64)
        found.append(PredictedRun(path, name, seed, Predictions(np.array(order), known, probabilities), metric))
    if not found:
        raise DataError("predicts none of the labelled patches", where=path, remedy="Compare its ids with --labels.")
    return found
