"""Commands that train: a study, a run, a comparison, a search."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentinode.apps.options import (
    Address,
    Cache,
    Collect,
    Config,
    Data,
    Device,
    EngineName,
    Folds,
    GroupBy,
    Groups,
    Network,
    Networks,
    Preset,
    ProcessCount,
    PseudoLabels,
    Resume,
    Settings,
    ShardName,
    Slides,
    Spacing,
    Threads,
    Workers,
    asked_run,
    asked_shard,
    asked_student,
    asked_study,
    origin_of,
    own_network,
    session_of,
)
from sentinode.apps.paths import (
    require_data,
    require_given_runs,
    require_patches,
    require_place,
    require_results,
    require_settings_files,
    require_table,
    require_tables,
    what_to_compare,
)
from sentinode.errors import ConfigError, RunError

if TYPE_CHECKING:
    from sentinode.config.study import StudyConfig
    from sentinode.engine.shard import Shard
    from sentinode.progress import Progress
    from sentinode.runs.study_record import StudyQuestion
    from sentinode.session import Session

_LEAK_FOLDS = 3


def study(
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="Data folder, as for check (default: a phantom).")
    ] = None,
    preset: Preset = None,
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs, report.html and submission.csv.")] = Path(
        "sentinode-study"
    ),
    settings: Settings = None,
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    spacing: Spacing = None,
    folds: Folds = None,
    networks: Networks = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
    engine: EngineName = "here",
    processes: ProcessCount = None,
    address: Address = None,
    shard: ShardName = None,
    collect: Collect = False,
) -> None:
    """Run the whole study: check, explore, split, compare, tune, predict, report."""
    asked = asked_study(preset, config, settings, slides, groups, group_by, folds, spacing=spacing, default="quick")
    questions: list[StudyQuestion] = ["compare", "tune"] if asked.tune else ["compare"]
    asked.require_askable(questions)
    if data is not None:
        require_data(data)
    part = asked_shard(shard, collect=collect)
    require_place(out, "study.toml", resume=resume or collect or part is not None)
    own = own_network(networks)

    from sentinode.api import study as api
    from sentinode.api.data import default_phantom
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(cache, device, workers, progress, threads=threads, engine=(engine, processes, address))
        if data is None:
            console.notice("no DATA was given: the study uses a phantom, which is synthetic tissue")
        root, origin = data or default_phantom(session), origin_of(preset, config, "quick")
        if part is not None:
            _train_shard(part, root, asked, out, session, questions, own)
            return
        if collect:
            _require_collected(asked, out, questions, own)
        result = api.study(root, asked, out, session, preset=origin, resume=resume or collect, network=own)
    for text in result.record.notices:
        console.notice(text)
    results.show_study(result)
    console.say(f"{out / 'report.html'}")
    if result.record.submission_rows:
        console.say(f"{out / 'submission.csv'}")


def _train_shard(
    shard: Shard,
    data: Path,
    asked: StudyConfig,
    out: Path,
    session: Session,
    questions: list[StudyQuestion],
    own: dict[str, Callable[[], Any]] | None,
) -> None:
    from sentinode.api.study import train_shard
    from sentinode.apps import console

    runs = train_shard(data, asked, out, shard, session, questions=questions, network=own)
    console.say(f"shard {shard}: {len(runs)} runs are finished; give --collect when all shards are")


def _require_collected(
    asked: StudyConfig, out: Path, questions: list[StudyQuestion], own: dict[str, Callable[[], Any]] | None
) -> None:
    """Raise RunError where a shard has not done its share."""
    from sentinode.api.study import unfinished

    if left := unfinished(asked, out, questions, network=own):
        raise RunError(
            f"{len(left)} runs of its shards are not finished (first: {left[0]})",
            where=out,
            remedy="Give the shards again; what is finished is not done twice. Or train the rest here, with --resume.",
        )


def train(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder.")],
    preset: Preset = None,
    config: Config = None,
    settings: Settings = None,
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    spacing: Spacing = None,
    pseudo_labels: PseudoLabels = None,
    network: Network = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
    engine: EngineName = "here",
    processes: ProcessCount = None,
    address: Address = None,
) -> None:
    """Train one network, or the members of an ensemble, and keep everything needed to check and use it."""
    asked = asked_run(preset, config, settings, slides, groups, group_by, spacing=spacing, pseudo_labels=pseudo_labels)
    require_data(data)
    require_place(out, "config.toml", resume=resume)
    own = own_network(network)

    from sentinode.api import experiments as api
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(
            cache,
            device,
            workers,
            progress,
            threads=threads,
            several_processes=True,
            engine=(engine, processes, address),
        )
        run = api.fit(data, asked, out, session, resume=resume, network=own)
    if session.processes.writes:
        results.show_trained(run)


def distill(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="Folder of a finished run, ensemble or study.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The data folder that it was trained with.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The student's folder: a run like any other.")],
    student: Annotated[
        str, typer.Option(metavar="SETTINGS", help="What is trained: a preset, or a TOML file of settings.")
    ] = "swift",
    settings: Settings = None,
    network: Network = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
) -> None:
    """Train a small, fast network on what a finished one predicts.

    The student learns the teacher's calibrated probabilities of all training patches, and of those of the test part,
    which have no labels here. Balance, sample and split are the teacher's, so that it has seen nothing of what the
    student is validated on.
    """
    asked = asked_student(student, teacher, settings)
    require_results(teacher)
    require_data(data)
    require_place(out, "config.toml", resume=resume)
    own = own_network(network)

    from sentinode.api import experiments as api
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(cache, device, workers, progress, threads=threads, several_processes=True)
        run = api.distill(teacher, data, asked, out, session, resume=resume, network=own)
    if session.processes.writes:
        results.show_trained(run)


def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="DATA|RUN|CSV",
            help="As for check; or the first of several finished runs, or of tables id,probability.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the runs and their report.")],
    variants: Annotated[
        list[str] | None,
        typer.Option(help="before, after, a preset, FILE.toml or key=value[,key=value]; repeat for each variant."),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[VARIANT|RUN|CSV]...", help="Further variants, runs or tables.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds (default: those of the settings).")] = None,
    folds: Folds = None,
    leak: Annotated[
        bool,
        typer.Option(
            "--leak", help="Train one model on grouped and on random folds: by how much is the random score too high?"
        ),
    ] = False,
    preset: Preset = None,
    config: Config = None,
    settings: Settings = None,
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    spacing: Spacing = None,
    patches: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="With runs: compare them on the labelled patches in this folder. With tables: their patches.",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="With --data, or with tables: table id,label, as for evaluate.")
    ] = None,
    networks: Networks = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
    engine: EngineName = "here",
    processes: ProcessCount = None,
    address: Address = None,
    shard: ShardName = None,
    collect: Collect = False,
) -> None:
    """Train variants on the same patches, splits, seeds and batch order, and judge the differences.

    Folders of finished runs may be given in place of DATA; with --data and --labels they are compared on labelled
    patches. So may tables of predictions, of any program, with --labels: id,probability, and seed where there are
    several.
    """
    asked = asked_study(preset, config, settings, slides, groups, group_by, folds, spacing=spacing, default="fair")
    begin = partial(session_of, cache, device, workers, threads=threads, engine=(engine, processes, address))
    given = [first, *map(Path, more or [])]
    of_training: dict[str, object] = {"--variants": variants, "--seeds": seeds, "--folds": folds, "--leak": leak}
    of_training |= {"--preset": preset, "--groups": groups, "--group-by": group_by, "--resume": resume}
    of_training |= {"--shard": shard, "--collect": collect}
    match what_to_compare(first, given):
        case "tables":
            why = "is for runs that are still to be trained, but tables of predictions were given"
            remedy = "Leave it out, or give DATA in place of the tables."
            _refuse(of_training | {"--network": networks}, why, remedy=remedy)
            _compare_tables(given, labels, slides, patches, asked, out, begin)
        case "runs":
            why = "is for runs that are still to be trained, but finished ones were given"
            _refuse(of_training, why, remedy="Leave it out, or give DATA in place of the runs.")
            if patches is None:
                remedy = "Name the folder with the patches that the labels name."
                _refuse({"--labels": labels}, "needs --data", remedy=remedy)
                _compare_runs(given, slides, asked, out)
            else:
                _compare_runs_on(given, patches, labels, slides, own_network(networks), asked, out, begin)
        case "data":
            why, remedy = "is for finished runs, but none was given", "Give folders of runs in place of DATA."
            _refuse({"--data": patches, "--labels": labels}, why, remedy=remedy)
            require_settings_files(named := [*(variants or []), *(more or [])])
            part = asked_shard(shard, collect=collect)
            require_place(out, "study.toml", resume=resume or collect or part is not None)
            own = own_network(networks)
            compares = bool(named or own) or not leak
            asked = _to_train(asked, named, len(own or ()), seeds, compares=compares, leak=leak)
            wanted: dict[StudyQuestion, bool] = {"compare": compares, "leak": leak}
            questions = [question for question, is_asked in wanted.items() if is_asked]

            from sentinode.api.study import compare
            from sentinode.apps import console, results

            with console.steps() as progress:
                session = begin(progress)
                if part is not None:
                    _train_shard(part, first, asked, out, session, questions, own)
                    return
                if collect:
                    _require_collected(asked, out, questions, own)
                result = compare(
                    first, asked, out, session, preset=origin_of(preset, config, "fair"), resume=resume or collect,
                    variants=compares, leak=leak, network=own,
                )  # fmt: skip
            results.show_study(result)
            console.say(f"{out / 'report.html'}")


def _refuse(options: dict[str, object], why: str, *, remedy: str) -> None:
    """Raise ConfigError where one of the options was given."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"{name} {why}", remedy=remedy)


