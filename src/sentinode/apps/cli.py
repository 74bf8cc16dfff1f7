"""The command line: it parses, calls and prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sentinode.apps.options import (
    Cache,
    Config,
    Data,
    Device,
    Folds,
    GroupBy,
    Groups,
    Preset,
    Resume,
    Settings,
    Slides,
    Workers,
    asked_settings,
    cache_root,
    origin_of,
    session_of,
)

_LEAK_FOLDS = 3

app = typer.Typer(
    name="sentinode",
    help="Train, compare and tune CNN classifiers for metastatic tissue in lymph-node patches, with comparisons that "
    "can be believed. For research: no medical device.",
    epilog="Start with: sentinode study --preset quick",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def example(command: str) -> str:
    return f"Example: sentinode {command}"


def _show_version(asked: bool) -> None:
    if asked:
        import sentinode

        typer.echo(f"sentinode {sentinode.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show an error's traceback (with any command, anywhere).")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of every command; `run` has taken --debug out already, so here it is only documented."""


@app.command(epilog=example("phantom phantom/ --patches 4000 --slides 24"))
def phantom(
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="New folder to write.")],
    patches: Annotated[int, typer.Option(help="Patches, training and test together.")] = 4000,
    slides: Annotated[int, typer.Option(help="Slides they are cut from.")] = 24,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 25,
    workers: Workers = 2,
) -> None:
    """Paint synthetic tissue and write it as a competition folder, with the truth beside it."""
    from sentinode.apps import console
    from sentinode.data.phantom import write_phantom
    from sentinode.progress import of_step

    with console.steps() as progress:
        summary = write_phantom(
            dest, patches=patches, slides=slides, seed=seed, workers=workers, on_progress=of_step(progress, "phantom")
        )
    console.say(f"{summary.patches:,} patches of synthetic tissue in {dest}")


@app.command(epilog=example("check histopathologic-cancer-detection/ --out check/"))
def check(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Folder for check.json and check.html.")] = None,
    slides: Slides = None,
    groups: Groups = None,
    cache: Cache = None,
    workers: Workers = 2,
) -> None:
    """Look for everything that may be wrong with a data folder; nothing is changed or dropped."""
    from sentinode import api
    from sentinode.apps import console

    asked = asked_settings(None, None, None, slides, groups, default="fair")
    with console.steps() as progress:
        result = api.check(data, asked.data, session_of(cache, "cpu", workers, progress), out=out)
    rows = [[what, f"{count:,}", note] for what, count, note in result.table()]
    console.show_table(
        f"{data}{f' ({result.folder.note})' if result.folder.note else ''}", ["what", "count", "note"], rows
    )
    if out:
        console.say(f"{out / 'check.html'}")


@app.command(epilog=example("split DATA --out split.csv --slides slides.csv"))
def split(
    data: Data,
    out: Annotated[Path, typer.Option(help="Table id,label,side,cluster to write.")],
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    preset: Preset = None,
    config: Config = None,
    settings: Settings = None,
    cache: Cache = None,
    workers: Workers = 2,
) -> None:
    """Draw the training and the validation side and save them as ids."""
    from sentinode import api
    from sentinode.apps import console

    asked = asked_settings(preset, config, settings, slides, groups, group_by, default="fair")
    with console.steps() as progress:
        drawn = api.split(data, asked.run_config(), out, session_of(cache, "cpu", workers, progress))
    for option, count in drawn.left_out.items():
        console.notice(f"left out: {count:,} ({option})")
    for text in drawn.notices:
        console.notice(text)
    console.say(f"{len(drawn.training):,} training and {len(drawn.validation):,} validation patches in {out}")
    console.say(f"Split {drawn.describe()}")


