"""What to look at once a study is done: the mistakes, disagreements and doubtful labels, and scores by subgroup.

Every prediction of a variant is of validation patches, by networks that did not train on them: held out, or out
of fold where there are folds. So confident learning may rank them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from sentinode.errors import RunError
from sentinode.evaluation.clusters import ClusterKind
from sentinode.evaluation.subgroups import UNKNOWN, scores_by_subgroup
from sentinode.explain.attributes import Parts, parts_of
from sentinode.explain.galleries import Mistake, worst_mistakes
from sentinode.explain.label_errors import Suspect, find_label_errors
from sentinode.inference.predictions import Predictions
from sentinode.runs.variant import Variant
from sentinode.studies.review_record import Found, Review, Seen, Subgroups, SubgroupScores, Suspects

THRESHOLD: Final = 0.5
ALONE: Final = "patches on their own"
_SCORES: Final = ("auc", "accuracy", "sensitivity", "specificity")


def review(
    chosen: Variant,
    rival: Variant | None,
    clusters: Mapping[str, str],
    attributes: pd.DataFrame | None = None,
    *,
    cluster_kind: ClusterKind = "slide",
    count: int = 12,
    few: int = 50,
) -> Review:
    """Look through the validation predictions of `chosen`, their mean over seeds where no seed is named.

    `clusters`: slide, stain cluster or group by id, "" or absent where unknown. `attributes`: a line for each
    validation patch, indexed by id, a column for each further table of subgroups. Up to `count` patches of a kind
    are kept; a subgroup of fewer than `few` patches is flagged. Raises RunError where `rival` was validated on
    other patches, DataError where the validation patches are of one class.
    """
    mean, members = chosen.predictions, [repeat.predictions for repeat in chosen.repeats]

    def first_of(found: Iterable[Mistake | Suspect | Disagreement]) -> Found:
        seen = [_seen(entry, clusters) for entry in found]
        return Found(len(seen), tuple(seen[:count]))

    wrong = worst_mistakes(mean, len(mean), threshold=THRESHOLD)
    spread = between_seeds(members, count) if len(members) > 1 else None
    doubtful = find_label_errors(mean)
    (none_none, none_tumour), (tumour_none, tumour_tumour) = doubtful.confident_joint.tolist()
    return Review(
        variant=chosen.name,
        rival=None if rival is None else rival.name,
        seeds=tuple(repeat.seed for repeat in chosen.repeats),
        folds=len(chosen.repeats[0].runs),
        patches=len(mean),
        few=few,
        cluster_kind=cluster_kind,
        mistakes=(first_of(wrong[0]), first_of(wrong[1])),
        disagreements=None if rival is None else first_of(between_models(mean, rival.predictions, len(mean))),
        seed_spread=None if spread is None else tuple(_seen(entry, clusters) for entry in spread),
        suspects=Suspects(
            first_of(doubtful.suspects),
            doubtful.class_thresholds,
            ((none_none, none_tumour), (tumour_none, tumour_tumour)),
        ),
        subgroups=(
            subgroups(chosen, cluster_kind, _cluster_parts(mean.ids, clusters, cluster_kind), few=few),
            *_by_attribute(chosen, attributes, few),
        ),
    )


def subgroups(variant: Variant, by: str, parts: Parts, *, few: int = 50) -> Subgroups:
    """Scores of each part of a variant's validation patches: the mean of the scores under each seed."""
    count = len(np.unique(parts.names[parts.names != ALONE])) + int(np.sum(parts.names == ALONE))
    if count > len(parts.names) / 2:
        return Subgroups(by, parts.order is not None, count, ())
    tables = [
        scores_by_subgroup(said.labels, said.probabilities, parts.names, threshold=THRESHOLD, few=few)
        for said in (repeat.predictions for repeat in variant.repeats)
    ]
    means = np.mean([table[list(_SCORES)].to_numpy(dtype=np.float64) for table in tables], axis=0)
    lines = [
        SubgroupScores(
            subgroup=str(row["subgroup"]),
            patches=int(row["patches"]),
            positive=int(row["positive"]),
            flag=str(row["flag"]),
            **{name: float(score) if np.isfinite(score) else None for name, score in zip(_SCORES, scores, strict=True)},
        )
        for row, scores in zip(tables[0].to_dict("records"), means, strict=True)
    ]
    return Subgroups(by, parts.order is not None, count, tuple(_in_order(lines, parts.order)))


