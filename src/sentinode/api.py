"""What a user can ask for, a function each; the command line calls these and prints what they return.

Paths come in, files are written, records come out. A `Session` says where packed patches are kept, on
which device the work is done and who hears of progress; without one the defaults hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sentinode import pipeline
from sentinode.config import DataConfig, RunConfig, StudyConfig, override
from sentinode.data.artefacts import write_json
from sentinode.data.check import Check, check_folder
from sentinode.data.competition import read_sample_ids
from sentinode.data.explore import explore
from sentinode.data.ingest import pack_all, pack_folder, read_folder, read_labels, read_patches
from sentinode.data.listing import Listing
from sentinode.data.patches import PatchSet
from sentinode.data.phantom import write_phantom
from sentinode.data.split import Split
from sentinode.deploy.submission import make_submission, write_submission
from sentinode.evaluation.metrics import scores
from sentinode.experiments import predict as prediction
from sentinode.experiments.gather import Session, gather
from sentinode.experiments.record import Study
from sentinode.experiments.run import Run
from sentinode.experiments.train import train_run
from sentinode.experiments.variants import resolve_variants
from sentinode.explain.galleries import worst_mistakes, write_pictures
from sentinode.progress import of_step
from sentinode.report.page import write_check_page, write_run_page

study = pipeline.study


def check(
    data: Path, config: DataConfig | None = None, session: Session | None = None, *, out: Path | None = None
) -> Check:
    """Look for everything that may be wrong with a data folder; with `out`, write check.json and check.html."""
    session = session or Session()
    folder = read_folder(data, config)
    packed = pack_folder(
        folder, session.cache_root, workers=session.workers, progress=session.progress, notify=session.notify
    )
    result = check_folder(folder, packed, workers=session.workers, progress=session.progress)
    if out is not None:
        write_json(out / "check.json", result.to_json())
        write_json(out / "explore.json", explore(packed.training, seed=0, progress=session.progress))
        write_pictures(out / "pictures", packed.everything, result.ids_to_show())
        write_check_page(out)
    return result


def split(data: Path, config: RunConfig, out: Path, session: Session | None = None) -> Split:
    """Balance, sample and split the training part, and save both sides as a table id,label,side."""
    gathered = gather(data, config, session or Session())
    drawn = gathered.material.split(config)
    drawn.write(out, labels=gathered.material.labels_by_id)
    return replace(drawn, left_out={entry.option: entry.count for entry in gathered.left_out} | drawn.left_out)


def fit(data: Path, config: RunConfig, out: Path, session: Session | None = None, *, resume: bool = False) -> Run:
    """Train one run into the folder `out`, or go on with it, and draw its page."""
    session = session or Session()
    material = gather(data, config, session).material
    run = train_run(material, config, out, device=session.device, resume=resume, progress=session.progress)
    mistakes = worst_mistakes(run.predictions, pipeline.MISTAKES_A_CLASS)
    write_pictures(out / "pictures", material.patches, [m.id for of_class in mistakes.values() for m in of_class])
    write_run_page(out)
    return run


def with_variants(config: StudyConfig, names: Iterable[str], *, seeds: int) -> StudyConfig:
    """The config with other variants to compare, named as on the command line, and so many seeds from its first on."""
    variants = resolve_variants(names, config)
    first = config.seeds[0]
    return override(config, {"compare.variants": variants, "seeds": list(range(first, first + seeds))})


def compare(
    data: Path,
    config: StudyConfig,
    out: Path,
    session: Session | None = None,
    *,
    preset: str = "",
    resume: bool = False,
) -> Study:
    """The part of a study that compares variants."""
    return study(data, config, out, session or Session(), preset=preset, resume=resume, questions=["compare"])


def tune(
    data: Path,
    config: StudyConfig,
    out: Path,
    session: Session | None = None,
    *,
    preset: str = "",
    resume: bool = False,
) -> Study:
    """The part of a study that searches over settings."""
    return study(data, config, out, session or Session(), preset=preset, resume=resume, questions=["tune"])


def predict(
    model: Path, images: Path, out: Path, session: Session | None = None, *, like: Path | None = None
) -> pd.DataFrame:
    """Predict patches with a run or a study's choice; write and return a checked table id,label.

    `images` is a folder of patches, or a data folder, of which the test part is predicted; `like` is a
    sample submission that gives the ids and their order.
    """
    session = session or Session()
    runs = prediction.open_runs(model)
    listing, sample_ids = read_patches(images, part="test")
    patches = _pack(listing, session)
    predictions = prediction.predict(runs, patches, device=session.device, progress=session.progress)
    asked = read_sample_ids(like) if like else sample_ids
    submission = make_submission(predictions, asked if len(asked) else predictions.ids)
    write_submission(out, submission)
    return submission


def evaluate(
    model: Path, data: Path, labels: Path, session: Session | None = None, *, out: Path | None = None
) -> dict[str, float]:
    """Score a run or a study's choice on the patches below `data` that the table `labels` names."""
    session = session or Session()
    runs = prediction.open_runs(model)
    listing, _ = read_patches(data, part="all")
    known = read_labels(labels, listing.ids)
    patches = _pack(replace(listing, labels=known).take(known >= 0), session)
    predictions = prediction.predict(runs, patches, device=session.device, progress=session.progress)
    result = scores(predictions.labels, predictions.probabilities)
    if out is not None:
        predictions.write(out / "predictions.csv")
        write_json(out / "scores.json", result)
    return result


def default_phantom(session: Session | None = None) -> Path:
    """A phantom of 4,000 patches in the cache, painted once."""
    session = session or Session()
    root = session.cache_root / "phantom-4000-24-25"
    write_phantom(root, workers=session.workers, on_progress=of_step(session.progress, "phantom"))
    return root


def _pack(listing: Listing, session: Session) -> PatchSet:
    return pack_all(
        listing, session.cache_root, workers=session.workers, progress=session.progress, notify=session.notify
    )