def _compare_tables(
    tables: list[Path],
    labels: Path | None,
    slides: Path | None,
    patches: Path | None,
    asked: StudyConfig,
    out: Path,
    begin: Callable[[Progress], Session],
) -> None:
    labels = require_tables(tables, labels, slides)
    if patches is not None:
        require_patches(patches)
    require_place(out, "evidence.json")

    from sentinode.api.experiments import compare_tables
    from sentinode.apps import console, results
    from sentinode.studies.tables import unknown_slides

    with console.steps() as progress:
        found, record = compare_tables(tables, labels, out, asked, begin(progress), slides=slides, data=patches)
    if told := unknown_slides(len(found.ids), record.slides_unknown):
        console.notice(told)
    assert record.compare is not None
    results.show_comparison(found, record.compare, side="")
    console.say(f"{out / 'report.html'}")


def _compare_runs(folders: list[Path], slides: Path | None, asked: StudyConfig, out: Path) -> None:
    """By the validation sets that they share."""
    require_given_runs(folders)
    require_place(out, "evidence.json")

    from sentinode.api.experiments import compare_runs
    from sentinode.apps import console, results

    results.show_comparison(*compare_runs(folders, out, asked, slides=slides))
    console.say(f"{out / 'report.html'}")


def _compare_runs_on(
    folders: list[Path],
    patches: Path,
    labels: Path | None,
    slides: Path | None,
    own: dict[str, Callable[[], Any]] | None,
    asked: StudyConfig,
    out: Path,
    begin: Callable[[Progress], Session],
) -> None:
    require_given_runs(folders)
    require_place(out, "evidence.json")
    require_patches(patches)
    require_table(labels)

    from sentinode.api.experiments import compare_runs_on
    from sentinode.apps import console, results

    with console.steps() as progress:
        comparison, evidence, seen = compare_runs_on(
            folders, patches, labels, out, asked, begin(progress), slides=slides, network=own
        )
    for text in seen.in_words(len(comparison.ids), by="any of the runs"):
        console.notice(text)
    results.show_comparison(comparison, evidence, side="")
    console.say(f"{out / 'report.html'}")


