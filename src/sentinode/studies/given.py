"""Finished runs, given as folders -> the same paired comparison as of runs that were trained for it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from sentinode.config.run import Value
from sentinode.data.tables import SLIDE_COLUMNS, read_column_by_id
from sentinode.errors import DataError, RunError
from sentinode.evaluation.clusters import ClusterKind
from sentinode.evaluation.metrics import scores
from sentinode.inference.predictions import Predictions, average
from sentinode.models.own import NONE, Recipes
from sentinode.runs.run import MANIFEST, Run, digest_of, is_run
from sentinode.runs.variant import Variant, best_known_clusters
from sentinode.settings import short_name, to_flat
from sentinode.studies.comparison import Comparison, paired

GIVEN_PREDICTIONS: Final = "predictions"
_OF_A_REPEAT: Final = ("fit.seed", "split.seed", "split.fold")
_MEMBERS: Final = "ensemble.members"
_KINDS: Final = (
    "model.architecture",
    "model.features.kind",
    "fit.train",
    "fit.schedule.kind",
    "fit.average.kind",
    "split.by",
)
_LONGEST: Final = 80  # letters of a variant's name: it heads tables and stands in figures
_WITH_SLIDES: Final[dict[ClusterKind, ClusterKind]] = {
    "slide": "slide",
    "patient": "slide+group",
    "slide+stain": "slide+stain",
    "slide+group": "slide+group",
    "stain": "slide+stain",
    "group": "slide+group",
}
"""What clusters become where a table names the slides of some patches."""


@dataclass(frozen=True)
class GivenRun:
    """A finished run that was compared: where the comparison's page finds it again, and what it was.

    folder: its place from the comparison's folder, spelled as in a URL, for a name need not be Unicode.
    predictions_sha256: of what it predicted of labelled patches, in `predictions` beside the record, where it was
    compared on such.
    """

    folder: str
    manifest_sha256: str
    predictions_sha256: str | None = None

    @classmethod
    def of(cls, run: Run, out: Path) -> GivenRun:
        try:
            place = os.path.relpath(run.folder.resolve(), out.resolve())
        except ValueError:  # on another drive
            place = str(run.folder.resolve())
        return cls(quote(os.fsencode(Path(place).as_posix())), digest_of(run.folder / MANIFEST))

    def open(self, out: Path) -> Run:
        """Raises RunError where the run is not there any more, or was changed."""
        folder = Path(os.path.normpath(out.resolve() / os.fsdecode(unquote_to_bytes(self.folder))))
        remedy = f"The page of {out} is drawn from it: put it back, or compare other runs with another --out."
        if not is_run(folder):
            raise RunError("holds no finished run any more", where=folder, remedy=remedy)
        if digest_of(folder / MANIFEST) != self.manifest_sha256:
            raise RunError("is not the run that was compared", where=folder, remedy=remedy)
        return Run.open(folder)


def write_given(runs: Sequence[Run], out: Path, said: Sequence[Predictions] = ()) -> tuple[GivenRun, ...]:
    """What a record says of runs that were compared; what they `said` of labelled patches is kept beside it."""
    given = [GivenRun.of(run, out) for run in runs]
    for number, predictions in enumerate(said):
        table = _table(out, number)
        predictions.write(table)
        given[number] = replace(given[number], predictions_sha256=digest_of(table))
    return tuple(given)


def reopen_given(given: Sequence[GivenRun], out: Path) -> tuple[list[Run], list[Predictions]]:
    """The runs that were compared, and what they said of labelled patches, if any; raises RunError."""
    runs = [each.open(out) for each in given]
    tables = {_table(out, number): each.predictions_sha256 for number, each in enumerate(given)}
    said = []
    for table, sha256 in tables.items():
        if sha256 is not None:
            if not table.is_file() or digest_of(table) != sha256:
                raise RunError("is not what was compared", where=table, remedy="Restore it, or compare the runs again.")
            said.append(Predictions.read(table))
    return runs, said


def _table(out: Path, number: int) -> Path:
    return out / GIVEN_PREDICTIONS / f"{number + 1}.csv"


def open_given(folders: Sequence[Path], own: Recipes = NONE) -> list[Run]:
    """The runs in the folders; a folder of run folders stands for all of them."""
    return [Run.open(each, own) for folder in folders for each in _run_folders(folder) or [folder]]


def _run_folders(folder: Path) -> list[Path]:
    if is_run(folder) or not folder.is_dir():
        return [folder] if is_run(folder) else []
    inside = sorted(each for each in folder.iterdir() if each.is_dir())
    return inside if all(is_run(each) for each in inside) else []


def pair_given(runs: Sequence[Run]) -> Comparison:
    """Runs that differ in their seed or fold only are one variant; raises RunError where they do not pair.

    A variant is called after the settings in which it differs, in the order in which the runs were given.
    """
    settings = [_compared_settings(run) for run in runs]
    places: dict[str, list[Run]] = {}
    settings_of: dict[str, dict[str, Any]] = {}
    for run, own in zip(runs, settings, strict=True):
        key = repr(own)
        places.setdefault(key, []).append(run)
        settings_of[key] = own
    if len(places) < 2:
        raise RunError(
            "the runs differ in nothing but their seeds: there is nothing to compare",
            remedy="Give runs of two variants or more.",
        )
    differing = _differing(list(settings_of.values()))
    variants: list[Variant] = []
    for key, own_runs in places.items():
        _refuse_twins(own_runs)
        own = {name: _plain(settings_of[key][name]) for name in differing if name in settings_of[key]}
        label = _label(own, own_runs[0], taken=[variant.name for variant in variants])
        in_order = sorted(own_runs, key=lambda run: (run.seed, run.config.split.fold or 0))
        variants.append(Variant(label, own, tuple(in_order)))
    return paired(variants)


def on_other_patches(runs: Sequence[Run], said: Sequence[Predictions]) -> list[Run]:
    """The runs as if they had been validated on the patches that they predicted, which are the same for all.

    Networks of one seed's folds predict together, as they do for a submission: their mean is one run's.
    """
    together: dict[tuple[str, int], list[tuple[Run, Predictions]]] = {}
    for run, predictions in zip(runs, said, strict=True):
        together.setdefault((repr(_compared_settings(run)), run.seed), []).append((run, predictions))
    found = []
    for pairs in together.values():
        _refuse_twins([run for run, _ in pairs])
        mean = average(predictions for _, predictions in pairs)
        found.append(replace(pairs[0][0], elsewhere=mean, scores=scores(mean.labels, mean.probabilities)))
    return found


def _differing(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which runs differ; where the kind of a section does, what only one kind has goes unsaid."""
    in_some = list(dict.fromkeys(chain(*every)))
    # An ensemble says for all its members what each of them sets.
    of_all = set.intersection(*(set(in_some if _MEMBERS in own else own) - ({_MEMBERS} - own.keys()) for own in every))
    values = {key: {repr(own[key]) for own in every if key in own} for key in in_some}
    kinds = {key.rpartition(".")[0] for key in in_some if key in _KINDS and len(values[key]) > 1} | {"ensemble"}
    return [
        key
        for key in in_some
        if len(values[key]) > 1 or (key not in of_all and (key == _MEMBERS or key.rpartition(".")[0] not in kinds))
    ]


