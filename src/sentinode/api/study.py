"""The whole study, from a data folder to a report and a checked submission. Read this first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd

from sentinode.artefacts import claim, tidy_finished, write_text
from sentinode.audit.check import CHECK
from sentinode.audit.explore import EXPLORED, explore
from sentinode.config import RunConfig, StudyConfig
from sentinode.data.competition import TABLES
from sentinode.data.schema import TableHead, head_of
from sentinode.errors import RunError, SubmissionError
from sentinode.evaluation.metrics import OwnMetric, gain
from sentinode.explain.attributes import attributes, attributes_of_folder
from sentinode.explain.galleries import examples, write_inputs, write_pictures
from sentinode.explain.review import review
from sentinode.export.submission import make_submission, require_ids, write_submission
from sentinode.models.build import require_sound
from sentinode.models.own import NONE, Recipes, require_same_sources
from sentinode.progress import ALL_RUNS, of_step
from sentinode.records import read_record, write_record
from sentinode.report.pages.page import CHECK_PAGE, REPORT, write_check_page, write_study_page
from sentinode.runs.decide import decide_together
from sentinode.runs.decision import DECISION
from sentinode.runs.gather import Gathered, gather
from sentinode.runs.load import classifier_of
from sentinode.runs.material import require_same
from sentinode.runs.session import Session
from sentinode.runs.study_record import (
    STUDY_CONFIG,
    STUDY_ERRORS,
    STUDY_EVIDENCE,
    STUDY_IDENTITY,
    STUDY_RECORD,
    ClassCounts,
    InputRange,
    Question,
    StudyIdentity,
    StudyRecord,
    VariantRecord,
)
from sentinode.runs.variant import Variant
from sentinode.settings import override, read_toml, to_toml
from sentinode.splits.split import drop_negatives
from sentinode.studies.compare import (
    RunStore,
    audit_leak,
    audited_splits,
    compare,
    grid,
    require_auditable,
    trusted_split,
)
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import weigh
from sentinode.studies.study import EvidenceRecord, Study
from sentinode.studies.tune import trial_count, tune

EXAMPLES_A_CLASS = 12
INPUTS_A_CLASS = 2
MISTAKES_A_CLASS = 12


def study(
    data: Path,
    config: StudyConfig,
    out: Path,
    session: Session | None = None,
    *,
    preset: str = "",
    resume: bool = False,
    asking: Collection[Question] | None = None,
    own: Recipes = NONE,
    metrics: Mapping[str, OwnMetric] | None = None,
) -> Study:
    """Run a study of the folder `data` in the folder `out`, or resume it.

    Check and explore the data; balance, sample and split; train every variant on every seed and fold; tune;
    audit the leak, where asked; predict the test part with the variant of the best validation mean; write
    the pages. Unless told what to be `asking`, it asks what the settings have: a comparison, and a search if there
    is one. `own` makes the networks of a user's own that the settings name; `metrics` are
    scores of the user's own.
    """
    session = session or Session()
    of_settings: tuple[Question, ...] = ("compare", "tune") if config.tune else ("compare",)
    questions = asking or of_settings
    require_askable(config, questions)
    require_sound(config.variants().values() or [config.run_config()], own)
    metrics = metrics or {}
    if is_finished_study(out):
        tidy_finished(out)
    with nullcontext() if is_finished_study(out) else claim(out, begun=STUDY_CONFIG):
        refuse_another_study(out, config, resume=resume)
        gathered = gather(data, config, session)
        asked_ids = ids_to_submit(gathered, config, session)
        given = attributes_of_folder(data, config.data, gathered.material.candidates.ids)
        settle_identity(out, config, gathered.material.identity(shown_split(config, questions)), questions, metrics)
        if not is_finished_study(out):
            answer(data, gathered, given, asked_ids, config, preset, out, session, questions, own, metrics)
        if not (out / CHECK_PAGE).is_file():
            write_check_page(out)
        if not (out / REPORT).is_file():
            write_study_page(out)
    return Study.open(out)


def answer(
    data: Path,
    gathered: Gathered,
    given: pd.DataFrame | None,
    asked_ids: np.ndarray | None,
    config: StudyConfig,
    preset: str,
    out: Path,
    session: Session,
    questions: Collection[Question],
    own: Recipes,
    metrics: Mapping[str, OwnMetric],
) -> None:
    """Train, compare, tune and predict, or go on with that, and write the records; the study's own is the last."""
    write_record(out / CHECK, gathered.check.record())
    write_record(out / EXPLORED, explore(gathered.material.patches, seed=config.seeds[0], progress=session.progress))
    material = gathered.material
    material.write_split(shown_split(config, questions), out / "split.csv")

    planned = runs_asked_for(config, questions)
    store = RunStore(material, out / "runs", device=session.device, progress=session.progress, planned=planned, own=own)
    asked: dict[Question, Comparison] = {}
    if "compare" in questions:
        asked["compare"] = compare(config, store)
    tuning = tune(config, store, out / "tune") if "tune" in questions else None
    if tuning:
        asked["tune"] = tuning.comparison
    if "leak" in questions:
        asked["leak"] = audit_leak(config, store)
    session.progress(ALL_RUNS, planned, planned)  # also where trials were pruned
    clusters, kind = material.clusters_by_id(config), material.cluster_kind
    evidence = {
        question: weigh(
            found,
            clusters,
            kind,
            config.compare,
            same_split=question != "leak",
            own=metrics if question != "leak" else None,
        )
        for question, found in asked.items()
    }
    weighed = EvidenceRecord(evidence.get("compare"), evidence.get("tune"), evidence.get("leak"))
    write_record(out / STUDY_EVIDENCE, weighed)
    chosen = choose(asked, config.fit.metric)

    write_record(out / DECISION, decide_together(chosen))
    rows = 0 if asked_ids is None else submit(gathered, asked_ids, chosen, out, session)
    told = of_step(session.progress, "subgroups")
    known = attributes(material.patches, chosen.predictions.ids, given, on_progress=told)
    reviewed = review(chosen, rival_of(chosen, asked), clusters, known, cluster_kind=kind)
    write_record(out / STUDY_ERRORS, reviewed)
    candidates = material.candidates
    shown = examples(candidates.ids, candidates.labels, EXAMPLES_A_CLASS, seed=config.seeds[0])
    write_pictures(out / "pictures", material.patches, [*shown[0], *shown[1], *reviewed.ids_to_show()])
    write_pictures(out / "pictures", gathered.check.packed.everything, gathered.check.ids_to_show())
    first = [i for label in (0, 1) for i in shown[label][:INPUTS_A_CLASS]]
    inputs = write_inputs(out / "pictures", material.patches, first, chosen.runs[0].networks[0].config)
    tables = [head_of(data / name) for name in TABLES if (data / name).is_file()]

    pruned = tuning.pruned if tuning else 0
    record(gathered, config, preset, asked, pruned, chosen, rows, shown, inputs, tables).write(out)


