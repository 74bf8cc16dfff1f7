"""What a user can ask of finished runs: predict patches, score predictions.

Paths come in, files are written, tables come out. A `Session` says where packed patches are kept, on
which device the work is done and who hears of progress; without one the defaults hold.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from sentinode.data.artefacts import write_json
from sentinode.data.competition import read_sample_ids
from sentinode.data.ingest import pack_all, read_images, read_labels
from sentinode.data.listing import Listing
from sentinode.data.patches import PatchSet
from sentinode.deploy.submission import make_submission, require_ids, write_submission
from sentinode.evaluation.metrics import scores
from sentinode.experiments import predict as prediction
from sentinode.experiments.decision import DECISION, open_decision
from sentinode.experiments.session import Session

operating_point = prediction.operating_point


def predict(
    model: Path,
    images: Path,
    out: Path,
    session: Session | None = None,
    *,
    like: Path | None = None,
    calibrate: str | None = None,
    threshold: str | float | None = None,
) -> pd.DataFrame:
    """Predict patches with a run or a study's choice; write and return a checked table id,label.

    `images` is a folder of patches, or a data folder, of which the test part is predicted; `like` is a
    sample submission that gives the ids and their order. `calibrate`, "temperature" or "isotonic", maps the
    probabilities as the validation side has it. With a `threshold`, a name or number as for
    `operating_point`, the table is id,probability,positive: 1 where the probability before any calibration
    is above the threshold, so a calibration changes no decision.
    """
    session = session or Session()
    runs = prediction.open_runs(model)
    point = None if threshold is None else prediction.operating_point(model, threshold)
    calibration = open_decision(model).calibration(calibrate, where=model / DECISION) if calibrate else None
    found = read_images(images, part="test")
    asked = read_sample_ids(like) if like else found.sample_ids
    asked = asked if len(asked) else found.listing.ids
    require_ids(found.listing.ids, asked)
    patches = _pack(found.listing, session)
    predictions = prediction.predict(runs, patches, device=session.device, progress=session.progress)
    raw = make_submission(predictions, asked)
    table = raw if calibration is None else raw.assign(label=calibration.apply(raw["label"].to_numpy()))
    if point is not None:
        positive = (raw["label"] > point.threshold).astype(int)
        table = table.rename(columns={"label": "probability"}).assign(positive=positive)
    write_submission(out, table)
    return table


def evaluate(
    model: Path, data: Path, labels: Path, session: Session | None = None, *, out: Path | None = None
) -> dict[str, float]:
    """Score a run or a study's choice on the patches below `data` that the table `labels` names."""
    session = session or Session()
    runs = prediction.open_runs(model)
    listing = read_images(data, part="all").listing
    known = read_labels(labels, listing.ids)
    patches = _pack(replace(listing, labels=known).take(known >= 0), session)
    predictions = prediction.predict(runs, patches, device=session.device, progress=session.progress)
    result = scores(predictions.labels, predictions.probabilities)
    if out is not None:
        predictions.write(out / "predictions.csv")
        write_json(out / "scores.json", result)
    return result


def _pack(listing: Listing, session: Session) -> PatchSet:
    return pack_all(
        listing, session.cache_root, workers=session.workers, progress=session.progress, notify=session.notify
    )