def _in_order(lines: list[SubgroupScores], order: tuple[str, ...] | None) -> list[SubgroupScores]:
    if order is None:
        judged = sorted((line for line in lines if not line.flag), key=lambda line: line.auc or 0.0)
        return judged + sorted((line for line in lines if line.flag), key=lambda line: -line.patches)
    place = {name: at for at, name in enumerate([*order, UNKNOWN])}
    return sorted(lines, key=lambda line: place[line.subgroup])


def _by_attribute(variant: Variant, attributes: pd.DataFrame | None, few: int) -> list[Subgroups]:
    if attributes is None:
        return []
    of_patches = attributes.loc[variant.predictions.ids]
    return [subgroups(variant, str(name), parts_of(of_patches[name]), few=few) for name in of_patches.columns]


def _cluster_parts(ids: Shaped[np.ndarray, " n"], clusters: Mapping[str, str], kind: ClusterKind) -> Parts:
    """A patch without a slide is of an unknown one; a patch without a group shares no tissue with any other."""
    return Parts(np.array([clusters.get(i, "") or ("" if kind == "slide" else ALONE) for i in ids.tolist()]), None)


def _seen(entry: Mistake | Suspect | Disagreement, clusters: Mapping[str, str]) -> Seen:
    probabilities = entry.probabilities if isinstance(entry, Disagreement) else (entry.probability,)
    return Seen(entry.id, entry.label, clusters.get(entry.id, ""), probabilities)


@dataclass(frozen=True)
class Disagreement:
    """A patch and what each member said of it, in the order of the members.

    `spread` is the difference of two models' probabilities, or the standard deviation over seeds
    (that of these seeds, divided by their number).
    """

    id: str
    label: int
    probabilities: tuple[float, ...]
    spread: float


def between_models(a: Predictions, b: Predictions, count: int) -> list[Disagreement]:
    """Up to `count` patches on opposite sides of 0.5, the largest difference first.

    Raises RunError where the two are predictions of different patches, as `between_seeds` does.
    """
    probabilities = _side_by_side([a, b])
    said = probabilities > 0.5
    return _largest(a, probabilities, np.abs(probabilities[0] - probabilities[1]), count, said[0] != said[1])


def between_seeds(members: Sequence[Predictions], count: int) -> list[Disagreement]:
    """Up to `count` patches on which at least two seeds differ, the largest standard deviation first."""
    if len(members) < 2:
        raise RunError("one seed cannot disagree with itself", remedy="Train at least two seeds.")
    probabilities = _side_by_side(members)
    return _largest(
        members[0],
        probabilities,
        probabilities.std(axis=0),
        count,
        probabilities.min(axis=0) < probabilities.max(axis=0),
    )


def _side_by_side(members: Sequence[Predictions]) -> Float[np.ndarray, "m n"]:
    if any(not np.array_equal(members[0].ids, other.ids) for other in members[1:]):
        raise RunError("predictions of different patches cannot be compared", remedy="Predict the same folder.")
    return np.stack([member.probabilities for member in members])


def _largest(
    patches: Predictions,
    probabilities: Float[np.ndarray, "m n"],
    spread: Float[np.ndarray, " n"],
    count: int,
    candidates: np.ndarray,
) -> list[Disagreement]:
    rows: Int[np.ndarray, " k"] = np.flatnonzero(candidates)
    rows = rows[np.argsort(-spread[rows], kind="stable")[:count]]
    return [
        Disagreement(
            str(patches.ids[row]), int(patches.labels[row]), tuple(probabilities[:, row].tolist()), float(spread[row])
        )
        for row in rows
    ]
