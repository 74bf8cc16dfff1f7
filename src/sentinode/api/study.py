"""The whole study, from a data folder to a report and a checked submission. Read this first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sentinode.api.results import Study
from sentinode.api.settings import with_own_network, with_own_variants
from sentinode.artefacts import claim, refuse_full, tidy_finished, write_text
from sentinode.audit.check import CHECK
from sentinode.audit.explore import EXPLORED, explore
from sentinode.config.run import RunConfig
from sentinode.config.study import StudyConfig
from sentinode.data.competition import TABLES
from sentinode.data.tables import head_of
from sentinode.engine.shard import Shard
from sentinode.errors import RunError, SubmissionError
from sentinode.evaluation.metrics import OwnMetric, Score, gain, own_metrics
from sentinode.explain.attributes import attributes, attributes_of_folder
from sentinode.explain.explanation import explain_chosen
from sentinode.explain.galleries import examples, write_inputs, write_pictures, write_thumbnails
from sentinode.explain.neighbours import neighbours_of_mistakes
from sentinode.explain.review import review
from sentinode.exports.submission import make_submission, require_ids, write_submission
from sentinode.models.build import require_sound
from sentinode.models.own import Given, Recipes, require_same_sources
from sentinode.progress import ALL_RUNS, of_step
from sentinode.records import read_record, write_record
from sentinode.report.pages.page import CHECK_PAGE, REPORT, write_check_page, write_explanation_page, write_study_page
from sentinode.runs.decision import DECISION
from sentinode.runs.load import classifier_of
from sentinode.runs.material import Gathered, Material, gather, require_same
from sentinode.runs.run import Run, is_finished
from sentinode.runs.study_record import (
    STUDY_CONFIG,
    STUDY_ERRORS,
    STUDY_EVIDENCE,
    STUDY_EXPLANATION,
    STUDY_IDENTITY,
    STUDY_RECORD,
    ClassCounts,
    StudyIdentity,
    StudyQuestion,
    StudyRecord,
    VariantRecord,
)
from sentinode.runs.tasks import predict_patches
from sentinode.runs.variant import Variant, decide_together
from sentinode.session import Session
from sentinode.settings import override, read_toml, to_toml
from sentinode.splits.split import Split, drop_negatives
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import weigh
from sentinode.studies.study import EvidenceRecord
from sentinode.studies.training import (
    PlannedRun,
    RunStore,
    audit_leak,
    audited_splits,
    compare_variants,
    grid,
    require_auditable,
    require_comparable,
    runs_of_audit,
    runs_of_comparison,
)
from sentinode.studies.tune import runs_of_grid, search, trial_count

EXAMPLES_A_CLASS: Final = 12
INPUTS_A_CLASS: Final = 2


def study(
    data: Path,
    config: StudyConfig,
    out: Path,
    session: Session | None = None,
    *,
    preset: str = "",
    resume: bool = False,
    network: Given | None = None,
    metrics: Mapping[str, Score | OwnMetric] | None = None,
) -> Study:
    """Run a study of the folder `data` in the folder `out`, or resume it.

    Check and explore the data; balance, sample and split; train every variant on every seed and fold; tune, where the
    settings have a search; predict the test part with the variant of the best validation mean; write the pages.
    `network` and `metrics` are as for `compare`.
    """
    own = Recipes.of(network)
    questions: list[StudyQuestion] = ["compare", "tune"] if config.tune else ["compare"]
    asked = with_own_variants(config, own)
    return _Asked(data, asked, out, session or Session(), preset, questions, own, own_metrics(metrics)).answered(resume)


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
    network: Given | None = None,
    metrics: Mapping[str, Score | OwnMetric] | None = None,
) -> Study:
    """Compare variants and, with `leak`, ways to split (which needs `split.folds`): one part of a study.

    With `split.folds` the comparison is a cross-validation, and the split varies from seed to seed too. `network` is
    your own network as for `fit`, or several; each is one more variant, with its name. `metrics` are your own scores by
    name, functions of labels and probabilities (or `OwnMetric`, which says which direction is better and whether you
    want a verdict): the report has each variant's score and each difference to the first, with intervals.
    """
    own = Recipes.of(network)
    wanted: dict[StudyQuestion, bool] = {"compare": variants, "leak": leak}
    questions = [question for question, asked in wanted.items() if asked]
    asked = with_own_variants(config, own)
    return _Asked(data, asked, out, session or Session(), preset, questions, own, own_metrics(metrics)).answered(resume)


def tune(
    data: Path,
    config: StudyConfig,
    out: Path,
    session: Session | None = None,
    *,
    preset: str = "",
    resume: bool = False,
    network: Given | None = None,
    metrics: Mapping[str, Score | OwnMetric] | None = None,
) -> Study:
    """Search over settings: one part of a study. Your own `network`, as for `fit`, is the one that is tuned."""
    own = Recipes.of(network)
    asked = with_own_network(config, own)
    return _Asked(data, asked, out, session or Session(), preset, ["tune"], own, own_metrics(metrics)).answered(resume)


def train_shard(
    data: Path,
    config: StudyConfig,
    out: Path,
    shard: Shard,
    session: Session | None = None,
    *,
    questions: Collection[StudyQuestion],
    network: Given | None = None,
) -> list[Run]:
    """Train a shard's share of the runs of a study or comparison; several shards may fill the folder at once.

    Which runs these are depends on nothing but the settings. What is finished is left alone; a run that fails stops no
    other, and TasksError names it. `study` or `compare` with `resume` ends the work, when all shards have done theirs:
    a search that learns from run to run, which no shard has a part of, is done there.
    """
    own = Recipes.of(network)
    asked = with_own_variants(config, own) if "compare" in questions else with_own_network(config, own)
    return _Asked(data, asked, out, session or Session(), "", questions, own, {}).shard(shard)


def unfinished(
    config: StudyConfig, out: Path, questions: Collection[StudyQuestion], *, network: Given | None = None
) -> list[str]:
    """The runs of a study that shards have yet to train, by their folders' names."""
    asked = with_own_variants(config, Recipes.of(network)) if "compare" in questions else config
    return [run.name for run in planned_runs(asked, questions) if not is_finished(out / "runs" / run.name)]


