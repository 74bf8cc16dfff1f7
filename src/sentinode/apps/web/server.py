"""The service over HTTP: routes, errors as problem details, the page; and the process that serves them."""

from __future__ import annotations

import asyncio
import mimetypes
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

import sentinode
from sentinode.apps.web.answers import (
    RESEARCH_USE,
    EvidenceMap,
    HeatMapCell,
    Job,
    JobList,
    Judged,
    ModelCard,
    Problem,
    SlideCard,
    SlideNames,
    TrainingNeighbours,
)
from sentinode.apps.web.batcher import BusyError
from sentinode.apps.web.connections import Connection
from sentinode.apps.web.deep_zoom import Slides
from sentinode.apps.web.gate import PROBLEM, SLIDES, Gate, problem
from sentinode.apps.web.heat_maps import HeatMapFiles
from sentinode.apps.web.service import Service
from sentinode.apps.web.uploads import MULTIPART, NPY, RAW, RefusedError, files_of, patches_of_npy
from sentinode.errors import FailureError, MissingExtraError, one_line
from sentinode.evaluation.calibration import Method
from sentinode.exports.html_page import IMAGE_READER
from sentinode.inference.classifier import Pixels

T = TypeVar("T")
_STATIC: Final = Path(__file__).parent / "static"
_GRACE_S: Final = 30
_BACKLOG: Final = 512
_BEAT_S: Final = 15.0  # a stream without news says something, lest a proxy takes it for dead
_IMAGE: Final = {"type": "string", "format": "binary"}
_FILES: Final = {"schema": {"type": "object", "properties": {"files": {"type": "array", "items": _IMAGE}}}}
_BODY: Final = {"requestBody": {"required": True, "content": {MULTIPART: _FILES, NPY: {"schema": _IMAGE}}}}
_SLIDE: Final = {"requestBody": {"required": True, "content": {RAW: {"schema": _IMAGE}}}}
_PROBLEM: Final = {PROBLEM: {"schema": Problem.model_json_schema()}}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"content": _PROBLEM, "description": "What is wrong, in one line."},
    503: {"content": _PROBLEM, "description": "Not now; see Retry-After."},
}

Spacing = Annotated[
    float | None,
    Query(gt=0, le=100, description="What a pixel of the images measures, in um, where they are not 96 x 96 pixels."),
]
Threshold = Annotated[
    str | None,
    Query(max_length=32, description="An operating point, youden, sensitivity or cost, or a probability."),
]

Place = Annotated[float, Query(ge=0, le=1e9, allow_inf_nan=False, description="In pixels of level 0.")]


def application(service: Service, *, names: Collection[str] = (), token: str | None = None) -> ASGIApp:
    """The service as an ASGI application.

    `names`: that `Host` may say, beside localhost and addresses. `token`: without which only the page, its documents
    and the health of the service are to be had; None for everybody.
    """
    routes, limits = _routes(service), service.limits
    return Gate(routes, service.metrics, limits, names, token.encode() if token else None, {})


class Server(uvicorn.Server):
    """Uvicorn's, with connections of our limits; those who hear of jobs are let go before it waits for the others."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._leave = service.leave
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection.within(service.limits),
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, and answer what was begun."""
        self._leave()
        await super().shutdown(sockets)


def serve(app: ASGIApp, service: Service, listening: socket.socket) -> None:
    """Answer on a bound socket until Ctrl-C or SIGTERM; requests that were begun are answered first."""
    Server(app, service).run(sockets=[listening])


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises FailureError where it cannot, such as for a port that is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FailureError(
            f"cannot listen ({reason})", where=f"{host}:{port}", remedy="Choose another --host or --port."
        ) from error


