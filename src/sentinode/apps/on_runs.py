"""Commands on finished runs: join them, predict, score, and draw their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sentinode.apps.options import (
    Address,
    Cache,
    Device,
    EngineName,
    Finished,
    Networks,
    ProcessCount,
    Runtime,
    Slides,
    Spacing,
    TaskSettings,
    Threads,
    Workers,
    of_tasks,
    own_network,
    session_of,
    weighting,
)
from sentinode.apps.paths import (
    require_data,
    require_model,
    require_patches,
    require_results,
    require_something_to_draw,
    require_table,
)


def ensemble(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of finished runs or studies (of a study: the runs of the chosen variant)."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the ensemble, a run like any other.")],
    weights: Annotated[
        str, typer.Option(help="Weights of members: fitted (lowest log loss on the shared validation set) or equal.")
    ] = "fitted",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Join finished runs of several seeds or architectures into an ensemble, which is used like a run."""
    require_results(*runs)

    from sentinode.api import experiments as api
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(None, device, 1, progress, threads=threads)
        run = api.ensemble(runs, out, session, weights=weighting(weights))
    for text in run.environment["notices"]:
        console.notice(text)
    results.show_members(run)
    results.show_scores(f"{out}: validation", run.scores)
    console.say(f"{out / 'report.html'}")


def predict(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run or study, or a file that `export` wrote.")
    ],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of patches, or DATA (then its test part).")],
    out: Annotated[Path, typer.Option(help="Table id,label to write; label is a probability.")],
    like: Annotated[Path | None, typer.Option(help="Sample submission that gives the ids and their order.")] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Calibrate the probabilities, as fitted on the validation set: temperature or isotonic.",
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|NUMBER",
            help="youden, sensitivity, cost or a probability: write id,probability,positive. It holds for the "
            "probability before --calibrate, which changes no decision.",
        ),
    ] = None,
    spacing: Spacing = None,
    networks: Networks = None,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
    runtime: Runtime = "fastest",
    engine: EngineName = "here",
    processes: ProcessCount = None,
    address: Address = None,
    settings: TaskSettings = None,
) -> None:
    """Predict patches and write a submission whose ids and values have been checked."""
    require_model(run)
    require_patches(images)
    require_table(like)
    own = own_network(networks)

    from sentinode.api import runs as api
    from sentinode.apps import console

    with console.steps() as progress:
        session = session_of(
            cache,
            device,
            workers,
            progress,
            threads=threads,
            runtime=runtime,
            engine=(engine, processes, address),
        )
        classifier = api.load(run, network=own, session=session)
        table = api.predict(
            classifier,
            images,
            out,
            session,
            like=like,
            calibrate=calibrate,
            threshold=threshold,
            spacing=spacing,
            settings=of_tasks(settings, engine),
        )
    console.say(f"{len(table):,} probabilities in {out}, computed by {' and '.join(classifier.runtimes)}")
    if threshold is not None:
        point = classifier.operating_point(threshold)
        console.say(f"{table['positive'].sum():,} positive, above {point.threshold:.6g} ({point.rule})")
        console.say(f"On the validation set: sensitivity {point.sensitivity:.3f}, specificity {point.specificity:.3f}")


def evaluate(
    run: Finished,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with the patches that the labels name.")],
    labels: Annotated[
        Path | None, typer.Option(help="Table id,label (default: the labels of PatchCamelyon's test part in DATA).")
    ] = None,
    slides: Slides = None,
    spacing: Spacing = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for scores.json, predictions.csv and report.html.")
    ] = None,
    networks: Networks = None,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
    runtime: Runtime = "fastest",
    engine: EngineName = "here",
    processes: ProcessCount = None,
    address: Address = None,
    settings: TaskSettings = None,
) -> None:
    """Score a run on labelled patches: each score with its interval, and a table by slide."""
    require_results(run)
    require_patches(data)
    require_table(labels)
    own = own_network(networks)

    from sentinode.api import runs as api
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(
            cache,
            device,
            workers,
            progress,
            threads=threads,
            runtime=runtime,
            engine=(engine, processes, address),
        )
        found = api.evaluate(
            run,
            data,
            labels,
            session,
            slides=slides,
            spacing=spacing,
            out=out,
            network=own,
            settings=of_tasks(settings, engine),
        )
    results.show_evaluation(found)
    if out is not None:
        console.say(f"{out / 'report.html'}")


def explain(
    run: Finished,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", help="Folder of patches, or DATA (then its test part); with --at the file of a slide."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for explanation.json, patches.csv, pictures/ and report.html.")
    ],
    labels: Annotated[
        Path | None, typer.Option(help="Table id,label: with labels, concepts are weighed and mistakes shown.")
    ] = None,
    slides: Slides = None,
    at: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="x,y of centres on a slide, in pixels of level 0.")
    ] = None,
    patches: Annotated[int, typer.Option(min=1, metavar="N", help="Explain at most so many, drawn by chance.")] = 2000,
    views: Annotated[
        int | None, typer.Option(help="1 (as they lie) or 8 (default: as the run predicts); 8 take 8 times as long.")
    ] = None,
    examined: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="An earlier explanation of this run, whose exam counts: for a few patches."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Another run, compared on the same patches.")
    ] = None,
    spacing: Spacing = None,
    networks: Networks = None,
    cache: Cache = None,
    device: Device = "auto",
    workers: Workers = 2,
    threads: Threads = None,
    runtime: Runtime = "fastest",
) -> None:
    """Show what a run looks at: maps that passed an exam, centre against surroundings, concepts."""
    require_results(run)
    require_results(*([against] if against else []))
    if at is None:
        require_patches(images)
    require_table(labels)
    require_table(at)
    own = own_network(networks)

    from sentinode.api.explain import explain_model
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(cache, device, workers, progress, threads=threads, runtime=runtime)
        found = explain_model(
            run,
            images,
            out,
            session,
            labels=labels,
            slides=slides,
            spacing=spacing,
            at=at,
            patches=patches,
            views=views,
            examined=examined,
            against=against,
            network=own,
        )
    results.show_explanation(found)
    console.say(f"{out / 'report.html'}")


def export(
    run: Finished,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the model and parity.json.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="Format: onnx, map, openvino, torchscript, wsinfer (and QuPath), huggingface, html or all.",
        ),
    ] = "onnx",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="What the run was trained on: it is compared on the validation set (else on noise)."
        ),
    ] = None,
    patches: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many of them.")] = 2000,
    spacing: Spacing = None,
    networks: Networks = None,
    cache: Cache = None,
    workers: Workers = 2,
    threads: Threads = None,
) -> None:
    """Write a run as a file that other programs compute, with a certificate of how far it is from the run."""
    require_results(run)
    if data is not None:
        require_data(data)
    own = own_network(networks)

    from sentinode.api.export import export as export_run
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(cache, "cpu", workers, progress, threads=threads)
        found = export_run(run, to, out, session, data=data, patches=patches, spacing=spacing, network=own)
    results.show_certificates(found)
    console.say(str(out))


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What study, compare, tune, train or check wrote.")],
    files: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for every figure (SVG, PDF, PNG) and table (CSV, LaTeX)."),
    ] = None,
) -> None:
    """Draw the pages of a folder again, from its records; save their figures and tables for a paper."""
    require_something_to_draw(folder)

    from sentinode.apps import console
    from sentinode.report.pages.page import write_report

    for path in write_report(folder, files=files):
        console.say(str(path))
    if files:
        console.say(str(files))