def runs_asked_for(config: StudyConfig, questions: Collection[Question]) -> int:
    """Runs of all questions, those that two of them share counted twice; a search that prunes takes fewer."""
    variants = {
        "compare": len(config.compare.variants) or 1,
        "tune": trial_count(config.tune) if config.tune else 0,
        "leak": len(audited_splits(config)),
    }
    return len(grid(config)) * sum(variants[question] for question in questions)


def require_askable(config: StudyConfig, questions: Collection[Question]) -> None:
    """Raise ConfigError, before anything is read, where the settings do not have what a question needs."""
    config.require_askable(questions)
    if "leak" in questions:
        require_auditable(config)


def is_finished_study(folder: Path) -> bool:
    return (folder / STUDY_RECORD).is_file()


def refuse_another_study(out: Path, config: StudyConfig, *, resume: bool) -> None:
    """Raise RunError where the folder holds another study, or this one unasked."""
    identity = out / STUDY_CONFIG
    if not identity.is_file():
        return
    if not resume:
        raise RunError(
            "already contains a study", where=out, remedy="Add --resume to continue, or choose another --out."
        )
    before = read_toml(identity, StudyConfig)
    require_same_sources(before.own_sources, config.own_sources, where=out)
    if before.digest() != config.digest():
        raise RunError(
            "contains a study with other settings",
            where=out,
            remedy="Resume with the same settings, or choose another --out.",
        )


def settle_identity(
    out: Path,
    config: StudyConfig,
    identity: Mapping[str, str],
    questions: Collection[Question],
    metrics: Collection[str],
) -> None:
    """Note what the study is of, or raise RunError, before anything is trained, where it was of something else."""
    path = out / STUDY_IDENTITY
    if not path.is_file():
        write_text(out / STUDY_CONFIG, to_toml(config))  # first: with it the folder is this study's, however it ends
        write_record(path, StudyIdentity(dict(identity), sorted(questions), sorted(metrics)))
        return
    noted = read_record(path, StudyIdentity)
    if noted.questions != sorted(questions):
        raise RunError(
            f"contains a study of other questions ({', '.join(noted.questions)})",
            where=out,
            remedy="Resume it with the same command, or choose another --out.",
        )
    if noted.metrics != sorted(metrics):
        names = ", ".join(map(repr, noted.metrics)) or "none"
        raise RunError(
            f"was started with other metrics of your own ({names})",
            where=out,
            remedy="Give the same, or another folder.",
        )
    require_same(noted.data, identity, where=out)


