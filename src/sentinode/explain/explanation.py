"""What a finished model looks at in some patches, as one record, and the pictures that may be shown of it.

explanation.json   the record, written last
patches.csv        id, label, slide, logit, and of each method the share of its map within the centre
pictures/          <id>.png of the patches on the page; <id>.<method>.png of the methods that passed their exam
report.html        the page, drawn from the record
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from sentinode.artefacts import write_text
from sentinode.audit.concepts import concepts
from sentinode.config.run import TimmModel
from sentinode.data.patches import UNLABELLED, PatchSet
from sentinode.errors import ConfigError, DataError
from sentinode.evaluation.calibration import probabilities_of
from sentinode.evaluation.clusters import CLUSTER_NAMES, ClusterKind
from sentinode.evaluation.verdict import Verdict
from sentinode.explain.concepts import ConceptReport, concept_report
from sentinode.explain.exam import PATCHES as EXAMINED
from sentinode.explain.exam import Exam, examine
from sentinode.explain.galleries import worst_mistakes, write_maps, write_pictures
from sentinode.explain.look import LooksAt, look, looks_of, swapped_pairs, verdicts
from sentinode.inference.attribution import METHODS, ExplainedLogit, Maps, Method, attribute
from sentinode.inference.predictions import Predictions
from sentinode.progress import of_step
from sentinode.randomness import Purpose
from sentinode.records import Number
from sentinode.runs.load import classifier_of, digest_of_model
from sentinode.runs.variant import Variant
from sentinode.session import Session

EXPLANATION: Final = "explanation.json"
PATCHES: Final = "patches.csv"
BEFORE_EXPLANATION: Final = (PATCHES, "report.html", "pictures")
_IN_A_STUDY: Final = 256  # patches, of which half as many as sit an exam elsewhere sit it here
_IN_A_STUDY_IF_SLOW: Final = 128  # of backbones and ensembles; a quarter sit it
SHOWN: Final = 24
"""So many patches are on the page, at most."""


@dataclass(frozen=True)
class ShownPatch:
    """A patch on the page."""

    id: str
    label: int | None
    slide: str
    """Or what stands in for it; "" for a patch on its own."""
    logit: float
    shares: dict[str, Number]
    """Of each method that is shown: how much of the absolute map lies within the centre."""


@dataclass(frozen=True)
class Rival:
    """Another model on the same patches, and how it differs."""

    model: str
    look: LooksAt
    verdicts: tuple[Verdict, ...]
    """The first model minus this one."""


@dataclass(frozen=True)
class Explanation:
    """What a model looks at in some patches."""

    model: str
    model_sha256: str
    """Of its manifest, or of the record of the study that chose it."""
    networks: int
    views: int
    images: str
    labels: str
    """The name of the table of labels; "" where the patches have none."""
    note: str
    notices: tuple[str, ...]
    patches: int
    found: int
    """Patches that there were, of which so many were drawn."""
    cluster_kind: ClusterKind
    exam: Exam
    examined_on: str
    """The folder of an earlier explanation whose exam this is; "" where these patches sat it."""
    look: LooksAt
    rival: Rival | None
    concepts: ConceptReport | None
    limit: float
    """Of the colour scale of all maps, in logits a pixel."""
    shown: tuple[ShownPatch, ...]


@dataclass(frozen=True, eq=False)
class ExplainedPatches:
    """The patches that are explained, with what is known of them."""

    patches: PatchSet
    clusters: Shaped[np.ndarray, " n"]
    kind: ClusterKind
    found: int
    images: str
    labels: str
    note: str
    notices: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        return bool((self.patches.labels != UNLABELLED).all())


def explain_material(
    model: str,
    model_sha256: str,
    explained: ExplainedLogit,
    material: ExplainedPatches,
    out: Path,
    session: Session,
    *,
    methods: Sequence[Method] = METHODS,
    examined_patches: int = EXAMINED,
    examined: tuple[str, Exam] | None = None,
    against: tuple[str, ExplainedLogit] | None = None,
    show: Sequence[str] | None = None,
    seed: int = 0,
) -> Explanation:
    """Examine the methods, look where the model looks, weigh concepts, and write pictures and table into `out`.

    `examined`: where an exam was sat before, and the exam, which then counts. `show`: the ids of the patches that are
    shown; None for mistakes and others.
    """
    patches, clusters = material.patches, material.clusters
    pixels, unit, progress = np.ascontiguousarray(patches.pixels), CLUSTER_NAMES[material.kind], session.progress
    where, exam = examined or ("", None)
    if exam is None:
        exam = examine(
            explained, pixels, clusters, methods=methods, most=examined_patches, unit=unit, seed=seed, progress=progress
        )
    maps: dict[str, Maps] = {}
    for method in methods:
        if method in exam.passed:
            told = of_step(progress, f"explain by {method.replace('_', ' ')}")
            maps[method] = attribute(explained, pixels, method, on_progress=told).maps
    logit = explained.logits(pixels)
    said = Predictions(patches.ids, patches.labels, probabilities_of(logit))
    tumour = patches.labels if material.labelled else (logit > 0).astype(np.int8)
    swapped = swapped_pairs(pixels, tumour.astype(np.int64), seed=seed)
    own = looks_of(explained, pixels, swapped, maps, progress)
    rival = None
    if against is not None:
        name, other = against
        its = looks_of(other, pixels, swapped, {}, progress)
        rival = Rival(
            name,
            look(its, swapped, clusters, unit=unit, seed=seed),
            tuple(verdicts((model, name), (own, its), swapped, clusters, unit=unit, seed=seed)),
        )
    if show is None:
        shown = _to_show(said if material.labelled else None, logit, seed)
    else:
        shown = patches.rows_of(np.array(show, dtype=str))
    few = {method: of[shown] for method, of in maps.items()}
    write_pictures(out / "pictures", patches, patches.ids[shown].tolist())
    limit = write_maps(out / "pictures", patches.ids[shown].tolist(), pixels[shown], few)
    write_text(out / PATCHES, _table(material, logit, own.attribution))
    return Explanation(
        model=model,
        model_sha256=model_sha256,
        networks=len(explained.networks),
        views=explained.views,
        images=material.images,
        labels=material.labels,
        note=material.note,
        notices=material.notices,
        patches=len(patches),
        found=material.found,
        cluster_kind=material.kind,
        exam=exam,
        examined_on=where,
        look=look(own, swapped, clusters, unit=unit, seed=seed),
        rival=rival,
        concepts=_weighed(model, said, material, seed, session) if material.labelled else None,
        limit=limit,
        shown=tuple(
            ShownPatch(
                str(patches.ids[row]),
                int(patches.labels[row]) if material.labelled else None,
                str(clusters[row]),
                float(logit[row]),
                {method: float(share[row]) for method, share in own.attribution.items()},
            )
            for row in shown.tolist()
        ),
    )


def explain_chosen(
    chosen: Variant, patches: PatchSet, clusters: Mapping[str, str], show: Sequence[str], out: Path, session: Session
) -> Explanation | None:
    """What the first run of a study's choice looks at in its validation set, written into `out` but for the record.

    Of integrated gradients, the slowest, nothing is computed, and of backbones and ensembles class activation maps
    alone, of one view and on half as many patches: the rest would take longer than their training, and is there by
    `sentinode explain`. Nothing is examined on fewer validation patches than sit an exam. `clusters` is by id; `show`
    names patches, of which those in the validation set are shown.
    """
    run = chosen.runs[0]
    ids = run.predictions.ids
    if len(ids) < EXAMINED:
        return None
    slow = bool(run.members) or isinstance(run.config.model, TimmModel)
    shown = [i for i in show if i in set(ids.tolist())]
    drawn = (
        Purpose.LOOK.rng(run.seed, then=(2,)).permutation(ids)[: _IN_A_STUDY_IF_SLOW if slow else _IN_A_STUDY].tolist()
    )
    rows = np.sort(patches.rows_of(np.array(list(dict.fromkeys([*shown, *drawn])), dtype=str)))
    some = patches.some(rows, session.cache_root)
    of = np.array([clusters.get(i, "") for i in some.ids.tolist()], dtype=str)
    material = ExplainedPatches(
        some, of, run.cluster_kind, len(ids), "the validation set", "the validation set", "", ()
    )
    return explain_material(
        run.folder.name,
        digest_of_model(run.folder),
        ExplainedLogit.of(classifier_of([run], session.device), views=1 if slow else None),
        material,
        out,
        session,
        methods=("cam",) if slow else ("cam", "occlusion"),
        examined_patches=EXAMINED // 4 if slow else EXAMINED // 2,
        show=shown,
        seed=run.seed,
    )


def require_exam_of(found: Explanation, model_sha256: str, views: int, folder: Path) -> Exam:
    """The exam of an earlier explanation; raises ConfigError where another model, or another mean of views, sat it."""
    if (found.model_sha256, found.views) != (model_sha256, views):
        told = f"{found.model}, {found.views} view{'s' if found.views > 1 else ''}"
        raise ConfigError(
            f"is an explanation of another model ({told})",
            where=folder,
            remedy="Give one of this model, with the same views, or leave it out.",
        )
    return found.exam


def _weighed(
    model: str, said: Predictions, material: ExplainedPatches, seed: int, session: Session
) -> ConceptReport | None:
    """None where the patches are too few, or of one class."""
    try:
        measured = concepts(
            material.patches.pixels, workers=session.workers, on_progress=of_step(session.progress, "measure concepts")
        )
        return concept_report(
            model, said, measured, material.clusters, material.kind, seed=seed, workers=session.workers
        )
    except DataError as error:
        session.notify(f"concepts were not weighed: {error.what}")
        return None


def _to_show(said: Predictions | None, logit: Float[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " k"]:
    """Rows: a quarter each of the worst mistakes of either kind, and of others of either class by chance.

    Without labels, of patches by chance, in the order of their logits.
    """
    rng = Purpose.LOOK.rng(seed, then=(1,))
    if said is None:
        rows = rng.permutation(len(logit))[:SHOWN]
        return np.asarray(rows[np.argsort(-logit[rows], kind="stable")])
    wrong = worst_mistakes(said)
    right = [
        np.setdiff1d(np.flatnonzero(said.labels == label), rows) for label, rows in zip((0, 1), wrong, strict=True)
    ]
    kinds: Sequence[np.ndarray] = [*wrong, *(rng.permutation(rows) for rows in reversed(right))]
    return np.concatenate([rows[: SHOWN // len(kinds)] for rows in kinds]).astype(np.int64)


def _table(
    material: ExplainedPatches, logit: Float[np.ndarray, " n"], shares: Mapping[str, Float[np.ndarray, " n"]]
) -> str:
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["id", "label", "slide", "logit", *(f"{method}_in_centre" for method in shares)])
    patches = material.patches
    for row, (patch, label) in enumerate(zip(patches.ids.tolist(), patches.labels.tolist(), strict=True)):
        told = "" if label == UNLABELLED else label
        of = ("" if np.isnan(share[row]) else f"{share[row]:.4f}" for share in shares.values())
        write([patch, told, material.clusters[row], f"{logit[row]:.6g}", *of])
    return text.getvalue()