def _label(own: Mapping[str, Any], run: Run, taken: Sequence[str]) -> str:
    """A variant's name: its own settings, or, where these are too many for a name, what can be said in short."""
    said = [f"{short_name(name)} {value}" for name, value in own.items()]
    label = ", ".join(said) or "one network"
    if len(label) > _LONGEST:
        label = (
            f"ensemble of {len(run.members)} networks"
            if run.members
            else f"{said[0]} and {len(said) - 1} more settings"
        )
        alike = sum(name.partition(" (")[0] == label for name in taken)
        label += f" ({alike + 1})" if alike else ""
    return label


def clusters_of(comparison: Comparison, slides: Path | None = None) -> tuple[dict[str, str], ClusterKind]:
    """The slides of the validation patches from a table id,slide; else what the best informed of the runs knows.

    Patches whose slide the table does not tell keep the cluster that the runs know. Raises DataError where it tells
    none.
    """
    known, kind = best_known_clusters([run for variant in comparison.variants for run in variant.runs])
    if slides is None:
        return known, kind
    table = read_column_by_id(slides, SLIDE_COLUMNS)
    named = {i: table[i] for i in comparison.ids.tolist() if table.get(i)}
    if not named:
        raise DataError(
            f"has {len(table):,} rows, none with the slide of a validation patch",
            where=slides,
            remedy="Fix its ids, or give the table of these patches.",
        )
    if len(named) == len(comparison.ids):
        return named, "slide"
    return {i: known.get(i, "") for i in comparison.ids.tolist()} | named, _WITH_SLIDES[kind]


def _compared_settings(run: Run) -> dict[str, Any]:
    """The settings but for seed and fold; what an ensemble's members differ in is told in one word for all of them."""
    told = to_flat(run.config).items()
    settings = {key: value for key, value in told if key not in _OF_A_REPEAT and not key.startswith("running.")}
    if run.config.ensemble is None:
        return {key: value for key, value in settings.items() if key != "ensemble"}
    overrides = list(run.config.ensemble.members.values())
    of_all = set.intersection(*map(set, overrides))
    kept = {key: value for key, value in settings.items() if key not in of_all}
    return {**kept, _MEMBERS: _members_in_words(overrides)}


def _members_in_words(overrides: Sequence[Mapping[str, Any]]) -> str:
    """Such as "norm before + 2 × norm after"; "3 seeds" where nothing else differs."""
    told = Counter(
        ", ".join(f"{short_name(key)} {value}" for key, value in sorted(own.items()) if key not in _OF_A_REPEAT)
        for own in overrides
    )
    if set(told) == {""}:
        return f"{len(overrides)} seeds"
    return " + ".join(f"{count} × {each}" if count > 1 else each or "as shared" for each, count in sorted(told.items()))


def _refuse_twins(runs: Sequence[Run]) -> None:
    seen: dict[tuple[int, int | None], Run] = {}
    for run in runs:
        place = (run.seed, run.config.split.fold)
        if place in seen:
            raise RunError(
                f"has the settings, the seed and the fold of {seen[place].folder}",
                where=run.folder,
                remedy="Give one run for each seed and fold.",
            )
        seen[place] = run


def _plain(value: Any) -> Value:
    return "none" if value is None else value