def choose(asked: Mapping[Question, Comparison], metric: str) -> Variant:
    """The variant with the best mean validation score: the one to predict with, not a verdict.

    Of a leak audit only the trusted split is a candidate: what it shows of the others is that they flatter.
    """
    candidates = [found.best(metric) for question, found in asked.items() if question != "leak"]
    if not candidates:
        candidates = [asked["leak"].variants[0]]
    return max(candidates, key=lambda variant: gain(metric) * variant.mean(metric))


def rival_of(chosen: Variant, asked: Mapping[Question, Comparison]) -> Variant | None:
    """The variant whose disagreements with the chosen one are shown: the next best that was asked about with it."""
    for question, found in asked.items():
        others = [variant for variant in found.variants if variant.name != chosen.name]
        if question != "leak" and others and len(others) < len(found.variants):
            metric = found.metric
            return max(others, key=lambda variant: gain(metric) * variant.mean(metric))
    return None


def shown_split(config: StudyConfig, questions: Collection[Question]) -> RunConfig:
    """The split that a study shows: its only one, or the first seed's first fold; of an audit alone the trusted one."""
    run = config.run_config()
    if set(questions) == {"leak"}:
        run = override(run, trusted_split(config))
    return run if run.split.folds is None else override(run, {"split.seed": config.seeds[0], "split.fold": 1})


def ids_to_submit(gathered: Gathered, config: StudyConfig, session: Session) -> np.ndarray | None:
    """The ids that the submission is to hold, (m,) str; None, which is told, where there will be no submission.

    Raises SubmissionError, before anything is trained, where images that it needs are not there.
    """
    if gathered.test is None:
        session.notify("There is no test part, so there will be no submission.")
        return None
    asked = gathered.sample_ids if len(gathered.sample_ids) else gathered.test.ids
    absent = np.setdiff1d(asked, gathered.test.ids)
    if len(absent) and "missing" in config.data.leave_out:
        session.notify(f"{len(absent):,} ids of the sample submission have no image, so there will be no submission.")
        return None
    if len(absent):
        raise SubmissionError(
            f"{len(absent):,} of {len(asked):,} ids of the sample submission have no image in the test part that "
            f"can be read (first: {absent[0]})",
            where=gathered.check.folder.root,
            remedy="Restore the images, or put 'missing' into data.leave_out for a study without a submission.",
        )
    require_ids(gathered.test.ids, asked)
    return asked


def submit(gathered: Gathered, asked_ids: np.ndarray, chosen: Variant, out: Path, session: Session) -> int:
    """Predict the test part with the chosen variant's runs, averaged; returns the submission's rows."""
    assert gathered.test is not None
    classifier = classifier_of(chosen.runs, session.device, folder=out)
    predictions = classifier.predictions(gathered.test, session.progress)
    predictions.write(out / "predictions-test.csv")
    submission = make_submission(predictions, asked_ids)
    write_submission(out / "submission.csv", submission)
    return len(submission)


def record(
    gathered: Gathered,
    config: StudyConfig,
    preset: str,
    asked: Mapping[Question, Comparison],
    pruned: int,
    chosen: Variant,
    submission_rows: int,
    shown: dict[int, list[str]],
    inputs: list[InputRange],
    tables: list[TableHead],
) -> StudyRecord:
    """Collect what the report needs to say and the runs do not hold."""
    material = gathered.material
    split, labels = material.split(shown_split(config, asked)), material.labels_by_id
    candidates = material.candidates

    def count(values: list[int]) -> ClassCounts:
        return ClassCounts(negative=values.count(0), positive=values.count(1))

    training, validation = ([labels[i] for i in side.tolist()] for side in (split.training, split.validation))
    runs = {run.name: run for found in asked.values() for variant in found.variants for run in variant.runs}
    return StudyRecord(
        note=material.note,
        data_kind=gathered.check.folder.kind,
        origin=gathered.check.origin,
        preset=preset,
        patches={"training": len(material.patches), "test": 0 if gathered.test is None else len(gathered.test)},
        classes={
            "all": count(candidates.labels.tolist()),
            "balanced": count(candidates.labels[drop_negatives(candidates.labels, config.balance)].tolist()),
            "sampled": count(training + validation),
            "training": count(training),
            "validation": count(validation),
        },
        split_basis=split.basis,
        split_in_words=split.describe(),
        left_out={entry.option: entry.count for entry in gathered.left_out} | split.left_out,
        notices=list(dict.fromkeys(notice for run in runs.values() for notice in run.environment["notices"])),
        asked={
            question: [VariantRecord.of(variant) for variant in found.variants] for question, found in asked.items()
        },
        tune_pruned=pruned,
        chosen=chosen.name,
        submission_rows=submission_rows,
        examples={"negative": shown[0], "positive": shown[1]},
        tables=tables,
        inputs=inputs,
    )