def _routes(service: Service) -> FastAPI:
    limits, streams = service.limits, set[object]()

    @asynccontextmanager
    async def alive(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="sentinode",
        version=sentinode.__version__,
        description=RESEARCH_USE,
        docs_url=None,  # both fetch their scripts from elsewhere; docs.html is ours
        redoc_url=None,
        lifespan=alive,
        responses=_PROBLEMS,
    )

    async def patches_of(request: Request, spacing: float | None) -> tuple[list[str], Pixels]:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind not in (MULTIPART, NPY):
            raise RefusedError(415, f"Content-Type: {kind[:80] or 'none'}. Send {MULTIPART} or {NPY}.")
        try:
            async with asyncio.timeout(limits.body_s):
                if kind == NPY:
                    patches = patches_of_npy(await request.body(), limits)
                    return [f"patch {number}" for number in range(len(patches))], patches
                files = await files_of(request, limits)
        except TimeoutError as error:
            raise RefusedError(
                408, f"the body: did not arrive within {limits.body_s:g} s. Send fewer images at once."
            ) from error
        return [name for name, _ in files], await service.decoded(files, spacing)

    @app.post("/v1/predict", openapi_extra=_BODY, summary="Judge patches")
    async def predict(
        request: Request, spacing: Spacing = None, threshold: Threshold = None, calibration: Method = "temperature"
    ) -> Judged:
        async with asyncio.timeout(limits.body_s + limits.answer_s):
            names, patches = await patches_of(request, spacing)
            return await service.judge(names, patches, threshold, calibration)

    @app.post("/v1/explain", openapi_extra=_BODY, summary="Show where in a patch the evidence lies")
    async def explain(request: Request, spacing: Spacing = None) -> EvidenceMap:
        async with asyncio.timeout(limits.body_s + limits.answer_s):
            _, patches = await patches_of(request, spacing)
            if len(patches) != 1:
                raise RefusedError(422, f"the body: holds {len(patches)} patches. Send one at a time.")
            return await service.explain(patches[0])

    @app.post("/v1/neighbours", openapi_extra=_BODY, summary="Show the training patches most like each patch")
    async def neighbours(request: Request, spacing: Spacing = None) -> TrainingNeighbours:
        async with asyncio.timeout(limits.body_s + limits.answer_s):
            _, patches = await patches_of(request, spacing)
            return await service.nearest(patches)

    @app.get("/v1/model", summary="The model: its card, scores with 95 % intervals, operating points")
    async def model() -> ModelCard:
        return await service.card()

    async def of_slide(ask: Callable[..., T], *given: str | int) -> T:
        async with asyncio.timeout(limits.answer_s):
            return await service.of_slides(ask, *given)

    @app.get("/v1/slides", summary="The names of the slides")
    async def slides() -> SlideNames:
        return SlideNames(slides=service.slides.names)

    @app.post(SLIDES, status_code=201, openapi_extra=_SLIDE, summary="Send a slide, to be shown until it is removed")
    async def send_slide(
        request: Request, name: Annotated[str, Query(min_length=1, max_length=255)], spacing: Spacing = None
    ) -> SlideCard:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != RAW:
            raise RefusedError(415, f"Content-Type: {kind[:80] or 'none'}. Send the slide's file as {RAW}.")
        length = request.headers.get("content-length")
        return await service.receive_slide(name, spacing, int(length) if length else None, request.stream())

    @app.delete("/v1/slides/{name}", status_code=204, summary="Remove a slide that was sent, and its heat map")
    async def remove_slide(name: str) -> None:
        await service.remove_slide(name)

    @app.get("/v1/slides/{name}", summary="A slide's size and spacing, and the place of its heat map")
    async def slide(name: str) -> SlideCard:
        return await of_slide(Slides.card, name)

    @app.get("/v1/slides/{name}/image.dzi", response_class=Response, summary="The slide's Deep Zoom descriptor")
    async def descriptor(name: str) -> Response:
        return Response(await of_slide(Slides.descriptor, name), media_type="application/xml")

    @app.get("/v1/slides/{name}/image_files/{level}/{column}_{row}.jpeg", response_class=Response, summary="A tile")
    async def tile(name: str, level: int, column: int, row: int) -> Response:
        return Response(await of_slide(Slides.tile, name, level, column, row), media_type="image/jpeg")

    async def of_heat_map(name: str, ask: Callable[..., T], *given: str | float) -> T:
        return await of_slide(lambda slides: ask(slides.heat_map(name), *given))

    @app.get("/v1/slides/{name}/heatmap.png", response_class=Response, summary="The heat map, a pixel a cell")
    async def heat_map(name: str) -> Response:
        return Response(await of_heat_map(name, HeatMapFiles.picture), media_type="image/png")

    @app.get(
        "/v1/slides/{name}/heatmap_files/{layer}/{level}/{column}_{row}.png",
        response_class=Response,
        summary="A tile of a layer of the heat map: 0 not judged, 1 to 255 from 0 to 1",
    )
    async def heat_tile(name: str, layer: str, level: int, column: int, row: int) -> Response:
        return Response(await of_heat_map(name, HeatMapFiles.tile, layer, level, column, row), media_type="image/png")

    @app.get("/v1/slides/{name}/cells", summary="What is said of the cell at a pixel of level 0")
    async def cell(name: str, x: Place, y: Place) -> HeatMapCell:
        return await of_heat_map(name, HeatMapFiles.cell, x, y)

    @app.get("/v1/slides/{name}/lesions.geojson", response_class=Response, summary="The lesions, as QuPath opens them")
    async def lesions(name: str) -> Response:
        return Response(await of_heat_map(name, HeatMapFiles.lesions), media_type="application/geo+json")

    @app.post(
        "/v1/slides/{name}/heatmap",
        status_code=202,
        responses={200: {"model": Job, "description": "It is there already."}},
        summary="Have a slide judged",
    )
    async def ask_heat_map(name: str, response: Response) -> Job:
        async with asyncio.timeout(limits.answer_s):
            job = await service.ask_heat_map(name)
        response.status_code = 200 if job.is_over else 202
        return job

    @app.get("/v1/jobs", summary="The heat maps that were asked for")
    async def jobs() -> JobList:
        return JobList(jobs=service.asked_for)

    @app.get("/v1/jobs/{number}", summary="How far a heat map is")
    async def job(number: str) -> Job:
        return service.jobs.job(number)

    @app.get(
        "/v1/jobs/{number}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}, "description": "progress, and at last done or failed."}},
        summary="How far a heat map is, at once and on each change, until it is over",
    )
    async def events(number: str) -> StreamingResponse:
        service.jobs.job(number)  # raises for one that is not there
        if len(streams) >= limits.streams:
            raise BusyError

        async def told() -> AsyncIterator[str]:
            streams.add(stream := object())
            try:
                async for job in service.jobs.follow(number, _BEAT_S):
                    kind = job.state if job and job.is_over else "progress"
                    yield f"event: {kind}\ndata: {job.model_dump_json()}\n\n" if job else ": nothing new\n\n"
            finally:
                streams.discard(stream)

        return StreamingResponse(told(), media_type="text/event-stream")

    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the process lives")
    async def healthz() -> str:
        return "alive\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Whether the model is loaded and takes requests")
    async def readyz() -> str:
        if not service.ready:
            raise RefusedError(503, "the model: is being loaded, or the service is stopping. Come again.")
        return "ready\n"

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counters, for Prometheus")
    async def metrics() -> PlainTextResponse:
        gauges = {
            "patches_waiting": service.batcher.waiting,
            "heat_maps_waiting": sum(not job.is_over for job in service.asked_for),
            "slides_sent": len(service.slides.uploaded),
            "ready": float(service.ready),
        }
        text = service.metrics.text(gauges)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    mimetypes.add_type("text/javascript", ".js")  # some systems know it by a name that browsers refuse
    files = {path.name: path for path in (*_STATIC.iterdir(), IMAGE_READER)}

    @app.get("/docs", include_in_schema=False)
    async def documents() -> FileResponse:
        return FileResponse(files["docs.html"])

    @app.get("/", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    async def page(name: str = "index.html") -> FileResponse:
        if name not in files:  # no path from a request is ever opened
            raise HTTPException(404)
        return FileResponse(files[name])

    _tell_problems(app, service)
    return app


def _tell_problems(app: FastAPI, service: Service) -> None:
    """Every error leaves as problem details in one line; one that is a bug says no more of the inside than that."""

    def tell(kind: type[Exception], answer: Callable[[Any], Response]) -> None:
        async def handler(_: Request, error: Exception) -> Response:
            return answer(error)

        app.add_exception_handler(kind, handler)

    def wrong(error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:])) or "the request"
        return problem(422, one_line(f"{place}: {first['msg']}. See /openapi.json."))

    def foreign(error: HTTPException) -> Response:
        said = {404: "There is nothing at this path", 405: "This path does not take this method"}
        text = said.get(error.status_code, HTTPStatus(error.status_code).phrase)
        return problem(error.status_code, f"{text}. See /openapi.json.")

    tell(RefusedError, lambda error: problem(error.status, error.detail))
    tell(ClientDisconnect, lambda _: problem(400, "the body: ended before it was complete. Send it again."))
    tell(BusyError, lambda _: problem(429, "too much is waiting to be computed. Come again in 1 s."))
    tell(TimeoutError, lambda _: problem(503, f"no answer within {service.limits.answer_s:g} s. Send fewer at once."))
    tell(MissingExtraError, lambda error: problem(501, f"the service: {error.what}. {error.remedy}."))
    tell(RequestValidationError, wrong)
    tell(HTTPException, foreign)
    tell(Exception, lambda _: problem(500, "the service: failed. This is a bug: its log says more. Please report it."))
