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
from sentinode.config import DataConfig, RunConfig, StudyConfig
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
from sentinode.experiments.comparison import Comparison
from sentinode.experiments.decision import DECISION, open_decision
from sentinode.experiments.evidence import Evidence, weigh
from sentinode.experiments.gather import Session, gather
from sentinode.experiments.given import clusters_of, open_given, pair_given
from sentinode.experiments.record import STUDY_EVIDENCE, Question, Study
from sentinode.experiments.run import Run, claim_new_folder
from sentinode.experiments.train import train_run
from sentinode.experiments.variants import resolve_variants
from sentinode.explain.galleries import worst_mistakes, write_pictures
from sentinode.progress import of_step
from sentinode.report.page import write_check_page, write_comparison_page, write_run_page
from sentinode.settings import override

study = pipeline.study
operating_point = prediction.operating_point


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
    """Balance, sample and split the training part, and save both sides as a table id,label,side,cluster."""
    gathered = gather(data, config, session or Session())
    drawn = gathered.material.write_split(config, out)
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


def with_variants(config: StudyConfig, names: Iterable[str]) -> StudyConfig:
    """The config with other variants to compare, named as on the command line."""
    return override(config, {"compare.variants": resolve_variants(names, config)})


def with_seeds(config: StudyConfig, seeds: int) -> StudyConfig:
    """The config with so many seeds, from its first on."""
    first = config.seeds[0]
    return override(config, {"seeds": list(range(first, first + seeds))})


def compare(
    data: Path,
    config: StudyConfig,
    out: Path,
    session: Session | None = None,
    *,
    preset: str = "",
    resume: bool = False,
    variants: bool = True,
    leak: bool = False,
) -> Study:
    """The part of a study that compares variants and, with `leak`, ways to split (which takes `split.folds`).

    With `split.folds` the comparison is a cross-validation, and the split, too, varies from seed to seed.
    """
    wanted: dict[Question, bool] = {"compare": variants, "leak": leak}
    questions = [question for question, asked in wanted.items() if asked]
    return study(data, config, out, session or Session(), preset=preset, resume=resume, questions=questions)


def compare_runs(
    folders: Iterable[Path], out: Path, config: StudyConfig | None = None, *, slides: Path | None = None
) -> tuple[Comparison, Evidence]:
    """Compare finished runs as if they had been trained for it, and write evidence.json and report.html.

    Runs that differ in seed or fold only are one variant. Raises RunError with the reason where the runs
    were not validated on the same patches under the same seeds. `slides` is a table id,slide, for runs
    that were trained without one; of the config only the section `compare` counts.
    """
    claim_new_folder(out)
    comparison = pair_given(open_given(list(folders)))
    clusters, kind = clusters_of(comparison, slides)
    asked = (config or StudyConfig()).compare
    evidence = weigh(comparison, clusters, kind, asked)
    write_json(out / STUDY_EVIDENCE, {"compare": evidence.to_json()})
    write_comparison_page(out, comparison, evidence)
    return comparison, evidence


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
    listing, sample_ids = read_patches(images, part="test")
    patches = _pack(listing, session)
    predictions = prediction.predict(runs, patches, device=session.device, progress=session.progress)
    asked = read_sample_ids(like) if like else sample_ids
    raw = make_submission(predictions, asked if len(asked) else predictions.ids)
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
