"""A finished model on patches whose labels are known: each score with its interval, slide by slide, as one record.

scores.json        the record, written last
predictions.csv    id, label, probability
report.html        the page, drawn from the record
pictures/          <id>.png of the worst mistakes, for the page
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Shaped

from sentinode.audit.audit import audit_patches
from sentinode.config.run import DataConfig, RunConfig
from sentinode.data.folder import pack_all, read_images, read_labels
from sentinode.data.patches import UNLABELLED, PatchSet, PatchTable
from sentinode.errors import DataError, RunError
from sentinode.evaluation import metrics as scoring
from sentinode.evaluation.bands import Bands, curve_bands
from sentinode.evaluation.bootstrap import METRICS, Interval, bootstrap
from sentinode.evaluation.clusters import CLUSTER_NAMES, ClusterKind
from sentinode.evaluation.metrics import OwnMetric
from sentinode.evaluation.threshold import PointName
from sentinode.inference.classifier import Classifier
from sentinode.inference.predictions import Predictions
from sentinode.randomness import Purpose
from sentinode.records import Number, read_record
from sentinode.runs.decision import Agreement, Scale
from sentinode.runs.material import Material
from sentinode.runs.run import Run, digest_of
from sentinode.runs.variant import Variant
from sentinode.session import Session
from sentinode.splits.split import unite_groups

SCORES: Final = "scores.json"
PREDICTIONS: Final = "predictions.csv"
BEFORE_SCORES: Final = (PREDICTIONS, "report.html", "pictures")
AT_HALF: Final = ("sensitivity", "specificity")
REPLICATES: Final = 2000
UNKNOWN: Final = "unknown"
"""The name of the slide of patches without one."""
_FEWEST_TO_CLUSTER: Final = 2


@dataclass(frozen=True)
class SeenBefore:
    """How many of the scored patches a model knows; each is counted once, under the first of these that is true."""

    trained: int
    """Patches that it, or one of its networks, was trained on, by their ids."""
    tissue: int
    """Patches that share tissue, or a given group, with one that it was trained on."""
    slide: int
    """Patches of a slide that it was trained on."""
    validated: int
    """Patches of its validation set, on which its epoch, calibration and operating points were chosen."""

    @property
    def flattering(self) -> int:
        """How many were trained on, or share tissue or a slide with what was."""
        return self.trained + self.tissue + self.slide

    @property
    def any(self) -> bool:
        """Whether anything of the training, or of what it chose, rests on these patches."""
        return self.flattering + self.validated > 0

    def in_words(self, patches: int, *, by: str = "") -> list[str]:
        """What it means for scores of so many patches, a sentence each; `by` says who was trained, of several."""
        of = f" of {by}" if by else ""
        chosen = f"are in the validation set{of}, which selected the checkpoint and the thresholds"
        told = [
            (self.trained, f"were in the training set{of}: this score is too good"),
            (self.tissue, f"share tissue with the training set{of}: this score is too good"),
            (self.slide, f"are of slides in the training set{of}: this score is too good"),
            (self.validated, f"{chosen}: this score is slightly too good"),
        ]
        return [f"{count:,} of {patches:,} patches {what}." for count, what in told if count]


@dataclass(frozen=True)
class Intervals:
    """Each score of one prediction with its interval, from so many replicates of so many clusters."""

    scores: dict[str, Interval]
    clusters: int
    cluster_kind: ClusterKind
    replicates: int

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        clusters: Shaped[np.ndarray, " n"],
        kind: ClusterKind,
        rng: np.random.Generator,
        *,
        workers: int = 2,
        own: Mapping[str, OwnMetric] | None = None,
    ) -> Intervals:
        metrics = (*METRICS, *AT_HALF)
        found = bootstrap(
            predictions.labels,
            predictions.probabilities[None, None],
            clusters,
            rng=rng,
            metrics=metrics,
            replicates=REPLICATES,
            workers=workers,
            unit=CLUSTER_NAMES[kind],
            own=own or {},
        )
        scores = {metric: found.interval(0, metric) for metric in found.metrics}
        return cls(scores, found.clusters, kind, REPLICATES - found.left_out)


def validation_intervals(runs: Sequence[Run]) -> Intervals:
    """Of the validation set of a run, or of the mean of a variant's runs; the clusters as they know them.

    Of one run also the scores of its user's own metrics, as it recorded them.
    """
    cluster_of = {patch: cluster for run in runs for patch, cluster in run.clusters_by_id.items()}
    predictions = runs[0].predictions if len(runs) == 1 else Variant("", {}, tuple(runs)).predictions
    clusters = np.array([cluster_of.get(i, "") for i in predictions.ids.tolist()], dtype=str)
    found = Intervals.of(predictions, clusters, runs[0].cluster_kind, Purpose.SCORES.rng(runs[0].seed))
    own = runs[0].record.own_scores if len(runs) == 1 else {}
    scored = {name: Interval(of.value, of.low, of.high, 0.95, reason=of.reason) for name, of in own.items()}
    return replace(found, scores=found.scores | scored)


@dataclass(frozen=True)
class ScoresOfSlide:
    """One slide; NaN where it lacks the class that a score needs. The name "unknown" is of all patches without one."""

    slide: str
    patches: int
    positive: int
    mean_probability: Number
    auc: Number
    accuracy: Number
    """At the threshold 0.5."""


@dataclass(frozen=True)
class PointApplied:
    """An operating point that the validation set chose, and what it gives here."""

    name: PointName
    threshold: float
    called_positive: int
    sensitivity: Interval
    specificity: Interval
    validation_sensitivity: Number
    validation_specificity: Number


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model is worth on labelled patches."""

    model: str
    networks: int
    labels: str
    """The name of the table that the labels are from."""
    note: str
    patches: int
    positive: int
    seen: SeenBefore
    scores: dict[str, Interval]
    """Of the mean probability of the model's networks, at the threshold 0.5 where there is one."""
    clusters: int
    cluster_kind: ClusterKind
    replicates: int
    slides: tuple[ScoresOfSlide, ...]
    """None where no slide is known."""
    points: tuple[PointApplied, ...]
    agreements: dict[Scale, Agreement]
    """Of the raw probabilities, and of those that the validation set's maps calibrate."""
    curves: Bands | None
    """None where the patches have one class."""
    runtimes: tuple[str, ...]
    """What computed the networks, with versions, each once."""
    predictions_sha256: str = ""
    """Of predictions.csv, where it is written beside the record."""

    @property
    def intervals(self) -> Intervals:
        return Intervals(self.scores, self.clusters, self.cluster_kind, self.replicates)

    @property
    def notices(self) -> list[str]:
        """What a reader of the scores has to know first, a sentence each."""
        return [*self.seen.in_words(self.patches), *self.undefined, *self.unknown]

    @property
    def unknown(self) -> list[str]:
        """Why intervals of scores that are defined are unknown; none where all are known."""
        reasons = (found.reason for found in self.scores.values() if not np.isnan(found.estimate))
        return [f"95 % intervals are unknown: {reason}." for reason in dict.fromkeys(reasons) if reason]

    @property
    def undefined(self) -> list[str]:
        """Which scores are undefined, and why; none where both classes are there."""
        if 0 < self.positive < self.patches:
            return []
        *others, last = [_in_words(name) for name, found in self.scores.items() if np.isnan(found.estimate)]
        named = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        return [f"{named} undefined: all {self.patches:,} patches are {'positive' if self.positive else 'negative'}."]


