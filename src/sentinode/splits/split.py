"""Balance, sample and split: which patches train, which validate, and which were left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from sentinode.config.run import BalanceConfig, DrawnSplit, FileSplit, SampleConfig, SplitConfig
from sentinode.data.patches import PatchTable
from sentinode.errors import SplitError
from sentinode.splits.allocation import NOTED_MISS, assign_units, is_searched, units_by_class

Basis = Literal["slide", "patient", "slide+group", "group", "random", "file"]
"""What is kept in one set: "slide+group" is slides where they are known, and for the rest groups that share tissue."""
TRAINING, VALIDATION = "training", "validation"
_IN_WORDS: Final[dict[Basis, str]] = {
    "slide": "by slide: no slide is in both sets",
    "patient": "by patient: no patient is in both sets",
    "slide+group": (
        "by slide where it is known: no such slide is in both sets; the other patches by group: those that share "
        "tissue stay together, but some patches of one slide may be in both sets"
    ),
    "group": (
        "by group: patches that share tissue stay together, but patches of one slide may be in both sets and scores "
        "may be too good"
    ),
    "random": (
        "random: slides are ignored; patches of one slide, some overlapping, are in both sets, and scores are too good"
    ),
    "file": "as given in a file; whether slides are kept apart depends on the file",
}


_UNIT_NAMES: Final[dict[Basis, str]] = {
    "slide": "slide",
    "patient": "patient",
    "slide+group": "slide",
    "group": "group",
    "random": "patch",
}


@dataclass(frozen=True, eq=False)
class Split:
    """Ids of both sets, in a fixed order, and what they do not share.

    `basis` says what was kept in one set: slides, patients, slides where they are known and groups for the rest,
    groups (given ones and overlaps), nothing ("random": patches of one slide stand in both sets,
    and scores are too good), or what a file said.
    """

    training: Shaped[np.ndarray, " t"]
    validation: Shaped[np.ndarray, " v"]
    basis: Basis
    left_out: dict[str, int] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def describe(self) -> str:
        return _IN_WORDS[self.basis]

    def to_csv(self, *, labels: Mapping[str, int], clusters: Mapping[str, str]) -> str:
        """Both sets as a table id,label,side,cluster, first training, then validation.

        A cluster is the slide, or what stands in for it, within which patches are not independent; "" for a
        patch on its own.
        """
        import pandas as pd

        ids = np.concatenate([self.training, self.validation]).tolist()
        table = pd.DataFrame(
            {
                "id": ids,
                "label": [labels[i] for i in ids],
                "side": [TRAINING] * len(self.training) + [VALIDATION] * len(self.validation),
                "cluster": [clusters[i] for i in ids],
            }
        )
        return str(table.to_csv(index=False, lineterminator="\n"))


def make_split(
    candidates: PatchTable,
    balance: BalanceConfig | None,
    sample: SampleConfig | None,
    split: SplitConfig,
    *,
    patients_known: bool = False,
) -> Split:
    """Drop negatives, sample each class, and split; raises SplitError where the data cannot give it.

    The candidates are labelled; their groups unite those given and the overlaps found. With `patients_known` every
    group is a patient's.
    """
    left_out: dict[str, int] = {}
    notices: list[str] = []
    basis = choose_basis(candidates, split, patients_known=patients_known)
    unit_of = dict(zip(candidates.ids.tolist(), units_of(candidates, basis).tolist(), strict=True))
    kept = candidates.rows(drop_negatives(candidates.labels, balance))
    if len(kept.ids) < len(candidates.ids):
        left_out["balance: negatives dropped"] = len(candidates.ids) - len(kept.ids)
    sampled = kept.rows(sample_classes(kept.labels, sample, "per_class", notices))
    if len(sampled.ids) < len(kept.ids):
        left_out["sample: not selected"] = len(kept.ids) - len(sampled.ids)
    if isinstance(split, FileSplit):
        on_validation, named = _sets_of_file(split.file, sampled.ids)
        if not named.all():
            left_out["split: not in the file"] = int((~named).sum())
            sampled, on_validation = sampled.rows(named), on_validation[named]
    else:
        names = np.array([unit_of[i] for i in sampled.ids.tolist()], dtype=str)
        _, units = np.unique(names, return_inverse=True)
        units = np.where(names == "", units.max() + 1 + np.arange(len(names)), units)  # a patch alone is a unit
        on_validation = _draw_validation(sampled.labels, units, split)
        notices += _alone(sampled, names, basis)
        share = float(on_validation.mean())
        if abs(share - split.validation_share) > NOTED_MISS:
            proven = split.folds is None and is_searched(len(np.unique(units)), 2)
            notices.append(
                f"a validation share of {split.validation_share:.2g} became {share:.2f}: a {_UNIT_NAMES[basis]} is "
                f"never divided{', and no other choice comes nearer' if proven else ''}"
            )
    notices += _cut_slides(sampled.slides, on_validation)
    for name, members in ((TRAINING, ~on_validation), (VALIDATION, on_validation)):
        classes = np.unique(sampled.labels[members])
        if len(classes) < 2:
            have = "no patch" if not members.any() else f"only the class {classes[0]}"
            if isinstance(split, FileSplit):
                raise SplitError(f"the {name} set has {have}", where=split.file, remedy="Fix the table.")
            raise SplitError(
                f"the {name} set has {have} (split by {basis}): {_why_none(sampled.labels, units, basis, split)}",
                remedy="Give more patches or slides, fewer folds, or another sample.",
            )
    training = sampled.rows(~on_validation)
    labelled = sample_classes(training.labels, sample, "training_per_class", notices)
    if len(labelled) < len(training):
        left_out["sample: training labels not used"] = len(training) - len(labelled)
    return Split(training.ids[labelled], sampled.ids[on_validation], basis, left_out, tuple(notices))


def _why_none(labels: Int[np.ndarray, " n"], units: Int[np.ndarray, " n"], basis: Basis, config: DrawnSplit) -> str:
    """Why no split of these units has both classes in every set: what `Units.most_parts` proves."""
    found, unit = units_by_class(labels, units), _UNIT_NAMES[basis]
    sets = "training and validation" if config.folds is None else f"{config.folds} folds"
    return (
        f"of the {unit}s {found.both:,} hold both classes, {found.negative:,} negative and {found.positive:,} positive "
        f"patches only, so no choice gives both classes to {sets}"
    )


def _draw_validation(
    labels: Int[np.ndarray, " n"], units: Int[np.ndarray, " n"], config: DrawnSplit
) -> Bool[np.ndarray, " n"]:
    """Which patches validate; no unit is cut."""
    rng = np.random.default_rng(config.seed)
    if config.folds is None:
        shares = np.array([1.0 - config.validation_share, config.validation_share])
        return np.asarray(assign_units(labels, units, shares, rng) == 1)
    if config.fold is None:
        raise SplitError(
            f"{config.folds} folds give {config.folds} splits, and none of them was selected",
            remedy="Set split.fold for a single run, or use `compare`, which runs all folds.",
        )
    return np.asarray(assign_units(labels, units, np.full(config.folds, 1.0 / config.folds), rng) == config.fold - 1)


def _alone(patches: PatchTable, units: Shaped[np.ndarray, " n"], basis: Basis) -> list[str]:
    """What is to be said of patches that are on no known slide and share tissue with no other."""
    alone = int((units == "").sum())
    if basis != "slide+group" or not alone:
        return []
    unknown = int((patches.slides == "").sum())
    return [
        f"the slide of {unknown:,} of {len(patches):,} patches is not known; {alone:,} of them share tissue with no "
        "other and were split one by one"
    ]


def _cut_slides(slides: Shaped[np.ndarray, " n"], on_validation: Bool[np.ndarray, " n"]) -> list[str]:
    known = slides != ""
    cut = np.intersect1d(slides[known & on_validation], slides[known & ~on_validation])
    if not len(cut):
        return []
    of = len(np.unique(slides[known]))
    return [f"{len(cut):,} of {of:,} known slides are in both sets: scores may be too good"]


def drop_negatives(labels: Int[np.ndarray, " n"], config: BalanceConfig | None) -> Int[np.ndarray, " k"]:
    """Rows left when a share of the negatives, drawn at random, is dropped; all without settings for it."""
    if config is None:
        return np.arange(len(labels))
    negatives = np.flatnonzero(labels == 0)
    rng = np.random.default_rng(config.seed)
    dropped = rng.choice(negatives, round(len(negatives) * config.drop_negative_fraction), replace=False)
    return np.setdiff1d(np.arange(len(labels)), dropped)


def sample_classes(
    labels: Int[np.ndarray, " n"],
    config: SampleConfig | None,
    setting: Literal["per_class", "training_per_class"],
    notices: list[str],
) -> Int[np.ndarray, " k"]:
    """Rows of as many patches of each class as a setting says, clipped to the smaller class, with a notice."""
    per_class = None if config is None else getattr(config, setting)
    if config is None or per_class is None:
        return np.arange(len(labels))
    counts = {label: int((labels == label).sum()) for label in (0, 1)}
    smaller = min(counts.values())
    if smaller < per_class:
        notices.append(
            f"sample.{setting} {per_class:,} clipped to {smaller:,}: there are {counts[0]:,} negative and "
            f"{counts[1]:,} positive patches"
        )
    rng = np.random.default_rng(config.seed)
    take = min(smaller, per_class)
    return np.sort(
        np.concatenate([rng.choice(np.flatnonzero(labels == label), take, replace=False) for label in (0, 1)])
    )


def choose_basis(candidates: PatchTable, config: SplitConfig, *, patients_known: bool = False) -> Basis:
    """What a split keeps in one set; raises SplitError for slides that are asked for but not known."""
    unknown = int((candidates.slides == "").sum())
    match config.by:
        case "auto" if patients_known:
            return "patient"
        case "auto":
            return "slide" if not unknown else "slide+group" if unknown < len(candidates) else "group"
        case "slide" if unknown:
            raise SplitError(
                f"the slide of {unknown} of {len(candidates.ids)} patches is not known",
                remedy="Give a table id,slide with --slides, or set split.by to 'group' or 'auto'.",
            )
        case "group" if patients_known:
            return "patient"
        case basis:
            return basis


def units_of(candidates: PatchTable, basis: Basis) -> Shaped[np.ndarray, " n"]:
    """Name the unit of each patch that a split keeps whole, "" for a patch that is a unit of its own."""
    match basis:
        case "slide":
            return candidates.slides
        case "group" | "patient":
            return candidates.groups
        case "slide+group":
            slides, groups = reached_slides(candidates.slides, candidates.groups), candidates.groups
            rest = np.where(groups != "", np.char.add("group ", groups), "")
            return np.where(slides != "", np.char.add("slide ", slides), rest)
        case "random" | "file":
            return np.full(len(candidates), "", dtype=str)


def reached_slides(slides: Shaped[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """The slides, and for patches without one the slide with which their group shares tissue; "" where there is none.

    Of several slides it is the one that most patches of the group are on, of equals the first by name.
    """
    import pandas as pd

    known = pd.DataFrame({"group": groups, "slide": slides})[(groups != "") & (slides != "")]
    counts = known.value_counts(sort=False).reset_index(name="patches").sort_values(["group", "slide"])
    most = counts.sort_values("patches", ascending=False, kind="stable").drop_duplicates("group")
    slide_of = dict(zip(most["group"].tolist(), most["slide"].tolist(), strict=True))
    pairs = zip(slides.tolist(), groups.tolist(), strict=True)
    return np.array([slide or slide_of.get(group, "") for slide, group in pairs], dtype=str)


def unite_groups(*groupings: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Join several groupings of the same patches: who shares a group in any of them shares one here.

    Groups are named after their first patch's row; "" stays "" where no grouping says anything.
    """
    count = len(groupings[0])
    parent = np.arange(count)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for names in groupings:
        first: dict[str, int] = {}
        for row, name in enumerate(names.tolist()):
            if name != "":
                parent[root(row)] = root(first.setdefault(name, row))
    named = np.any(np.stack([names != "" for names in groupings]), axis=0)
    lowest: dict[int, int] = {}
    return np.array([f"g{lowest.setdefault(root(row), row)}" if named[row] else "" for row in range(count)], dtype=str)


def _sets_of_file(path: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sentinode.data.tables import columns_of, read_table

    table = read_table(path, purpose="id,side with side training or validation")
    if not {"id", "side"} <= set(table.columns):
        raise SplitError(
            f"has the columns {columns_of(table)}",
            where=path,
            remedy="It must have the columns id,side.",
        )
    _refuse(
        path,
        table.loc[~table["side"].isin([TRAINING, VALIDATION]), "side"],
        "values of side are neither training nor validation",
    )
    _refuse(path, table.loc[table["id"].duplicated(), "id"], "duplicate ids")
    side = dict(zip(table["id"].tolist(), table["side"].tolist(), strict=True))
    return (
        np.array([side.get(i) == VALIDATION for i in ids.tolist()]),
        np.array([i in side for i in ids.tolist()]),
    )


def _refuse(path: Path, wrong: Iterable[str], what: str) -> None:
    values = list(wrong)
    if values:
        raise SplitError(f"{len(values)} {what} (first: {values[0]!r})", where=path, remedy="Fix the table.")