def planned_runs(config: StudyConfig, questions: Collection[StudyQuestion]) -> list[PlannedRun]:
    """Every run that is known before any is trained, each once, though several questions may ask for it."""
    runs = runs_of_comparison(config) if "compare" in questions else []
    runs += runs_of_grid(config) if "tune" in questions else []
    runs += runs_of_audit(config) if "leak" in questions else []
    first: dict[str, PlannedRun] = {}
    for run in runs:
        first.setdefault(run.config.digest(), run)
    return list(first.values())


@dataclass(frozen=True, eq=False)
class _Asked:
    """One study on its way from a data folder to its pages: its questions, and what answers them."""

    data: Path
    config: StudyConfig
    out: Path
    session: Session
    preset: str
    questions: Collection[StudyQuestion]
    own: Recipes
    metrics: Mapping[str, OwnMetric]

    def answered(self, resume: bool) -> Study:
        """Run it, or go on with it: what can be refused is refused before anything is trained."""
        config, out = self.config, self.out
        self._require_possible()
        finished = (out / STUDY_RECORD).is_file()
        if finished:
            tidy_finished(out)
        with nullcontext() if finished else claim(out, begun=STUDY_CONFIG):
            self._refuse_another(resume=resume)
            gathered = gather(self.data, config, self.session)
            asked_ids = self._ids_to_submit(gathered)
            given = attributes_of_folder(self.data, config.data, gathered.material.candidates.ids)
            self._settle_identity(gathered.material.identity(self._shown_split()))
            runs = {} if finished else self._answer(gathered, given, asked_ids)
            if not (out / CHECK_PAGE).is_file():
                write_check_page(out)
            done = Study.open(out, runs)
            if not (out / REPORT).is_file():
                write_study_page(done)
        return done

    def shard(self, shard: Shard) -> list[Run]:
        """Train a share of the runs. The study's folder is not held: its other shards, and their folders, are there."""
        self._require_possible()
        if not (self.out / STUDY_RECORD).is_file():
            refuse_full(self.out, STUDY_CONFIG)
        self._refuse_another(resume=True)
        material = gather(self.data, self.config, self.session).material
        self._settle_identity(material.identity(self._shown_split()))
        if "compare" in self.questions:
            require_comparable(self.config, material)
        part = [(run.name, run.config) for run in shard.part(planned_runs(self.config, self.questions))]
        store = RunStore(material, self.out / "runs", planned=len(part), own=self.own)
        store.train_part(part)
        return [store.train(*run) for run in part]

    def _require_possible(self) -> None:
        """Raise ConfigError where the settings cannot answer the questions, or a network of the user's own is bad."""
        config = self.config
        config.require_askable(self.questions)
        if "leak" in self.questions:
            require_auditable(config)
        require_sound(config.variants().values() or [config.run_config()], self.own)

    def _answer(
        self, gathered: Gathered, given: pd.DataFrame | None, asked_ids: np.ndarray | None
    ) -> Mapping[str, Run]:
        """Train, compare, tune and predict, or go on with that, and write the records; the study's own is the last.

        Returns the runs by their names, which were checked when they were finished or opened here.
        """
        config, out, session, material = self.config, self.out, self.session, gathered.material
        write_record(out / CHECK, gathered.check.record())
        write_record(out / EXPLORED, explore(material.patches, seed=config.seeds[0], progress=session.progress))
        split = material.write_split(self._shown_split(), out / "split.csv")

        planned = self._runs_asked_for()
        store = RunStore(material, out / "runs", planned=planned, own=self.own)
        asked: dict[StudyQuestion, Comparison] = {}
        if "compare" in self.questions:
            asked["compare"] = compare_variants(config, store)
        tuning = search(config, store, out / "tune") if "tune" in self.questions else None
        if tuning:
            asked["tune"] = tuning.comparison
        if "leak" in self.questions:
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
                own=self.metrics if question != "leak" else None,
            )
            for question, found in asked.items()
        }
        weighed = EvidenceRecord(evidence.get("compare"), evidence.get("tune"), evidence.get("leak"))
        write_record(out / STUDY_EVIDENCE, weighed)

        chosen = choose(asked, config.fit.metric)
        write_record(out / DECISION, decide_together(chosen))
        rows = 0 if asked_ids is None else self._submit(gathered, asked_ids, chosen)
        told = of_step(session.progress, "subgroups")
        known = attributes(material.patches, chosen.predictions.ids, given, on_progress=told)
        reviewed = review(chosen, rival_of(chosen, asked), clusters, known, cluster_kind=kind)
        alike = neighbours_of_mistakes(chosen, reviewed.ids_of_mistakes(), material.patches, session)
        reviewed = replace(reviewed, neighbours=alike)
        write_record(out / STUDY_ERRORS, reviewed)
        looked = out / STUDY_EXPLANATION
        shown = reviewed.ids_of_mistakes()
        if explained := explain_chosen(chosen, material.patches, clusters, shown, looked.parent, session):
            write_record(looked, explained)
            write_explanation_page(looked.parent, explained)

        candidates = material.candidates
        drawn = examples(candidates.ids, candidates.labels, EXAMPLES_A_CLASS, seed=config.seeds[0])
        write_pictures(out / "pictures", material.patches, [*drawn[0], *drawn[1], *reviewed.ids_to_show()])
        write_thumbnails(out / "pictures", material.patches, reviewed.ids_to_show_small())
        write_pictures(out / "pictures", gathered.check.packed.everything, gathered.check.ids_to_show())
        first = [i for label in (0, 1) for i in drawn[label][:INPUTS_A_CLASS]]
        inputs = write_inputs(out / "pictures", material.patches, first, chosen.runs[0].networks[0].config)
        runs = {run.name: run for found in asked.values() for variant in found.variants for run in variant.runs}
        StudyRecord(
            note=material.note,
            data_kind=gathered.check.folder.kind,
            origin=gathered.check.origin,
            preset=self.preset,
            patches={"training": len(material.patches), "test": 0 if gathered.test is None else len(gathered.test)},
            classes=_classes(material, split, config),
            split_basis=split.basis,
            split_in_words=split.describe(),
            left_out=gathered.left_out | split.left_out,
            notices=list(dict.fromkeys(notice for run in runs.values() for notice in run.environment["notices"])),
            asked={
                question: [VariantRecord.of(variant) for variant in found.variants] for question, found in asked.items()
            },
            tune_pruned=tuning.pruned if tuning else 0,
            chosen=chosen.name,
            submission_rows=rows,
            examples={"negative": drawn[0], "positive": drawn[1]},
            tables=[head_of(self.data / name) for name in TABLES if (self.data / name).is_file()],
            inputs=inputs,
        ).write(out)
        return runs

    def _runs_asked_for(self) -> int:
        """Runs of all questions, those that two of them share counted twice; a search that prunes takes fewer."""
        config = self.config
        variants = {
            "compare": len(config.compare.variants) or 1,
            "tune": trial_count(config.tune) if config.tune else 0,
            "leak": len(audited_splits(config)),
        }
        return len(grid(config)) * sum(variants[question] for question in self.questions)

    def _refuse_another(self, *, resume: bool) -> None:
        """Raise RunError where the folder holds another study, or this one unasked."""
        identity = self.out / STUDY_CONFIG
        if not identity.is_file():
            return
        if not resume:
            raise RunError(
                "already contains a study", where=self.out, remedy="Add --resume to continue, or choose another --out."
            )
        before = read_toml(identity, StudyConfig)
        require_same_sources(before.own_sources, self.config.own_sources, where=self.out)
        if before.digest() != self.config.digest():
            raise RunError(
                "contains a study with other settings",
                where=self.out,
                remedy="Resume with the same settings, or choose another --out.",
            )

    def _settle_identity(self, identity: Mapping[str, str]) -> None:
        """Note what the study is of, or raise RunError, before anything is trained, where it was of something else."""
        path, questions, metrics = self.out / STUDY_IDENTITY, sorted(self.questions), sorted(self.metrics)
        if not path.is_file():
            # The settings first: with them the folder is this study's, however it ends.
            write_text(self.out / STUDY_CONFIG, to_toml(self.config))
            write_record(path, StudyIdentity(dict(identity), questions, metrics))
            return
        noted = read_record(path, StudyIdentity)
        if noted.questions != questions:
            raise RunError(
                f"contains a study of other questions ({', '.join(noted.questions)})",
                where=self.out,
                remedy="Resume it with the same command, or choose another --out.",
            )
        if noted.metrics != metrics:
            names = ", ".join(map(repr, noted.metrics)) or "none"
            raise RunError(
                f"was started with other metrics of your own ({names})",
                where=self.out,
                remedy="Give the same, or another folder.",
            )
        require_same(noted.data, identity, where=self.out)

    def _shown_split(self) -> RunConfig:
        """The split that a study shows: its only one, or the first seed's first fold."""
        run = self.config.run_config()
        if run.split.folds is None:
            return run
        return override(run, {"split.seed": self.config.seeds[0], "split.fold": 1})

    def _ids_to_submit(self, gathered: Gathered) -> np.ndarray | None:
        """The ids that the submission is to hold, (m,) str; None, which is told, where there will be no submission.

        Raises SubmissionError where images that it needs are not there.
        """
        notify = self.session.notify
        if gathered.test is None:
            notify("There is no test part, so there will be no submission.")
            return None
        asked = gathered.sample_ids if len(gathered.sample_ids) else gathered.test.ids
        absent = np.setdiff1d(asked, gathered.test.ids)
        if len(absent) and "missing" in self.config.data.leave_out:
            notify(f"{len(absent):,} ids of the sample submission have no image, so there will be no submission.")
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

    def _submit(self, gathered: Gathered, asked_ids: np.ndarray, chosen: Variant) -> int:
        """Predict the test part with the chosen variant's runs, averaged; returns the submission's rows."""
        assert gathered.test is not None
        classifier = classifier_of(chosen.runs, self.session.device, folder=self.out)
        table = self.out / "predictions-test.csv"
        predictions = predict_patches(classifier, gathered.test, self.session, table)
        predictions.write(table)
        submission = make_submission(predictions, asked_ids)
        write_submission(self.out / "submission.csv", submission)
        return len(submission)


