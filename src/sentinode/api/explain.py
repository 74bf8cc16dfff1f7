"""What a user can ask of a finished model beyond its probabilities: what it looks at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sentinode.artefacts import claim
from sentinode.config.run import DataConfig
from sentinode.data.folder import open_folder, pack_all, pack_folder, read_images
from sentinode.data.patches import UNLABELLED, PatchSet
from sentinode.errors import ConfigError, DataError
from sentinode.explain.explanation import (
    BEFORE_EXPLANATION,
    EXPLANATION,
    ExplainedPatches,
    Explanation,
    explain_material,
    require_exam_of,
)
from sentinode.explain.neighbours import NeighbourSearch
from sentinode.inference.attribution import ExplainedLogit
from sentinode.inference.classifier import Classifier
from sentinode.models.own import Given, Recipes
from sentinode.randomness import Purpose
from sentinode.records import read_record, write_record
from sentinode.runs.evaluate import LabelledPatches, cluster, open_labelled, with_known_slides
from sentinode.runs.load import classifier_of, digest_of_model, open_runs, runtime_cache_of
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.session import Session

PATCHES = 2000


def explain_model(
    model: Path | str,
    images: Path | str,
    out: Path | str,
    session: Session | None = None,
    *,
    labels: Path | None = None,
    slides: Path | None = None,
    spacing: float | None = None,
    at: Path | None = None,
    patches: int = PATCHES,
    views: int | None = None,
    examined: Path | None = None,
    against: Path | str | None = None,
    network: Given | None = None,
) -> Explanation:
    """Examine methods of attribution on a model, and show what it looks at in some patches; write and return it.

    `images`, `labels`, `slides` and `spacing` are as for `evaluate`; patches need no labels, but concepts are weighed
    only with them. With `at`, a table x,y of centres in pixels of level 0, `images` is a slide's file, and the patches
    around these places are explained. Of more than `patches` so many are drawn. `views`: 1 or 8, None for as many as
    each model predicts with. `examined` is the folder of an earlier explanation of the same model, whose exam counts in
    place of a new one: a few patches of one slide are none to examine anything on. `against` is another model, compared
    on the same patches. The folder `out` gets explanation.json, patches.csv, pictures/ and report.html.

    Raises ConfigError for an exported model, and where `examined` is an explanation of another one.
    """
    from sentinode.report.pages.page import write_explanation_page

    session = session or Session()
    model, out, own = Path(model), Path(out), Recipes.of(network)
    with claim(out, replaces=BEFORE_EXPLANATION):
        runs = open_runs(model, own)
        classifier = classifier_of(runs, session.device, folder=model, fastest=runtime_cache_of(session))
        explained, digest = ExplainedLogit.of(classifier, views=views), digest_of_model(model)
        rival = None if against is None else _opened(Path(against), own, views, session)
        exam = None
        if examined is not None:
            before = read_record(Path(examined) / EXPLANATION, Explanation)
            exam = Path(examined).name, require_exam_of(before, digest, explained.views, Path(examined))
        asked = DataConfig(slides=slides, spacing_um_per_px=spacing)
        if at is None:
            scored = _scored(Path(images), labels, asked, runs, session)
        else:
            scored = _of_slide(Path(images), at, spacing, classifier)
        material = _drawn(scored, Path(images).name, patches, runs, session)
        found = explain_material(
            classifier.name, digest, explained, material, out, session, examined=exam, against=rival, seed=runs[0].seed
        )
        write_record(out / EXPLANATION, found)
        write_explanation_page(out, found)
    return found


def training_neighbours(
    model: Path | str, data: Path | str, session: Session | None = None, *, network: Given | None = None
) -> NeighbourSearch:
    """The patches that a model learned from, ready to be asked which of them it takes for most like others.

    Of what a study chose, the first run is asked. `data` is the folder that was trained on, which its ids, labels and
    pixels must show: raises ConfigError where they do not, DataError where it cannot be read.
    """
    session, data = session or Session(), Path(data)
    run = open_runs(Path(model), Recipes.of(network))[0]
    known = run.config.data.model_copy(update={"slides": None, "groups": None, "attributes": None})
    folder, _ = open_folder(data, known)
    patches = pack_folder(folder, session).training
    if Material(patches, patches.groups, session=session).data_hash != run.environment["data_sha256"]:
        raise ConfigError(
            f"holds other patches than {run.name} was trained on, or other labels",
            where=data,
            remedy="Give the data that it was trained on.",
        )
    return NeighbourSearch(run, with_known_slides(patches, [run]), session=session)


def _opened(folder: Path, own: Recipes, views: int | None, session: Session) -> tuple[str, ExplainedLogit]:
    classifier = classifier_of(open_runs(folder, own), session.device, folder=folder, fastest=runtime_cache_of(session))
    return classifier.name, ExplainedLogit.of(classifier, views=views)


def _scored(
    images: Path, labels: Path | None, config: DataConfig, runs: tuple[Run, ...], session: Session
) -> LabelledPatches:
    """Labelled patches where there are labels; else those of the data's test part, or of a folder, as they are."""
    found = read_images(images, part="all" if labels else "test", config=config)
    if labels is not None or (found.listing.labels != UNLABELLED).any():
        return open_labelled(images, labels, config, runs, session)
    return LabelledPatches(pack_all(found.listing, session), found.listing, {}, "", found.note)


def _of_slide(slide: Path, at: Path, spacing: float | None, classifier: Classifier) -> LabelledPatches:
    """The patches around places of a slide."""
    from sentinode.slides.heatmap import patches_around  # here: patches need no slides
    from sentinode.slides.judging import places_of
    from sentinode.slides.reader import read_slide

    with read_slide(slide, spacing=spacing) as opened:
        opened.require_spacing()
        centres = places_of(slide, at)
        pixels, lost = patches_around(opened.plane(classifier.spacing_um_per_px), centres)
    if lost.any():
        x, y = centres[lost][0].tolist()
        raise DataError(f"cannot be decoded around {x:g}, {y:g}", where=slide, remedy="Leave that place out.")
    ids = np.array([f"{slide.stem}-{x:g}-{y:g}" for x, y in centres.tolist()], dtype=str)
    names, none = np.full(len(ids), slide.stem), np.full(len(ids), "")
    patches = PatchSet(ids, np.full(len(ids), UNLABELLED, np.int8), names, none, pixels)
    return LabelledPatches(patches, patches, {}, "", "")


def _drawn(
    scored: LabelledPatches, images: str, most: int, runs: tuple[Run, ...], session: Session
) -> ExplainedPatches:
    """Up to so many of the patches, by chance, with their clusters."""
    every = scored.patches
    if len(every) > most:
        rows = np.sort(Purpose.LOOK.rng(runs[0].seed).permutation(len(every))[:most])
        scored = replace(scored, patches=every.some(rows, session.cache_root))
    labelled = scored.patches.labels != UNLABELLED
    for_clusters = replace(
        scored, patches=replace(scored.patches, labels=np.where(labelled, scored.patches.labels, 0).astype(np.int8))
    )
    clusters, kind = cluster(for_clusters, runs[0].config, session)
    return ExplainedPatches(
        scored.patches,
        clusters,
        kind,
        found=len(every),
        images=images,
        labels=scored.labels,
        note=scored.note,
        notices=_notices(scored, runs),
    )


def _notices(scored: LabelledPatches, runs: tuple[Run, ...]) -> tuple[str, ...]:
    known, count = scored.seen_by(runs).flattering, len(scored.patches)
    if not known:
        return ()
    return (f"{known:,} of {count:,} patches are known from training: on others the model may look elsewhere.",)
