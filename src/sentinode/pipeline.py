"""The whole study, from a data folder to a report and a checked submission. Read this first."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from sentinode.config import StudyConfig, to_toml
from sentinode.data.artefacts import write_json, write_text
from sentinode.data.explore import explore
from sentinode.data.split import drop_negatives
from sentinode.deploy.submission import make_submission, write_submission
from sentinode.errors import RunError
from sentinode.experiments.compare import Comparison, RunStore, Variant, compare
from sentinode.experiments.evidence import weigh
from sentinode.experiments.gather import Gathered, Session, gather
from sentinode.experiments.predict import predict
from sentinode.experiments.record import (
    STUDY_CONFIG,
    STUDY_EVIDENCE,
    STUDY_IDENTITY,
    ClassCounts,
    Study,
    StudyRecord,
    VariantRecord,
)
from sentinode.experiments.train import open_streams
from sentinode.experiments.tune import Tuning, tune
from sentinode.explain.galleries import examples, worst_mistakes, write_pictures
from sentinode.report.page import write_check_page, write_study_page

Question = Literal["compare", "tune"]
EXAMPLES_A_CLASS = 12
MISTAKES_A_CLASS = 12


def study(
    data: Path,
    config: StudyConfig,
    out: Path,
    session: Session | None = None,
    *,
    preset: str = "",
    resume: bool = False,
    questions: Collection[Question] = ("compare", "tune"),
) -> Study:
    """Run the study of the folder `data` into the folder `out`, or go on with it.

    Check and explore the data; balance, sample and split; train every variant on every seed; tune;
    predict the test part with the variant of the highest validation mean; write the pages.
    """
    session = session or Session()
    refuse_another_study(out, config, resume=resume)
    gathered = gather(data, config, session)
    settle_identity(out, config, {"data_sha256": gathered.material.data_hash, "questions": sorted(questions)})
    write_json(out / "check.json", gathered.check.to_json())
    write_json(
        out / "explore.json", explore(gathered.material.patches, seed=config.sample.seed, progress=session.progress)
    )
    gathered.material.split(config).write(out / "split.csv", labels=gathered.material.labels_by_id)

    store = RunStore(gathered.material, out / "runs", device=session.device, progress=session.progress)
    comparison = compare(config, store) if "compare" in questions else None
    tuning = tune(config, store, out / "tune", progress=session.progress) if "tune" in questions else None
    asked = {"compare": comparison, "tune": tuning.comparison if tuning else None}
    clusters = gathered.material.clusters_by_id
    evidence = {question: weigh(found, clusters, config).to_json() for question, found in asked.items() if found}
    write_json(out / STUDY_EVIDENCE, evidence)
    chosen = choose(comparison, tuning, config.fit.metric)

    rows = submit(gathered, chosen, out, session)
    shown = examples(
        gathered.material.candidates.ids, gathered.material.candidates.labels, EXAMPLES_A_CLASS, seed=config.sample.seed
    )
    mistakes = worst_mistakes(chosen.runs[0].predictions, MISTAKES_A_CLASS)
    pictured = [*shown[0], *shown[1], *(mistake.id for of_class in mistakes.values() for mistake in of_class)]
    write_pictures(out / "pictures", gathered.material.patches, pictured)
    write_pictures(out / "pictures", gathered.check.packed.everything, gathered.check.ids_to_show())

    record(gathered, config, preset, comparison, tuning, chosen, rows, shown).write(out)
    write_check_page(out)
    write_study_page(out)
    return Study.open(out)


def refuse_another_study(out: Path, config: StudyConfig, *, resume: bool) -> None:
    """Raise RunError where the folder holds something else than this study, or this one unasked."""
    identity = out / STUDY_CONFIG
    if not identity.is_file():
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise RunError("is not empty and holds no study", where=out, remedy="Choose a new or empty --out.")
    elif not resume:
        raise RunError("holds a study already", where=out, remedy="Pass --resume to go on, or another --out.")
    elif identity.read_text(encoding="utf-8") != to_toml(config):
        raise RunError(
            "holds a study with other settings", where=out, remedy="Resume with the same settings, or another --out."
        )


def settle_identity(out: Path, config: StudyConfig, identity: dict[str, Any]) -> None:
    """Note what the study is of, or raise RunError, before anything is rewritten, where it was of something else."""
    path = out / STUDY_IDENTITY
    if not path.is_file():
        write_json(path, identity)
        write_text(out / STUDY_CONFIG, to_toml(config))
    elif json.loads(path.read_text(encoding="utf-8")) != identity:
        raise RunError(
            "holds a study of other patches, labels or questions",
            where=out,
            remedy="Resume it with the same data and command, or choose another --out.",
        )


def choose(comparison: Comparison | None, tuning: Tuning | None, metric: str) -> Variant:
    """The variant with the highest mean validation score: the one to predict with, not a verdict."""
    asked = [comparison, tuning.comparison if tuning else None]
    variants = [each.highest(metric) for each in asked if each is not None]
    return max(variants, key=lambda variant: variant.mean(metric))


def submit(gathered: Gathered, chosen: Variant, out: Path, session: Session) -> int:
    """Predict the test part with the chosen variant's runs, averaged; returns the submission's rows."""
    if gathered.test is None:
        session.notify("There is no test part, so there is nothing to submit.")
        return 0
    predictions = predict(chosen.runs, gathered.test, device=session.device, progress=session.progress)
    predictions.write(out / "predictions-test.csv")
    sample_ids = gathered.sample_ids if len(gathered.sample_ids) else gathered.test.ids
    submission = make_submission(predictions, sample_ids)
    write_submission(out / "submission.csv", submission)
    return len(submission)


def record(
    gathered: Gathered,
    config: StudyConfig,
    preset: str,
    comparison: Comparison | None,
    tuning: Tuning | None,
    chosen: Variant,
    submission_rows: int,
    shown: dict[int, list[str]],
) -> StudyRecord:
    """Collect what the report needs to say and the runs do not hold."""
    material = gathered.material
    split, labels = material.split(config), material.labels_by_id
    candidates = material.candidates

    def count(values: list[int]) -> ClassCounts:
        return ClassCounts(negative=values.count(0), positive=values.count(1))

    training, validation = ([labels[i] for i in side.tolist()] for side in (split.training, split.validation))
    return StudyRecord(
        note=material.note,
        data_kind=gathered.check.folder.kind,
        preset=preset,
        patches={"training": len(material.patches), "test": 0 if gathered.test is None else len(gathered.test)},
        classes={
            "all": count(candidates.labels.tolist()),
            "balanced": count(candidates.labels[drop_negatives(candidates.labels, config.balance)].tolist()),
            "sampled": count(training + validation),
            "training": count(training),
            "validation": count(validation),
        },
        slides_known=material.patches.slides_known,
        split_basis=split.basis,
        split_in_words=split.describe(),
        left_out={entry.option: entry.count for entry in gathered.left_out} | split.left_out,
        notices=[*split.notices, *open_streams(material, config.run_config()).notices],
        compared=[VariantRecord.of(variant) for variant in comparison.variants] if comparison else [],
        tuned=[VariantRecord.of(variant) for variant in tuning.comparison.variants] if tuning else [],
        tune_pruned=tuning.pruned if tuning else 0,
        chosen=chosen.name,
        submission_rows=submission_rows,
        examples={"negative": shown[0], "positive": shown[1]},
    )