@dataclass(frozen=True, eq=False)
class LabelledPatches:
    """Labelled patches that are to be scored, and what is known of them beside their pixels.

    `everything`: all patches of the folder they are from; `tissue`: the number of the group of each id that shares
    tissue with another, of the scored and of those that the models were trained on.
    """

    patches: PatchSet
    everything: PatchTable
    tissue: Mapping[str, int]
    labels: str
    note: str

    def seen_by(self, runs: Sequence[Run]) -> SeenBefore:
        """How many of the patches the runs know from their training."""
        trained = frozenset[str]().union(*(run.training_ids | run.taught_ids for run in runs))
        validated = frozenset[str]().union(*(run.predictions.ids.tolist() for run in runs))
        ids = self.patches.ids.tolist()
        by_tissue = [
            {i: str(group) for i, group in self.tissue.items()},
            _named(self.everything.groups, self.everything),
        ]
        by_slide = [_named(self.everything.slides, self.everything)]
        for run in runs:
            if run.cluster_kind in ("slide", "patient", "group"):
                (by_slide if run.cluster_kind == "slide" else by_tissue).append(run.clusters_by_id)
        kinds = [
            set(ids) & trained,
            _sharing(ids, trained, by_tissue),
            _sharing(ids, trained, [_joined(by_slide)]),
            set(ids) & validated,
        ]
        counts, known = [], set[str]()
        for members in kinds:
            counts.append(len(members - known))
            known |= members
        return SeenBefore(*counts)


