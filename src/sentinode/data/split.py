"""Balance, sample and split: which patches train, which validate, and which were left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from sentinode.config import BalanceConfig, DrawnSplit, FileSplit, SampleConfig, SplitConfig
from sentinode.data.artefacts import write_atomically
from sentinode.data.parts import assign_units
from sentinode.data.patches import PatchTable
from sentinode.data.tables import columns_of, read_table
from sentinode.errors import SplitError

Basis = Literal["slide", "group", "stain", "random", "file"]
TRAINING, VALIDATION = "training", "validation"
_NOTED_MISS = 0.05  # of all patches


@dataclass(frozen=True, eq=False)
class Split:
    """Ids of both sides, in a fixed order, and what the sides do not share.

    `basis` says what was kept on one side: slides, groups (given ones and overlaps), clusters of stain, nothing
    ("random": patches of one slide stand on both sides, and scores are too good), or what a file said.
    """

    training: Shaped[np.ndarray, " t"]
    validation: Shaped[np.ndarray, " v"]
    basis: Basis
    left_out: dict[str, int] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def describe(self) -> str:
        match self.basis:
            case "slide":
                return "by slide: no slide has patches on both sides"
            case "group":
                return (
                    "by group: patches that share tissue stay together; slides are not known, so patches of one "
                    "slide may stand on both sides and scores may be too good"
                )
            case "stain":
                return (
                    "by clusters of stain and texture, a stand-in for slides: most patches of a slide stay together, "
                    "and all that share tissue; scores may still be too good"
                )
            case "random":
                return (
                    "random: IGNORES SLIDES; patches of one slide, some overlapping, stand on both sides and "
                    "scores are too good"
                )
            case "file":
                return "as given in a file; what it keeps apart is the file's own affair"

    def write(self, path: Path, *, labels: Mapping[str, int], clusters: Mapping[str, str]) -> None:
        """Save as a table id,label,side,cluster, first training, then validation.

        A cluster is the slide, or what stands in for it, within which patches are not independent; "" for a
        patch on its own.
        """
        ids = np.concatenate([self.training, self.validation])
        sides = [TRAINING] * len(self.training) + [VALIDATION] * len(self.validation)
        table = pd.DataFrame(
            {
                "id": ids,
                "label": [labels[i] for i in ids.tolist()],
                "side": sides,
                "cluster": [clusters[i] for i in ids.tolist()],
            }
        )
        write_atomically(path, lambda file: table.to_csv(file, index=False))


def make_split(
    candidates: PatchTable, balance: BalanceConfig | None, sample: SampleConfig | None, split: SplitConfig
) -> Split:
    """Drop negatives, sample each class, and split; raises SplitError where the data cannot give it.

    The candidates are labelled; their groups unite those given and the overlaps found, or, to split by
    stain, are the clusters that stand in for slides.
    """
    left_out: dict[str, int] = {}
    notices: list[str] = []
    kept = candidates.rows(drop_negatives(candidates.labels, balance))
    if len(kept.ids) < len(candidates.ids):
        left_out["balance: negatives dropped"] = len(candidates.ids) - len(kept.ids)
    sampled = kept.rows(sample_classes(kept.labels, sample, "per_class", notices))
    if len(sampled.ids) < len(kept.ids):
        left_out["sample: not drawn"] = len(kept.ids) - len(sampled.ids)
    basis = choose_basis(sampled, split)
    if isinstance(split, FileSplit):
        on_validation, named = _sides_of_file(split.file, sampled.ids)
        if not named.all():
            left_out["split: not in the file"] = int((~named).sum())
            sampled, on_validation = sampled.rows(named), on_validation[named]
    else:
        on_validation = _draw_validation(sampled, basis, split)
        share = float(on_validation.mean())
        if abs(share - split.validation_share) > _NOTED_MISS:
            unit = "stain cluster" if basis == "stain" else basis
            notices.append(
                f"a validation share of {split.validation_share:.2g} became {share:.2f}: a {unit} cannot be cut, and "
                "no other choice comes nearer"
            )
    for side, members in ((TRAINING, ~on_validation), (VALIDATION, on_validation)):
        classes = np.unique(sampled.labels[members])
        if len(classes) < 2:
            have = "no patch" if not members.any() else f"only the class {classes[0]}"
            raise SplitError(
                f"the {side} side has {have} (split by {basis})",
                remedy="Give more patches or slides, or another split.validation_fraction or split.seed.",
            )
    training = sampled.rows(~on_validation)
    labelled = sample_classes(training.labels, sample, "training_per_class", notices)
    if len(labelled) < len(training):
        left_out["sample: labels that training may not use"] = len(training) - len(labelled)
    return Split(training.ids[labelled], sampled.ids[on_validation], basis, left_out, tuple(notices))


def _draw_validation(patches: PatchTable, basis: Basis, config: DrawnSplit) -> Bool[np.ndarray, " n"]:
    rng = np.random.default_rng(config.seed)
    units = np.arange(len(patches)) if basis == "random" else _units(patches, basis)
    if config.folds is None:
        shares = np.array([1.0 - config.validation_share, config.validation_share])
        return np.asarray(assign_units(patches.labels, units, shares, rng) == 1)
    if config.fold is None:
        raise SplitError(
            f"{config.folds} folds give {config.folds} splits, and none of them was chosen",
            remedy="Set split.fold for a single run, or use `compare`, which runs all folds.",
        )
    return np.asarray(
        assign_units(patches.labels, units, np.full(config.folds, 1.0 / config.folds), rng) == config.fold - 1
    )


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


def choose_basis(candidates: PatchTable, config: SplitConfig) -> Basis:
    match config.by:
        case "auto":
            return "slide" if candidates.slides_known else "group"
        case "slide" if not candidates.slides_known:
            unknown = int((candidates.slides == "").sum())
            raise SplitError(
                f"the slide of {unknown} of {len(candidates.ids)} patches is not known",
                remedy="Give a table id,slide with --slides, or set split.by to 'group', 'stain' or 'auto'.",
            )
        case basis:
            return basis


def _units(candidates: PatchTable, basis: Basis) -> Int[np.ndarray, " n"]:
    names = candidates.slides if basis == "slide" else candidates.groups
    _, units = np.unique(names, return_inverse=True)
    alone = names == ""
    return np.where(alone, units.max() + 1 + np.arange(len(names)), units)


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


def _sides_of_file(path: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
        "sides are neither training nor validation",
    )
    _refuse(path, table.loc[table["id"].duplicated(), "id"], "ids stand twice")
    side = dict(zip(table["id"].tolist(), table["side"].tolist(), strict=True))
    return (
        np.array([side.get(i) == VALIDATION for i in ids.tolist()]),
        np.array([i in side for i in ids.tolist()]),
    )


def _refuse(path: Path, wrong: Iterable[str], what: str) -> None:
    values = list(wrong)
    if values:
        raise SplitError(f"{len(values)} {what} (first: {values[0]!r})", where=path, remedy="Mend the table.")
