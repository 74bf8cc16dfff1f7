"""What a user can ask of finished runs: predict patches, score predictions.

Paths come in, files are written, tables come out. A `Session` names the cache, the device and who hears of progress;
without one the defaults are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sentinode.api.load import load as load
from sentinode.artefacts import claim, claim_file
from sentinode.config.run import DataConfig
from sentinode.data.competition import read_sample_ids
from sentinode.data.folder import pack_all, read_images
from sentinode.data.patches import PatchSet
from sentinode.errors import ConfigError, RunError
from sentinode.evaluation.metrics import OwnMetric, Score, own_metrics
from sentinode.exports.submission import make_submission, require_ids, write_submission
from sentinode.inference.classifier import Classifier
from sentinode.inference.predictions import Predictions
from sentinode.models.own import Given, Recipes
from sentinode.records import write_record
from sentinode.runs.load import classifier_of, open_runs, runtime_cache_of
from sentinode.runs.run import digest_of
from sentinode.session import Session

if TYPE_CHECKING:
    from sentinode.runs.evaluate import Evaluation


def predict(
    model: Path | Classifier,
    images: Path,
    out: Path,
    session: Session | None = None,
    *,
    like: Path | None = None,
    calibrate: str | None = None,
    threshold: str | float | None = None,
    spacing: float | None = None,
    network: Given | None = None,
    settings: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Predict patches with a run or a study's chosen variant; write and return a checked table id,label.

    `model` is its folder, or what `load` made of it, which stays on its own device. `images` is a folder of patches,
    or data of any layout, of which the test part is predicted; of images that are not 96 x 96 the centre is, with their
    `spacing` in um/px. `like` is a sample submission that gives the ids and their order.
    `calibrate`, "temperature" or "isotonic", calibrates the probabilities as fitted on the validation set. With a
    `threshold`, as for `Classifier.threshold`, the table is id,probability,positive: 1 if the probability before any
    calibration is above the threshold, so calibration changes no decision. The folder of a run of your own network
    needs the same `network` as `fit`.

    A session's engine predicts more than 4,096 patches in blocks of as many, whose results lie beside `out` until all
    are there: the same call goes on with them. `settings`: `running.cpus`, `running.gpus` and `running.memory_mb`, what
    a block takes of a machine, where that is not what the run's settings say. Raises TasksError where a block failed.
    """
    session = session or Session()
    if out.is_dir():
        raise RunError("is a directory; the table must be a file", where=out, remedy="Name a file in it.")
    with claim_file(out):
        classifier = model if isinstance(model, Classifier) else load(model, network=network, session=session)
        above = None if threshold is None else classifier.threshold(threshold)
        calibration = classifier.calibration(calibrate) if calibrate else None
        found = read_images(images, part="test", config=DataConfig(spacing_um_per_px=spacing))
        asked = read_sample_ids(like) if like else found.sample_ids
        asked = asked if len(asked) else found.listing.ids
        require_ids(found.listing.ids, asked)
        predictions = _predicted(classifier, pack_all(found.listing, session), session, out, settings)
        raw = make_submission(predictions, asked)
        table = raw if calibration is None else raw.assign(label=calibration.apply(raw["label"].to_numpy()))
        if above is not None:
            positive = (raw["label"] > above).astype(int)
            table = table.rename(columns={"label": "probability"}).assign(positive=positive)
        write_submission(out, table)
    return table


def evaluate(
    model: Path,
    data: Path,
    labels: Path | None = None,
    session: Session | None = None,
    *,
    slides: Path | None = None,
    spacing: float | None = None,
    out: Path | None = None,
    network: Given | None = None,
    metrics: Mapping[str, Score | OwnMetric] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Score a run or a study's chosen variant on the patches in `data` that the table `labels` names.

    Without a table the labels are those of the data's own test part. `spacing` is as for `predict`. `slides` is a table
    id,slide (default: slides.csv in `data`). The result also counts the patches that are in the training set, or share
    a slide or tissue with it. The folder `out`, if given, gets scores.json, predictions.csv and report.html. A run of
    your own network needs the same `network` as `fit`. `metrics` are your own scores by name, functions of labels and
    probabilities (or `OwnMetric`), each with its interval like the others.
    A session's engine predicts as for `predict`, `settings` too; it needs `out`, beside which its results lie.
    """
    from sentinode.runs import evaluate as evaluation  # here: intervals take SciPy, a prediction does not

    session, own = session or Session(), own_metrics(metrics)
    if session.engine is not None and out is None:
        raise ConfigError("an engine leaves results beside those asked for", where="out", remedy="Name a folder.")
    with claim(out, replaces=evaluation.BEFORE_SCORES) if out else nullcontext():
        runs = open_runs(model, Recipes.of(network))
        classifier = classifier_of(runs, session.device, folder=model, fastest=runtime_cache_of(session))
        asked = DataConfig(slides=slides, spacing_um_per_px=spacing)
        scored = evaluation.open_labelled(data, labels, asked, runs, session)
        predictions = _predicted(classifier, scored.patches, session, out, settings)
        found = evaluation.evaluate(classifier, runs, predictions, scored, session, own=own)
        if out is not None:
            _write(found, predictions, scored.patches, out)
    return found


def _predicted(
    classifier: Classifier, patches: PatchSet, session: Session, out: Path | None, settings: Mapping[str, Any] | None
) -> Predictions:
    if session.engine is None or out is None:
        return classifier.predictions(patches, session.progress)
    from sentinode.runs.tasks import predict_patches  # here: one process does without, and begins sooner

    return predict_patches(classifier, patches, session, out, settings)


def _write(found: Evaluation, predictions: Predictions, patches: PatchSet, out: Path) -> None:
    from sentinode.explain.galleries import mistakes_to_show, write_pictures  # here: without --out nothing is drawn
    from sentinode.report.pages.page import write_evaluation_page
    from sentinode.runs.evaluate import PREDICTIONS, SCORES

    predictions.write(out / PREDICTIONS)
    found = replace(found, predictions_sha256=digest_of(out / PREDICTIONS))
    write_pictures(out / "pictures", patches, mistakes_to_show(predictions))
    write_evaluation_page(out, found, predictions)
    write_record(out / SCORES, found)