def _classes(material: Material, split: Split, config: StudyConfig) -> dict[str, ClassCounts]:
    """Patches of each class, by stage: as they are, balanced, sampled, and in both sets."""
    labels, candidates = material.labels_by_id, material.candidates
    training, validation = ([labels[i] for i in ids.tolist()] for ids in (split.training, split.validation))
    stages = {
        "all": candidates.labels.tolist(),
        "balanced": candidates.labels[drop_negatives(candidates.labels, config.balance)].tolist(),
        "sampled": training + validation,
        "training": training,
        "validation": validation,
    }
    return {stage: ClassCounts(found.count(0), found.count(1)) for stage, found in stages.items()}


def choose(asked: Mapping[StudyQuestion, Comparison], metric: str) -> Variant:
    """The variant with the best mean validation score: the one to predict with, not a verdict.

    Of a leak audit only the trusted split is a candidate: what it shows of the others is that they flatter.
    """
    candidates = [found.best(metric) for question, found in asked.items() if question != "leak"]
    if not candidates:
        candidates = [asked["leak"].variants[0]]
    return max(candidates, key=lambda variant: gain(metric) * variant.mean(metric))


def rival_of(chosen: Variant, asked: Mapping[StudyQuestion, Comparison]) -> Variant | None:
    """The variant whose disagreements with the chosen one are shown: the next best that was asked about with it."""
    for question, found in asked.items():
        others = [variant for variant in found.variants if variant.name != chosen.name]
        if question != "leak" and others and len(others) < len(found.variants):
            metric = found.metric
            return max(others, key=lambda variant: gain(metric) * variant.mean(metric))
    return None
