"""The command line: it parses, calls and prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from sentinode.apps import on_data, on_experiments, on_runs, on_slides, on_web
from sentinode.apps.options import Cache, cache_root
from sentinode.apps.start import prepare_process

app = typer.Typer(
    name="sentinode",
    help="Train, compare and tune CNN classifiers for metastatic tissue in lymph-node patches, with comparisons that "
    "can be believed. For research; not a medical device.",
    epilog="Start with: sentinode study --preset quick",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def doctor(cache: Cache = None) -> None:
    """Show what this installation can do: versions, device, threads, disk, extras."""
    from sentinode.apps import console
    from sentinode.apps.doctor import examine

    console.show_table("sentinode doctor", ["what", "found"], examine(cache_root(cache)))


_COMMANDS = (
    (on_data.phantom, "phantom phantom/ --patches 4000 --slides 24"),
    (on_data.check, "check histopathologic-cancer-detection/ --out check/"),
    (on_data.convert, "convert histopathologic-cancer-detection.zip patches/ --to classes"),
    (on_data.split, "split DATA --out split.csv --slides slides.csv"),
    (on_experiments.study, "study histopathologic-cancer-detection/ --preset fair --out study/"),
    (on_experiments.train, "train DATA --out run/ --preset fair --set model.norm=after --set fit.seed=26"),
    (on_experiments.distill, "distill strong/ DATA --out swift/"),
    (on_experiments.compare, "compare DATA --variants before after --seeds 5 --folds 3 --out comparison/"),
    (on_experiments.tune, "tune DATA --out tuning/ --set tune.sampler=tpe --set tune.trials=12"),
    (on_runs.ensemble, "ensemble run-25/ run-26/ run-27/ --out ensemble/"),
    (on_runs.predict, "predict run/ DATA/test --out submission.csv --like DATA/sample_submission.csv"),
    (on_runs.evaluate, "evaluate run/ DATA --labels solution.csv --out scores/"),
    (on_runs.explain, "explain run/ DATA --labels solution.csv --out explanation/"),
    (on_runs.export, "export run/ --to onnx --data DATA/ --out model/"),
    (on_slides.slides, "slides run/ SLIDES/ --out heatmaps/"),
    (on_slides.score_slides, "score-slides heatmaps/ ANNOTATIONS/ --official"),
    (on_web.serve, "serve run/ --explanations explanation/"),
    (on_runs.report, "report study/"),
    (on_data.cache, "cache --limit 20"),
    (doctor, "doctor"),
)


def _flowing(command: Callable[..., None]) -> str:
    """A command's docstring without the breaks within its paragraphs, which typer keeps in all but the first."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


for _command, _example in _COMMANDS:
    app.command(help=_flowing(_command), epilog=f"Example: sentinode {_example}")(_command)


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code: 0 done, 1 failed, 2 bad input."""
    from sentinode.apps.console import exit_code_of

    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    # Not standalone: typer leaves its errors, which it would draw as boxes, to be told as all others are.
    return exit_code_of(lambda: app(rest, prog_name="sentinode", standalone_mode=False), debug=debug)


def main() -> None:
    """Entry point of the command `sentinode`."""
    prepare_process()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