def open_labelled(
    data: Path, labels: Path | None, config: DataConfig, runs: Sequence[Run], session: Session
) -> LabelledPatches:
    """The patches below `data` that a table id,label names, packed; without one, those of its test part.

    They are compared, pixel by pixel, with each other and with those in `data` that the runs were trained on. Slides
    are those that `config` names, or of slides.csv in `data`, else those that a run knows.
    """
    images = read_images(data, part="all" if labels else "test", config=config)
    listing = images.listing
    if labels:
        listing = replace(listing, labels=read_labels(labels, listing.ids))
    first = np.unique(listing.ids, return_index=True)[1]  # an id may stand in both parts: it is scored once
    rows = np.sort(first[listing.labels[first] != UNLABELLED])
    if not len(rows):
        raise DataError("has no labels of its own", where=data, remedy="Give a table id,label with --labels.")
    trained = np.array(sorted(frozenset[str]().union(*(run.training_ids for run in runs))), dtype=str)
    others = np.isin(listing.ids, trained) & ~np.isin(listing.ids, listing.ids[rows])
    taken = np.union1d(rows, np.flatnonzero(others))  # in order, so that the pixels of neighbours are not copied
    together = pack_all(listing, session, rows=taken)
    audit = audit_patches(together, session)
    scored = together.some(np.searchsorted(taken, rows), session.cache_root)
    return LabelledPatches(with_known_slides(scored, runs), listing, audit.groups, (labels or data).name, images.note)


def with_known_slides(patches: PatchSet, runs: Sequence[Run]) -> PatchSet:
    """The same; the slides of those that have none are what the runs know of them."""
    known = _joined([run.clusters_by_id for run in runs if run.cluster_kind == "slide"])
    slides = [slide or known.get(i, "") for i, slide in zip(patches.ids.tolist(), patches.slides.tolist(), strict=True)]
    return replace(patches, slides=np.array(slides, dtype=str))


def cluster(scored: LabelledPatches, config: RunConfig, session: Session) -> tuple[np.ndarray, ClusterKind]:
    """The cluster of each scored patch, "" for one on its own, and what they are: as for a run's validation set."""
    patches = scored.patches
    found = np.array([str(scored.tissue.get(i, "")) for i in patches.ids.tolist()], dtype=str)
    material = Material(patches, unite_groups(patches.groups, found), session=session)
    if len(patches) < _FEWEST_TO_CLUSTER:
        return patches.slides, material.cluster_kind
    by_id = material.clusters_by_id(config)
    return np.array([by_id[i] for i in patches.ids.tolist()], dtype=str), material.cluster_kind


