"""Commands on whole slides."""

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
    Resume,
    Runtime,
    ShardName,
    TaskSettings,
    Threads,
    asked_shard,
    of_tasks,
    own_network,
    session_of,
)
from sentinode.apps.paths import require_results, require_slides, require_something_to_draw, require_table


def slides(
    run: Finished,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDE...", help="Slides, directories of slides, or tables slide[,spacing] (CSV, relative paths)."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for heat maps, lesions, slides.csv, report.html.")],
    resume: Resume = False,
    spacing: Annotated[
        float | None, typer.Option(metavar="UM", help="Micrometres a pixel of level 0, for files that have none.")
    ] = None,
    at: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Table x,y of centres, in pixels of level 0: judge these places alone."),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|NUMBER", help="Lesions are cells above it: youden (default), sensitivity, cost or a number."
        ),
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Calibrate the probabilities: temperature or isotonic.")
    ] = None,
    stride: Annotated[
        int, typer.Option(metavar="PX", help="Side of a cell, in pixels of the model's spacing: 32, 16 or 8.")
    ] = 32,
    dense: Annotated[
        bool,
        typer.Option(
            "--dense", help="One pass over a block of the slide where a network can: faster, and not quite the same."
        ),
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Let the student of RUN judge, a fast network that `distill` left beside it.")
    ] = False,
    networks: Networks = None,
    cache: Cache = None,
    device: Device = "auto",
    threads: Threads = None,
    runtime: Runtime = "fastest",
    engine: EngineName = "here",
    processes: ProcessCount = None,
    address: Address = None,
    settings: TaskSettings = None,
    shard: ShardName = None,
) -> None:
    """Judge whole slides: a heat map, lesions and pictures of each, and a table and a page of all."""
    require_results(run)
    require_slides(sources)
    require_table(at)
    part, own = asked_shard(shard), own_network(networks)

    from sentinode.api import slides as api
    from sentinode.apps import console, results

    with console.steps() as progress:
        session = session_of(
            cache, device, 1, progress, threads=threads, runtime=runtime, engine=(engine, processes, address)
        )
        record = api.judge_slides(
            run,
            sources,
            out,
            session,
            resume=resume,
            spacing=spacing,
            at=at,
            threshold=threshold,
            calibrate=calibrate,
            stride=stride,
            dense=dense,
            fast=fast,
            network=own,
            shard=part,
            settings=of_tasks(settings, engine),
        )
    results.show_slides(record)
    if part is None:
        console.say(f"{out / 'report.html'}")
    else:
        console.say(f"shard {shard}: {len(record.rows)} slides; give --resume without --shard when all shards are done")
    if record.failed:
        raise SystemExit(1)


def score_slides(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="What `slides` wrote.")],
    truth: Annotated[
        Path,
        typer.Argument(
            metavar="TRUTH",
            help="Directory of annotations, NAME.xml (ASAP) or NAME.geojson; slides without are normal.",
        ),
    ],
    official: Annotated[bool, typer.Option("--official", help="Add CAMELYON16's own rules.")] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Compare with another model's results on the same slides.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Table slide,patient: add the patients' stages.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the record to this file.")] = None,
) -> None:
    """Score judged slides by annotations: FROC, AUC, Dice, with intervals from a bootstrap of slides."""
    require_something_to_draw(results)
    require_table(patients)

    from sentinode.api import slides as api
    from sentinode.apps import results as shown

    found = api.score_slides(results, truth, official=official, against=against, patients=patients, out=out)
    shown.show_slide_scores(found)