@app.command(epilog=example("study histopathologic-cancer-detection/ --preset fair --out study/"))
def study(
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="As for check; without it a phantom.")] = None,
    preset: Preset = None,
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs, report.html and submission.csv.")] = Path(
        "sentinode-study"
    ),
    settings: Settings = None,
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    folds: Folds = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Run the whole study: check, explore, split, compare, tune, predict, report."""
    from sentinode import api
    from sentinode.apps import console

    asked = asked_settings(preset, config, settings, slides, groups, group_by, folds, default="quick")
    with console.steps() as progress:
        session = session_of(cache, device, workers, progress)
        if data is None:
            console.notice("no DATA was given: the study uses a phantom, which is synthetic tissue")
        root = data or api.default_phantom(session)
        result = api.study(root, asked, out, session, preset=origin_of(preset, config, "quick"), resume=resume)
    for text in result.record.notices:
        console.notice(text)
    console.say(f"{out / 'report.html'}")
    if result.record.submission_rows:
        console.say(f"{out / 'submission.csv'}")


@app.command(epilog=example("train DATA --out run/ --preset fair --set model.norm=after --set fit.seed=26"))
def train(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder.")],
    preset: Preset = None,
    config: Config = None,
    settings: Settings = None,
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Train one network and keep everything that is needed to believe and to use it."""
    from sentinode import api
    from sentinode.apps import console, results

    asked = asked_settings(preset, config, settings, slides, groups, group_by, default="fair")
    with console.steps() as progress:
        run = api.fit(data, asked.run_config(), out, session_of(cache, device, workers, progress), resume=resume)
    for text in run.environment["notices"]:
        console.notice(text)
    results.show_scores(f"{out}: validation", run.scores)
    console.say(f"Split {run.environment['split']}")


