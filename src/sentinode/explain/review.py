"""What to look at once a study is done: the mistakes, disagreements and doubtful labels, and scores by subgroup.

Every prediction of a variant is of validation patches, by networks that did not train on them: held out, or out
of fold where there are folds. So confident learning may rank them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from sentinode.evaluation.clusters import ClusterKind
from sentinode.evaluation.subgroups import UNKNOWN, scores_by_subgroup
from sentinode.experiments.comparison import Variant
from sentinode.explain.attributes import Parts, parts_of
from sentinode.explain.disagreement import Disagreement, between_models, between_seeds
from sentinode.explain.galleries import Mistake, worst_mistakes
from sentinode.explain.label_errors import Suspect, find_label_errors

THRESHOLD: Final = 0.5
ALONE: Final = "patches on their own"
_SCORES: Final = ("auc", "accuracy", "sensitivity", "specificity")


@dataclass(frozen=True)
class Seen:
    """A patch to look at: `slide` names its slide, stain cluster or group, "" where unknown.

    `probabilities` of tumour: one of the variant's mean, the variant's and its rival's, or one for each seed.
    """

    id: str
    label: int
    slide: str
    probabilities: tuple[float, ...]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Seen:
        return cls(**{**record, "probabilities": tuple(record["probabilities"])})


@dataclass(frozen=True)
class Found:
    """The first patches of a kind, and how many there are in all."""

    total: int
    first: tuple[Seen, ...]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Found:
        return cls(record["total"], tuple(Seen.from_json(entry) for entry in record["first"]))


@dataclass(frozen=True)
class Suspects:
    """Label-error suspects, the most suspect first, with what confident learning found them by.

    `class_thresholds`: the mean probability that patches of class 0 and of class 1 have for their own class.
    `confident_joint[given][counted]`: patches by label and by the class whose threshold they reach.
    """

    found: Found
    class_thresholds: tuple[float, float]
    confident_joint: tuple[tuple[int, int], tuple[int, int]]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Suspects:
        none, tumour = record["confident_joint"]
        low, high = record["class_thresholds"]
        return cls(Found.from_json(record["found"]), (low, high), (tuple(none), tuple(tumour)))


@dataclass(frozen=True)
class SubgroupScores:
    """One subgroup: means over the seeds, at the threshold 0.5; None where a class is absent that the score needs.

    `flag` is "few patches", "one class only", "few of one class" or "".
    """

    subgroup: str
    patches: int
    positive: int
    auc: float | None
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    flag: str


@dataclass(frozen=True)
class Subgroups:
    """Scores by one attribute: from least to most where its values are `ordered`, else the lowest AUC first.

    Flagged lines without an order come last. `lines` is empty where there are more subgroups (`count`) than half
    the patches, for then almost every patch is alone.
    """

    by: str
    ordered: bool
    count: int
    lines: tuple[SubgroupScores, ...]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Subgroups:
        return cls(**{**record, "lines": tuple(SubgroupScores(**line) for line in record["lines"])})


@dataclass(frozen=True)
class Review:
    """Of one variant's validation patches. `mistakes[label]` holds the patches of that label that it got wrong.

    `rival` and `disagreements` are None where there is no other variant, `seed_spread` where there is one seed.
    `few`: a subgroup of fewer patches is flagged.
    """

    variant: str
    rival: str | None
    seeds: tuple[int, ...]
    folds: int
    patches: int
    few: int
    cluster_kind: ClusterKind
    mistakes: tuple[Found, Found]
    disagreements: Found | None
    seed_spread: tuple[Seen, ...] | None
    suspects: Suspects
    subgroups: tuple[Subgroups, ...]

    def ids_to_show(self) -> list[str]:
        """The ids of all patches that need a picture, each once."""
        shown = [
            *self.mistakes[0].first,
            *self.mistakes[1].first,
            *(self.seed_spread or ()),
            *self.suspects.found.first,
        ]
        shown += self.disagreements.first if self.disagreements else ()
        return list(dict.fromkeys(patch.id for patch in shown))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, without NaN."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Review:
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        none, tumour = record["mistakes"]
        disagreements, spread = record["disagreements"], record["seed_spread"]
        read = {
            "seeds": tuple(record["seeds"]),
            "mistakes": (Found.from_json(none), Found.from_json(tumour)),
            "disagreements": None if disagreements is None else Found.from_json(disagreements),
            "seed_spread": None if spread is None else tuple(Seen.from_json(entry) for entry in spread),
            "suspects": Suspects.from_json(record["suspects"]),
            "subgroups": tuple(Subgroups.from_json(entry) for entry in record["subgroups"]),
        }
        return cls(**{**record, **read})


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
