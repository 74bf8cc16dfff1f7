"""The command that serves a finished model: a REST service and a page, from one port of this machine."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from sentinode.apps.options import Cache, Device, Networks, Runtime, Threads, own_network, session_of
from sentinode.apps.paths import require_model
from sentinode.errors import ConfigError
from sentinode.files import EXPORTED, read_bytes

_SHORTEST_TOKEN: Final = 16


def serve(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run or study, or a file that `export` wrote.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's own need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8800,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A token of 16 characters or more, which clients must send.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name of this machine that clients use (addresses and localhost go)."),
    ] = None,
    explanations: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="What `explain` wrote of this run: maps that passed their exam are shown."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="What RUN was trained on: the training patches most like each are shown."),
    ] = None,
    slides: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Slides to show, by deep zoom.")] = None,
    heatmaps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where heat maps of FOLDER are kept: what `slides` wrote, and what is asked for."
        ),
    ] = None,
    largest_slide: Annotated[
        float, typer.Option(min=0, metavar="GIB", help="The largest slide that clients may send; 0 for none at all.")
    ] = 4.0,
    networks: Networks = None,
    cache: Cache = None,
    device: Device = "auto",
    threads: Threads = None,
    runtime: Runtime = "fastest",
) -> None:
    """Serve a finished model to programs and browsers of this machine: patches in, probabilities and reasons out.

    The page is at the address that is printed; /openapi.json describes the service for programs. Ctrl-C ends it, after
    what was begun is answered.
    """
    require_model(run)
    token = _token(token_file)
    own = own_network(networks)

    from sentinode.apps import console
    from sentinode.machine import optional_module

    for module in ("fastapi", "uvicorn", "python_multipart"):
        optional_module(module, what="the service", extra="serve")
    from sentinode.apps.web.gate import is_loopback

    if token is None and not is_loopback(host):
        raise ConfigError(
            "other machines could reach the service, and nothing asks who they are",
            where=f"--host {host}",
            remedy="Give --token-file, or leave --host out.",
        )
    if slides is not None and not slides.is_dir():
        raise ConfigError("is not a directory", where=slides, remedy="Give the folder of the slides to show.")
    if heatmaps is not None and slides is None:
        raise ConfigError("are of slides, and none are given", where="--heatmaps", remedy="Give --slides FOLDER.")
    from sentinode.api.explain import training_neighbours
    from sentinode.api.load import load
    from sentinode.api.slides import usual_settings
    from sentinode.apps.web.deep_zoom import Slides
    from sentinode.apps.web.jobs import Jobs
    from sentinode.apps.web.judge import HowToJudge, JudgingProcess
    from sentinode.apps.web.sent_slides import SentSlides
    from sentinode.apps.web.server import application, bound
    from sentinode.apps.web.server import serve as answer
    from sentinode.apps.web.service import Service, examined_maps
    from sentinode.apps.web.uploads import Limits
    from sentinode.artefacts import passing_folder
    from sentinode.runs.load import digest_of_model
    from sentinode.runs.run import digest_of

    with ExitStack() as until_the_end:
        listening = until_the_end.enter_context(bound(host, port))
        progress = until_the_end.enter_context(console.steps())
        session = session_of(cache, device, 1, progress, threads=threads, runtime=runtime)
        classifier = load(run, network=own, session=session)
        digest = digest_of(run) if run.suffix.lower() == EXPORTED and run.is_file() else digest_of_model(run)
        maps = "the service was started without --explanations"
        found = maps if explanations is None else examined_maps(explanations, classifier, digest)
        nearest = None if data is None else training_neighbours(run, data, session, network=own)
        limits, shown = Limits(slide_bytes=int(largest_slide * 2**30)), Slides(slides, heatmaps)
        sent = None
        if largest_slide:
            folder = until_the_end.enter_context(passing_folder(session.cache_root / "sent"))
            sent = SentSlides(folder, shown, limits)
        jobs: Jobs | str = "the service judges slides only by a run's folder. Start it with that"
        if run.is_dir():
            settings = usual_settings(classifier, session)
            how = HowToJudge(run, tuple(networks or ()), settings, cache, device, session.threads, runtime)
            jobs = Jobs(JudgingProcess(how), digest, settings)
        service = Service(
            classifier,
            digest,
            maps=found,
            limits=limits,
            neighbours=nearest,
            slides=shown,
            sent=sent,
            jobs=jobs,
            notify=console.notice,
        )
        app = application(service, names=name or (), token=token)
        at = f"[{host}]" if ":" in host else host
        console.say(f"{classifier.name}: http://{at}:{listening.getsockname()[1]} (Ctrl-C ends it)")
        if isinstance(found, str) and explanations is not None:
            console.notice(f"no maps are shown: {found}")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # a container's stop is as good as Ctrl-C
        try:
            answer(app, service, listening)
        except KeyboardInterrupt:  # raised again, after what was begun is answered
            console.say(f"stopped; {service.metrics.patches:,} patches were judged")


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    content = read_bytes(file, limit_mb=0.01, remedy="Give a file with a token.", kind=ConfigError)
    text = content.decode("ascii", "replace").strip()
    if len(text) < _SHORTEST_TOKEN or not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        raise ConfigError(
            f"holds no token of {_SHORTEST_TOKEN} or more printable ASCII characters",
            where=file,
            remedy="Write one with: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return text
