"""What a user can ask that makes a run, or compares finished ones.

Paths come in, files are written, records come out. A `Session` names the cache, the device and who hears of progress;
without one the defaults are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from sentinode.api.settings import with_own_network
from sentinode.artefacts import claim, write_bytes
from sentinode.config.run import SHARED_WITH_TEACHER, DataConfig, RunConfig, Weighting
from sentinode.config.study import StudyConfig
from sentinode.data.folder import labels_in
from sentinode.evaluation.clusters import ClusterKind
from sentinode.evaluation.metrics import OwnMetric, Score, own_metrics
from sentinode.explain.galleries import mistakes_to_show, write_pictures
from sentinode.models.build import require_sound
from sentinode.models.own import Given, Recipes
from sentinode.records import read_record, write_record
from sentinode.report.pages.page import (
    REPORT,
    write_comparison_page,
    write_run_page,
    write_scored_comparison_page,
    write_tables_page,
)
from sentinode.runs.ensemble import join_runs
from sentinode.runs.evaluate import SeenBefore, cluster, open_labelled
from sentinode.runs.load import classifier_of, open_runs, runtime_cache_of
from sentinode.runs.material import gather
from sentinode.runs.run import Run, claim_run
from sentinode.runs.study_record import STUDY_EVIDENCE
from sentinode.runs.tasks import predict_patches
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import Evidence, weigh
from sentinode.studies.given import (
    GIVEN_PREDICTIONS,
    clusters_of,
    on_other_patches,
    open_given,
    pair_given,
    write_given,
)
from sentinode.studies.study import EvidenceRecord
from sentinode.studies.tables import PredictedRun, pair_tables, read_tables, slides_of, write_tables


def fit(
    data: Path,
    config: RunConfig,
    out: Path,
    session: Session | None = None,
    *,
    resume: bool = False,
    network: Given | None = None,
    metrics: Mapping[str, Score | OwnMetric] | None = None,
) -> Run:
    """Train a run (or an ensemble) in the folder `out`, or resume it, and draw its page.

    `network` is your own network, used instead of the configured one: a function or class that, called without
    arguments, returns a new `torch.nn.Module` from (N, 3, s, s) in [0, 1], where s is preprocess.size_px, to (N, 1)
    logits. It is called several times; before each call the global random state of PyTorch, NumPy and Python is set
    from the run's seed, and restored afterwards. It is tested on two patches before anything is read; a ConfigError
    says what is wrong with it. The run records its name and the digest of its source (the function or class and what it
    uses from its own file) and its weights, never its code, so opening the run needs `network` again. {name: callable}
    gives it another name; several are for an ensemble whose members name them. `metrics` are your own scores by name,
    functions of labels and probabilities (or `OwnMetric`); run.json has them for the validation set, with intervals.
    """
    session, own = session or Session(), Recipes.of(network)
    config = with_own_network(config, own)
    require_sound([config], own)
    with claim_run(out) if session.processes.writes else nullcontext():
        material = gather(data, config, session).material
        run = train_run(material, config, out, resume=resume, own=own, metrics=own_metrics(metrics))
        if session.processes.writes and not (out / REPORT).is_file():
            write_pictures(out / "pictures", material.patches, mistakes_to_show(run.predictions))
            write_run_page(run)
    return run


def distill(
    teacher: Path,
    data: Path,
    student: RunConfig,
    out: Path,
    session: Session | None = None,
    *,
    resume: bool = False,
    network: Given | None = None,
) -> Run:
    """Train a small network on the probabilities of a finished run, ensemble or study (distillation): a run like any.

    The student learns the teacher's calibrated probabilities of all training patches and of the test part's, as far as
    these share nothing with the validation set. What takes part and which set it is in are the teacher's settings, for
    it may not have seen what validates the student; preprocessing, network, training and prediction are the student's.
    Raises RunError where the data or the split are not those that the teacher was trained with.
    """
    asked = override(student, {"teacher.labels": "soft", "teacher.run": str(teacher)})
    taught_on = open_runs(teacher)[0].config
    sections = {name: getattr(taught_on, name) for name in SHARED_WITH_TEACHER}
    return fit(data, asked.model_copy(update=sections), out, session, resume=resume, network=network)


def compare_runs(
    folders: Iterable[Path],
    out: Path,
    config: StudyConfig | None = None,
    *,
    slides: Path | None = None,
    metrics: Mapping[str, Score | OwnMetric] | None = None,
) -> tuple[Comparison, Evidence]:
    """Compare finished runs as if they had been trained for it, and write evidence.json and report.html.

    Runs that differ only in seed or fold are one variant. Raises RunError with the reason if the runs do not have the
    same validation sets and seeds. `slides` is a table id,slide, for runs that were trained without one; only the
    section `compare` of the config is used. `metrics` are your own scores as for `compare`.
    """
    own = own_metrics(metrics)
    # An interrupted call may have left the evidence; a finished one has its page, too, and is not written over.
    with claim(out, replaces=[STUDY_EVIDENCE]):
        runs = open_given(list(folders))
        comparison = pair_given(runs)
        clusters, kind = clusters_of(comparison, slides)
        asked = (config or StudyConfig()).compare
        evidence = weigh(comparison, clusters, kind, asked, own=own)
        write_record(out / STUDY_EVIDENCE, EvidenceRecord(evidence, given=write_given(runs, out)))
        write_comparison_page(out, comparison, read_record(out / STUDY_EVIDENCE, EvidenceRecord))
    return comparison, evidence


def compare_runs_on(
    folders: Iterable[Path],
    data: Path,
    labels: Path | None,
    out: Path,
    config: StudyConfig | None = None,
    session: Session | None = None,
    *,
    slides: Path | None = None,
    network: Given | None = None,
    metrics: Mapping[str, Score | OwnMetric] | None = None,
) -> tuple[Comparison, Evidence, SeenBefore]:
    """Compare finished runs on labelled patches, given as to `evaluate`, by the same rule as `compare_runs`.

    The runs need not share a split. The result and the page also count the patches that any of them was trained on. The
    networks of one seed's folds predict together. Runs of networks of your own need their `network`; `metrics` are your
    own scores as for `compare`.
    """
    session, own = session or Session(), own_metrics(metrics)
    with claim(out, replaces=[STUDY_EVIDENCE, GIVEN_PREDICTIONS]):
        runs = open_given(list(folders), Recipes.of(network))
        for run in runs:
            run.require_networks()
        scored = open_labelled(data, labels, DataConfig(slides=slides), runs, session)
        fastest = runtime_cache_of(session)
        models = [classifier_of([run], session.device, fastest=fastest) for run in runs]
        said = [predict_patches(model, scored.patches, session, out) for model in models]
        comparison = pair_given(on_other_patches(runs, said))
        asked = (config or StudyConfig()).compare
        clusters, kind = cluster(scored, runs[0].config, session)
        cluster_of = dict(zip(scored.patches.ids.tolist(), clusters.tolist(), strict=True))
        evidence, seen = weigh(comparison, cluster_of, kind, asked, own=own), scored.seen_by(runs)
        record = EvidenceRecord(evidence, None, None, write_given(runs, out, said), scored.labels, scored.note, seen)
        write_record(out / STUDY_EVIDENCE, record)
        write_scored_comparison_page(out, comparison, runs, read_record(out / STUDY_EVIDENCE, EvidenceRecord))
    return comparison, evidence, seen


def compare_tables(
    tables: Sequence[Path],
    labels: Path,
    out: Path,
    config: StudyConfig | None = None,
    session: Session | None = None,
    *,
    slides: Path | None = None,
    data: Path | None = None,
    metrics: Mapping[str, Score | OwnMetric] | None = None,
) -> tuple[Comparison[PredictedRun], EvidenceRecord]:
    """Compare tables of predictions, of any program, by the same rule as runs, and write evidence.json and report.html.

    A table has the columns id and probability, and may have `seed`: a row for each patch and seed. All must predict
    every patch that `labels`, a table id,label, names. `slides` is a table id,slide. `data`, a folder of these patches,
    stands in for it, or adds to it: clusters of stain and shared tissue are then made from their pixels. Without it,
    all patches of unknown slide count as one slide; where all are, no interval is known. Of the config the section
    `compare` and `fit.metric`, the score that decides, are used; `metrics` are your own scores as for `compare`.
    """
    session, own, asked = session or Session(), own_metrics(metrics), config or StudyConfig()
    with claim(out, replaces=[STUDY_EVIDENCE, GIVEN_PREDICTIONS]):
        runs = read_tables(tables, labels_in(labels), asked.fit.metric)
        comparison, note, unknown = pair_tables(runs), "", 0
        kind: ClusterKind = "slide"
        if data is None:
            clusters, unknown = slides_of(slides, comparison)
        else:
            scored = open_labelled(data, labels, DataConfig(slides=slides), [], session)
            found, kind = cluster(scored, asked.run_config(), session)
            clusters = dict(zip(scored.patches.ids.tolist(), found.tolist(), strict=True))
            note = scored.note
        record = EvidenceRecord(
            weigh(comparison, clusters, kind, asked.compare, own=own),
            tables=write_tables(runs, out),
            labels=labels.name,
            note=note,
            slides_unknown=unknown,
        )
        write_record(out / STUDY_EVIDENCE, record)
        read = read_record(out / STUDY_EVIDENCE, EvidenceRecord)
        write_tables_page(out, comparison, read)
    return comparison, read


def ensemble(runs: Iterable[Path], out: Path, session: Session | None = None, *, weights: Weighting = "fitted") -> Run:
    """Join finished runs, and the chosen runs of studies, into an ensemble in the folder `out`, and draw its page.

    The weights of the members' logits are "fitted", by log loss on the validation set that all must share, or "equal".
    The members are copied into the folder. The same call resumes an interrupted one. Raises RunError with the reason if
    the runs do not fit together.
    """
    session, folders = session or Session(), list(runs)
    members = [run for folder in folders for run in open_runs(folder)]
    run = join_runs(members, out, weights, session)
    if not (out / REPORT).is_file():
        _copy_pictures(run, [*folders, *(member.folder for member in members)])
        write_run_page(run)
    return run


def _copy_pictures(run: Run, sources: Iterable[Path]) -> None:
    """Of the run's mistakes those pictures that the folders hold, for the run itself holds no pixels."""
    wanted, pictures = {f"{i}.png" for i in mistakes_to_show(run.predictions)}, run.folder / "pictures"
    for source in sources:
        for path in (source / "pictures").glob("*.png"):
            if path.name in wanted and not (pictures / path.name).exists():
                write_bytes(pictures / path.name, path.read_bytes())