def _to_train(
    asked: StudyConfig, named: list[str], own: int, seeds: int | None, *, compares: bool, leak: bool
) -> StudyConfig:
    """The settings with the variants, seeds and folds that the command line names."""
    from sentinode.api.settings import with_seeds, with_variants
    from sentinode.settings import override

    if compares:
        asked = with_variants(asked, named or asked.compare.variants, beside=own)
    if seeds is not None:
        asked = with_seeds(asked, seeds)
    if leak and asked.split.folds is None:
        asked = override(asked, {"split.folds": _LEAK_FOLDS})
    return asked


def tune(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the trials and their report.")],
    preset: Preset = None,
    config: Config = None,
    settings: Settings = None,
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    spacing: Spacing = None,
    folds: Folds = None,
    network: Network = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
    engine: EngineName = "here",
    processes: ProcessCount = None,
    address: Address = None,
) -> None:
    """Search over settings (default: batch-norm momentum); every trial is a run for each seed."""
    asked = asked_study(preset, config, settings, slides, groups, group_by, folds, spacing=spacing, default="fair")
    asked.require_askable(["tune"])
    require_data(data)
    require_place(out, "study.toml", resume=resume)

    own = own_network(network)

    from sentinode.api import study as api
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(cache, device, workers, progress, threads=threads, engine=(engine, processes, address))
        origin = origin_of(preset, config, "fair")
        result = api.tune(data, asked, out, session, preset=origin, resume=resume, network=own)
    results.show_study(result)
    console.say(f"{out / 'report.html'}")