@app.command(epilog=example("compare DATA --variants before after --seeds 5 --folds 3 --out comparison/"))
def compare(
    data: Annotated[
        Path, typer.Argument(metavar="DATA|RUN", help="As for check; or the first of several finished runs.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the runs and their report.")],
    variants: Annotated[
        list[str] | None,
        typer.Option(help="before, after, a preset, FILE.toml or key=value[,key=value]; repeat for each variant."),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[VARIANT|RUN]...", help="Further variants, or runs.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Repeats, each with a seed of its own (default: as the settings say).")
    ] = None,
    folds: Folds = None,
    leak: Annotated[
        bool, typer.Option("--leak", help="Fit one model on a grouped and on a random split: how much does it flatter?")
    ] = False,
    preset: Preset = None,
    config: Config = None,
    settings: Settings = None,
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Train variants on the same patches, splits, seeds and batch order, and weigh the differences.

    Folders of finished runs in place of DATA are compared as they are, where they pair.
    """
    from sentinode import api
    from sentinode.apps import console, results
    from sentinode.experiments.given import holds_runs
    from sentinode.settings import override

    asked = asked_settings(preset, config, settings, slides, groups, group_by, folds, default="fair")
    named = [*(variants or []), *(more or [])]
    if holds_runs(data):
        _refuse_beside_runs(
            {
                "--variants": variants,
                "--seeds": seeds,
                "--folds": folds,
                "--leak": leak,
                "--preset": preset,
                "--groups": groups,
                "--group-by": group_by,
                "--resume": resume,
            }
        )
        comparison, evidence = api.compare_runs([data, *map(Path, named)], out, asked, slides=slides)
        results.show_comparison(comparison, evidence)
        console.say(f"{out / 'report.html'}")
        return
    compares = bool(named) or not leak
    if compares:
        asked = api.with_variants(asked, named or asked.compare.variants)
    if seeds is not None:
        asked = api.with_seeds(asked, seeds)
    if leak and asked.split.folds is None:
        asked = override(asked, {"split.folds": _LEAK_FOLDS})
    with console.steps() as progress:
        session = session_of(cache, device, workers, progress)
        origin = origin_of(preset, config, "fair")
        result = api.compare(data, asked, out, session, preset=origin, resume=resume, variants=compares, leak=leak)
    results.show_study(result)
    console.say(f"{out / 'report.html'}")


def _refuse_beside_runs(options: dict[str, object]) -> None:
    from sentinode.errors import ConfigError

    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{given[0]} is for runs that are still to be trained, but finished ones were given",
            remedy="Leave it out, or give DATA in place of the runs.",
        )


@app.command(epilog=example("tune DATA --out tuning/ --set tune.sampler=tpe --set tune.trials=12"))
def tune(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the trials and their report.")],
    preset: Preset = None,
    config: Config = None,
    settings: Settings = None,
    slides: Slides = None,
    groups: Groups = None,
    group_by: GroupBy = None,
    folds: Folds = None,
    resume: Resume = False,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Search over settings (batch-norm momentum, if you say nothing else); every trial is a run."""
    from sentinode import api
    from sentinode.apps import console, results

    asked = asked_settings(preset, config, settings, slides, groups, group_by, folds, default="fair")
    with console.steps() as progress:
        session = session_of(cache, device, workers, progress)
        result = api.tune(data, asked, out, session, preset=origin_of(preset, config, "fair"), resume=resume)
    results.show_study(result)
    console.say(f"{out / 'report.html'}")


@app.command(epilog=example("predict run/ DATA/test --out submission.csv --like DATA/sample_submission.csv"))
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run or study.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of patches, or DATA (then its test part).")],
    out: Annotated[Path, typer.Option(help="Table id,label to write; label is a probability.")],
    like: Annotated[Path | None, typer.Option(help="Sample submission that gives the ids and their order.")] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="temperature or isotonic: mend the probabilities as fitted on validation."),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|NUMBER",
            help="youden, sensitivity, cost or a probability: write id,probability,positive. It holds for the "
            "probability before --calibrate, which changes no decision.",
        ),
    ] = None,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Predict patches and write a submission whose ids and values have been checked."""
    from sentinode import api
    from sentinode.apps import console

    with console.steps() as progress:
        session = session_of(cache, device, workers, progress)
        table = api.predict(run, images, out, session, like=like, calibrate=calibrate, threshold=threshold)
    console.say(f"{len(table):,} probabilities in {out}")
    if threshold is not None:
        point = api.operating_point(run, threshold)
        console.say(f"{table['positive'].sum():,} positive, above {point.threshold:.6g} ({point.rule})")
        console.say(f"On the validation side: sensitivity {point.sensitivity:.3f}, specificity {point.specificity:.3f}")


@app.command(epilog=example("evaluate run/ DATA --labels solution.csv --out scores/"))
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run or study.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with the patches that the labels name.")],
    labels: Annotated[Path, typer.Option(help="Table id,label.")],
    out: Annotated[Path | None, typer.Option(help="Folder for predictions.csv and scores.json.")] = None,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Score a run on patches whose labels you have."""
    from sentinode import api
    from sentinode.apps import console, results

    with console.steps() as progress:
        scores = api.evaluate(run, data, labels, session_of(cache, device, workers, progress), out=out)
    results.show_scores(f"{run} on {labels.name}", scores)


@app.command(epilog=example("report study/"))
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What study, compare, tune, train or check wrote.")],
) -> None:
    """Draw the pages of a folder anew, from what is in it."""
    from sentinode.apps import console
    from sentinode.report.page import write_report

    for path in write_report(folder):
        console.say(str(path))


@app.command(epilog=example("doctor"))
def doctor(cache: Cache = None) -> None:
    """Say what this installation can do: versions, device, threads, disk, extras."""
    from sentinode.apps import console
    from sentinode.apps.doctor import examine

    console.show_table("sentinode doctor", ["what", "found"], examine(cache_root(cache)))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code: 0 done, 1 failed, 2 bad input."""
    from sentinode.apps.console import exit_code_of

    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    return exit_code_of(lambda: app(rest, prog_name="sentinode"), debug=debug)


def main() -> None:
    """Entry point of the command `sentinode`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