def evaluate(
    classifier: Classifier,
    runs: Sequence[Run],
    predictions: Predictions,
    scored: LabelledPatches,
    session: Session,
    *,
    own: Mapping[str, OwnMetric] | None = None,
) -> Evaluation:
    """Score the predictions that a model, of these runs, made of labelled patches."""
    labels, probabilities = predictions.labels, predictions.probabilities
    clusters, kind = cluster(scored, runs[0].config, session)
    slides = scored.patches.slides
    seed, curves = runs[0].seed, None
    if 0 < int(labels.sum()) < len(labels):
        curves = curve_bands(labels, probabilities[None], clusters, rng=Purpose.CURVES.rng(seed))
    found = Intervals.of(predictions, clusters, kind, Purpose.SCORES.rng(seed), workers=session.workers, own=own)
    return Evaluation(
        model=classifier.name,
        networks=sum(len(run.networks) for run in runs),
        labels=scored.labels,
        note=scored.note,
        patches=len(labels),
        positive=int(labels.sum()),
        seen=scored.seen_by(runs),
        **vars(found),
        slides=_by_slide(predictions, slides) if (slides != "").any() else (),
        points=_applied(classifier, predictions, clusters, Purpose.POINTS.rng(seed), session.workers),
        agreements={
            scale: Agreement.of(labels, values, clusters, Purpose.AGREEMENT.rng(seed))
            for scale, values in _scales(classifier, probabilities).items()
        },
        curves=curves,
        runtimes=classifier.runtimes,
    )


def open_evaluation(folder: Path) -> tuple[Evaluation, Predictions]:
    """What `evaluate` wrote into a folder; raises RunError where a file is missing, damaged or changed."""
    found, path = read_record(folder / SCORES, Evaluation), folder / PREDICTIONS
    if digest_of(path) != found.predictions_sha256:
        raise RunError(
            f"is not the file that {SCORES} was written with", where=path, remedy="Restore it, or evaluate again."
        )
    return found, Predictions.read(path)


def _by_slide(predictions: Predictions, slides: Shaped[np.ndarray, " n"]) -> tuple[ScoresOfSlide, ...]:
    found = []
    for slide in sorted(set(slides.tolist()), key=lambda slide: (not slide, slide)):
        inside = slides == slide
        labels, probabilities = predictions.labels[inside], predictions.probabilities[inside]
        found.append(
            ScoresOfSlide(
                slide or UNKNOWN,
                len(labels),
                int(labels.sum()),
                float(probabilities.mean()),
                scoring.auc(labels, probabilities),
                scoring.accuracy(labels, probabilities),
            )
        )
    return tuple(found)


def _applied(
    classifier: Classifier, predictions: Predictions, clusters: np.ndarray, rng: np.random.Generator, workers: int
) -> tuple[PointApplied, ...]:
    points = classifier.operating_points
    if not points:
        return ()
    # A call is a probability of 0 or 1: sensitivity and specificity at 0.5 are then those of the point.
    called = np.array([predictions.probabilities > point.threshold for point in points.values()], np.float64)
    found = bootstrap(
        predictions.labels,
        called[:, None],
        clusters,
        rng=rng,
        metrics=AT_HALF,
        replicates=REPLICATES,
        workers=workers,
    )
    return tuple(
        PointApplied(
            name,
            point.threshold,
            int(called[row].sum()),
            found.interval(row, "sensitivity"),
            found.interval(row, "specificity"),
            point.sensitivity,
            point.specificity,
        )
        for row, (name, point) in enumerate(points.items())
    )


def _scales(classifier: Classifier, probabilities: np.ndarray) -> dict[Scale, np.ndarray]:
    scales: dict[Scale, np.ndarray] = {"raw": probabilities}
    for method, calibration in classifier.calibrations.items():
        scales[method] = calibration.apply(probabilities)
    return scales


def _in_words(metric: str) -> str:
    return "AUC" if metric == "auc" else metric.replace("_", " ").replace("95", "95 %")


def _named(names: np.ndarray, table: PatchTable) -> dict[str, str]:
    return {i: name for i, name in zip(table.ids.tolist(), names.tolist(), strict=True) if name}


def _joined(named: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {i: name for each in named for i, name in each.items() if name}


def _sharing(ids: Sequence[str], trained: frozenset[str], named: Iterable[Mapping[str, str]]) -> set[str]:
    """The ids that have, in one of the tables, a name that a patch which was trained on has there, too."""
    found: set[str] = set()
    for of in named:
        taught = {name for i, name in of.items() if name and i in trained}
        found |= {i for i in ids if of.get(i) in taught}
    return found
