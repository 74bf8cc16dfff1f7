"""What to look at once a study is done: the mistakes, disagreements and doubtful labels, and scores by subgroup.

Every prediction of a variant is of validation patches, by networks that did not train on them: held out, or out
of fold where there are folds. So confident learning may rank them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from sentinode.errors import RunError
from sentinode.evaluation import metrics
from sentinode.evaluation.clusters import ClusterKind
from sentinode.explain.attributes import Subgrouping, parts_of
from sentinode.explain.galleries import worst_mistakes
from sentinode.explain.label_errors import find_label_errors
from sentinode.inference.predictions import Predictions
from sentinode.runs.evaluate import UNKNOWN
from sentinode.runs.variant import Variant
from sentinode.studies.review_record import Found, Review, Seen, Subgroups, SubgroupScores, Suspects

ALONE: Final = "patches on their own"


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

    def seen(rows: Int[np.ndarray, " k"], *by: Predictions) -> tuple[Seen, ...]:
        """The patches of some rows, with the probability in each of the predictions; the first `count`."""
        return tuple(
            Seen(i, int(mean.labels[row]), clusters.get(i, ""), tuple(float(said.probabilities[row]) for said in by))
            for row, i in zip(rows[:count], mean.ids[rows[:count]].tolist(), strict=True)
        )

    def found(rows: Int[np.ndarray, " k"], *by: Predictions) -> Found:
        return Found(len(rows), seen(rows, *by))

    false_positives, false_negatives = worst_mistakes(mean)
    doubtful = find_label_errors(mean)
    (none_none, none_tumour), (tumour_none, tumour_tumour) = doubtful.confident_joint.tolist()
    # A patch without a slide is of an unknown one; a patch without a group shares no tissue with any other.
    unnamed = "" if cluster_kind == "slide" else ALONE
    of_clusters = np.array([clusters.get(i, "") or unnamed for i in mean.ids.tolist()])
    parts: list[tuple[str, Subgrouping]] = [(cluster_kind, Subgrouping(of_clusters, None))]
    if attributes is not None:
        parts += [(str(name), parts_of(values)) for name, values in attributes.loc[mean.ids].items()]
    return Review(
        variant=chosen.name,
        rival=None if rival is None else rival.name,
        seeds=tuple(repeat.seed for repeat in chosen.repeats),
        folds=len(chosen.repeats[0].runs),
        patches=len(mean),
        few=few,
        cluster_kind=cluster_kind,
        mistakes=(found(false_positives, mean), found(false_negatives, mean)),
        disagreements=None
        if rival is None
        else found(between_models(mean, rival.predictions), mean, rival.predictions),
        seed_spread=seen(between_seeds(members), *members) if len(members) > 1 else None,
        suspects=Suspects(
            found(doubtful.suspects, mean),
            doubtful.class_thresholds,
            ((none_none, none_tumour), (tumour_none, tumour_tumour)),
        ),
        subgroups=tuple(subgroups(members, by, of, few=few) for by, of in parts),
    )


def subgroups(members: Sequence[Predictions], by: str, parts: Subgrouping, *, few: int = 50) -> Subgroups:
    """Scores of each part of a variant's validation patches: the mean of the scores under each seed."""
    count = len(np.unique(parts.names[parts.names != ALONE])) + int(np.sum(parts.names == ALONE))
    if count > len(parts.names) / 2:
        return Subgroups(by, parts.order is not None, count, ())
    lines = []
    for name in np.unique(parts.names):
        inside = parts.names == name
        labels = members[0].labels[inside]
        means = np.mean([_scores(labels, said.probabilities[inside]) for said in members], axis=0).tolist()
        auc, accuracy, sensitivity, specificity = (score if np.isfinite(score) else None for score in means)
        scores = (auc, accuracy, sensitivity, specificity, _flag(labels, few))
        lines.append(SubgroupScores(str(name) or UNKNOWN, len(labels), int(np.sum(labels == 1)), *scores))
    return Subgroups(by, parts.order is not None, count, tuple(_in_order(lines, parts.order)))


def _scores(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> list[float]:
    at_half = metrics.confusion(labels, probabilities)
    return [
        metrics.auc(labels, probabilities),
        metrics.accuracy(labels, probabilities),
        at_half.sensitivity,
        at_half.specificity,
    ]


def _flag(labels: Int[np.ndarray, " n"], few: int) -> str:
    """Why a line bears no conclusion; "" where it may."""
    fewer = min(int(np.sum(labels == label)) for label in (0, 1))
    if len(labels) < few:
        return "few patches"
    return "one class only" if not fewer else "few of one class" if fewer < few / 5 else ""


def _in_order(lines: list[SubgroupScores], order: tuple[str, ...] | None) -> list[SubgroupScores]:
    if order is None:
        judged = sorted((line for line in lines if not line.flag), key=lambda line: line.auc or 0.0)
        return judged + sorted((line for line in lines if line.flag), key=lambda line: -line.patches)
    place = {name: at for at, name in enumerate([*order, UNKNOWN])}
    return sorted(lines, key=lambda line: place[line.subgroup])


def between_models(a: Predictions, b: Predictions) -> Int[np.ndarray, " k"]:
    """The rows of the patches on opposite sides of 0.5, the largest difference first.

    Raises RunError where the two are predictions of different patches, as `between_seeds` does.
    """
    one, other = _side_by_side([a, b])
    return _largest(np.abs(one - other), (one > 0.5) != (other > 0.5))


def between_seeds(members: Sequence[Predictions]) -> Int[np.ndarray, " k"]:
    """The rows of the patches on which at least two seeds differ, the largest standard deviation first."""
    probabilities = _side_by_side(members)
    return _largest(probabilities.std(axis=0), probabilities.min(axis=0) < probabilities.max(axis=0))


def _side_by_side(members: Sequence[Predictions]) -> Float[np.ndarray, "m n"]:
    if any(not np.array_equal(members[0].ids, other.ids) for other in members[1:]):
        raise RunError("predictions of different patches cannot be compared", remedy="Predict the same folder.")
    return np.stack([member.probabilities for member in members])


def _largest(spread: Float[np.ndarray, " n"], candidates: np.ndarray) -> Int[np.ndarray, " k"]:
    rows = np.flatnonzero(candidates)
    return np.asarray(rows[np.argsort(-spread[rows], kind="stable")])
