"""What the service does, without HTTP: a finished model judges patches, and shows maps that passed their exam."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from PIL import Image

from sentinode.apps.web.answers import (
    EvidenceMap,
    Job,
    Judged,
    JudgedPatch,
    ModelCard,
    ModelScore,
    Point,
    SlideCard,
    TrainingNeighbours,
    TrainingPatch,
)
from sentinode.apps.web.batcher import Batcher, BusyError
from sentinode.apps.web.deep_zoom import Slides
from sentinode.apps.web.jobs import Jobs
from sentinode.apps.web.metrics import Metrics
from sentinode.apps.web.sent_slides import SentSlides, discard
from sentinode.apps.web.uploads import Limits, RefusedError, decoded
from sentinode.data.images import PATCH_SIZE_PX, Patch, patch_id
from sentinode.data.patches import UNLABELLED, PatchSet
from sentinode.errors import ConfigError, SentinodeError
from sentinode.evaluation.calibration import Calibration, Method
from sentinode.evaluation.threshold import OperatingPoint
from sentinode.explain.explanation import EXPLANATION, Explanation, require_exam_of
from sentinode.explain.neighbours import NeighbourSearch
from sentinode.inference.attribution import METHODS, ExplainedLogit, attribute
from sentinode.inference.attribution import Method as MapMethod
from sentinode.inference.classifier import Classifier, Pixels
from sentinode.inference.network import Probabilities
from sentinode.records import read_record
from sentinode.slides.guard import Unlike, features_of_patches, out_of_focus, unlike

T = TypeVar("T")
MOST_MAPS_WAITING: Final = 8
MOST_COMPARED: Final = 32
_NO_NEIGHBOURS: Final = "the service was started without --data"
_NEIGHBOURS: Final = 3  # of each class
DEFAULT_POINT: Final = "youden"
_LOOKED_FOR_UNUSED_S: Final = 60.0


@dataclass(frozen=True, eq=False)
class ShownMaps:
    """The method whose maps are shown of a model, since it passed its exam."""

    method: MapMethod
    explained: ExplainedLogit
    limit: float


def examined_maps(folder: Path, classifier: Classifier, digest: str) -> ShownMaps | str:
    """Of a folder of `sentinode explain`; or why no maps can be shown, because none passed.

    Raises RunError and ConfigError where the folder is no explanation of this model, as it predicts.
    """
    found = read_record(folder / EXPLANATION, Explanation)
    exam = require_exam_of(found, digest, classifier.views, folder)
    passed = [method for method in METHODS if method in exam.passed]
    if not passed:
        return "no method's maps passed their exam on this model"
    return ShownMaps(passed[0], ExplainedLogit.of(classifier), found.limit)


def reasons_of(patches: Pixels) -> list[list[str]]:
    """Why each patch is not like those of lymph node in H&E, as heat maps of slides say it; empty where it is like."""
    features = features_of_patches(patches)
    told = zip(unlike(features).tolist(), out_of_focus(features).tolist(), strict=True)
    return [[*([Unlike(code).word] if code else []), *(["out of focus"] if blurred else [])] for code, blurred in told]


def _looked_at(
    patches: Pixels, probabilities: Probabilities, fitted: Calibration | None
) -> list[tuple[str, list[str], float | None]]:
    """Of each patch its id, its reasons and its calibrated probability: the last one by one, as it would be alone.

    A vector's last numbers may be computed by other instructions than its first.
    """
    ids, reasons = map(patch_id, patches), reasons_of(patches)
    calibrated = (float(fitted.apply(p[None])[0]) if fitted else None for p in probabilities)
    return list(zip(ids, reasons, calibrated, strict=True))


def _nearest(search: NeighbourSearch, patches: Pixels) -> list[list[TrainingPatch]]:
    """A patch that was trained on is its own neighbour: that is the first thing to be known of it."""
    none = np.full(len(patches), "")
    asked = PatchSet(none, np.full(len(patches), UNLABELLED, np.int8), none, none, patches)
    found = []
    for of_patch in search.neighbourhoods(asked, _NEIGHBOURS):
        nearest = sorted(chain(*of_patch.of_class), key=lambda neighbour: -neighbour.similarity)
        rows = search.training.rows_of(np.array([neighbour.id for neighbour in nearest], dtype=str))
        pictures = [_picture(search.training.pixels[row]) for row in rows]
        found.append(
            [
                TrainingPatch(**asdict(neighbour), picture=picture)
                for neighbour, picture in zip(nearest, pictures, strict=True)
            ]
        )
    return found


def _picture(patch: Patch) -> str:
    file = io.BytesIO()
    Image.fromarray(patch).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


class Service:
    """A model with its queue, in one event loop; between `start` and `stop` it answers."""

    def __init__(
        self,
        classifier: Classifier,
        digest: str,
        *,
        maps: ShownMaps | str,
        limits: Limits,
        neighbours: NeighbourSearch | None = None,
        slides: Slides | None = None,
        sent: SentSlides | None = None,
        jobs: Jobs | str = "this service judges no slides",
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`digest`: of the model; `maps`, `jobs`: what gives them, or why nothing does.

        `sent` takes the slides that clients send, to show them among `slides`; None where none are taken.
        """
        self.slides, self._sent, self._jobs, self._notify = slides or Slides(), sent, jobs, notify
        self.classifier, self.digest, self.limits, self.maps = classifier, digest, limits, maps
        self.neighbours = neighbours
        self.metrics = Metrics()
        self.batcher = Batcher(classifier.with_disagreement, self.metrics, most_waiting=limits.patches_waiting)
        self.ready = False
        self._decoders, self._painter = ThreadPoolExecutor(2, "decode"), ThreadPoolExecutor(1, "maps")
        self._readers = ThreadPoolExecutor(2, "slides")  # which may take long, and keep no patch waiting
        self._maps_waiting = 0
        self._running: list[asyncio.Future[Any]] = []

    async def start(self) -> None:
        """Ask the model once, so that the first client does not wait for what is loaded with the first patch."""
        loop = asyncio.get_running_loop()
        self._card = loop.run_in_executor(self._painter, self._read_card)  # its intervals take seconds
        self._running = [loop.create_task(self.batcher.run()), self._card]
        self._tidying = loop.create_task(self._remove_unused())
        await self.batcher.ask(np.zeros((1, PATCH_SIZE_PX, PATCH_SIZE_PX, 3), np.uint8))
        if isinstance(self._jobs, Jobs):
            self._running.append(loop.create_task(self._jobs.run()))
            if self.slides.results is not None:
                try:
                    await self._jobs.resume(self.slides.results, self.slides.task)
                except (RefusedError, SentinodeError) as error:
                    self._notify(f"heat maps that were asked for before wait on: {error}")
        self.ready = True

    def leave(self) -> None:
        """Let go of whoever waits for news: the service is about to stop."""
        self.ready = False
        if isinstance(self._jobs, Jobs):
            self._jobs.end_streams()

    async def stop(self) -> None:
        """Take nothing more, and answer what waits."""
        self.leave()
        self._tidying.cancel()
        if isinstance(self._jobs, Jobs):
            await self._jobs.close()
        self.batcher.close()
        await asyncio.gather(*self._running)
        self._decoders.shutdown()
        self._readers.shutdown()
        self._painter.shutdown()

    async def in_thread(self, work: Callable[..., T], *given: object) -> T:
        """What `work` makes of what is given, in one of the threads that decode."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work, *given)

    @property
    def jobs(self) -> Jobs:
        """The heat maps that were asked for; raises RefusedError where none are judged."""
        if isinstance(self._jobs, str):
            raise RefusedError(409, f"heat maps: {self._jobs}.")
        return self._jobs

    @property
    def asked_for(self) -> list[Job]:
        """The heat maps that were asked for; none where none are judged."""
        return [] if isinstance(self._jobs, str) else self._jobs.all

    async def of_slides(self, work: Callable[..., T], *given: object) -> T:
        """What `work` makes of the slides, in one of the threads that read them."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, self.slides, *given)

    async def ask_heat_map(self, name: str) -> Job:
        """Have a slide judged; of one that this model has judged, the job is done. Raises RefusedError."""
        task = self.slides.task(name)
        found = await self.of_slides(Slides.found, name)
        if found is not None and found.record.request.model == self.digest:
            return self.jobs.finished(task)
        return await self.jobs.ask(task)

    async def receive_slide(
        self, given: str, spacing: float | None, length: int | None, stream: AsyncIterator[bytes]
    ) -> SlideCard:
        """Take a slide that a client sends, and show it; raises RefusedError."""
        if self._sent is None:
            raise RefusedError(403, "slides: none are taken by this service.")
        name = await self._sent.receive(given, spacing, length, stream)
        return await self.of_slides(Slides.card, name)

    async def remove_slide(self, name: str) -> None:
        """Remove a slide that a client sent, its heat map too; raises RefusedError for any other."""
        task = self.slides.remove(name)
        if isinstance(self._jobs, Jobs):
            await self._jobs.forget(task)
        await asyncio.to_thread(discard, task[0].path)

    async def _remove_unused(self) -> None:
        while True:
            await asyncio.sleep(_LOOKED_FOR_UNUSED_S)
            for name, unused_s in self.slides.uploaded.items():
                with suppress(RefusedError):  # removed by its client meanwhile
                    if isinstance(self._jobs, Jobs) and self._jobs.is_judging(self.slides.task(name)):
                        self.slides.use(name)
                    elif unused_s > self.limits.slide_s:
                        await self.remove_slide(name)

    async def decoded(self, files: list[tuple[str, bytes]], spacing: float | None) -> Pixels:
        """The patches of images; raises RefusedError."""
        return await self.in_thread(decoded, files, spacing)

    async def judge(self, names: Sequence[str], patches: Pixels, threshold: str | None, calibration: Method) -> Judged:
        """What the model says of patches, and what is to be said of them.

        `threshold`: the name of an operating point or a probability; None for Youden's, where the model has it. Raises
        BusyError, and RefusedError for a threshold that is none or that this model lacks.
        """
        point = self._point(threshold)
        fitted = self.classifier.calibrations.get(calibration)
        probabilities, disagreements = await self.batcher.ask(patches)
        looked = await self.in_thread(_looked_at, patches, probabilities, fitted)
        return Judged(
            model=self.classifier.name,
            model_sha256=self.digest,
            threshold=point and point.threshold,
            operating_point=point.rule if point else self.classifier.undecided,
            calibration=calibration if fitted else None,
            patches=[
                JudgedPatch(
                    name=name,
                    id=own_id,
                    probability=probability,
                    calibrated_probability=calibrated,
                    tumour=probability > point.threshold if point else None,
                    disagreement=disagreement,
                    reasons=reasons,
                )
                for name, (own_id, reasons, calibrated), probability, disagreement in zip(
                    names, looked, probabilities.tolist(), disagreements.tolist(), strict=True
                )
            ],
        )

    async def explain(self, patch: Patch) -> EvidenceMap:
        """Where the evidence for its logit lies; raises RefusedError where no maps are shown, BusyError."""
        maps = self.maps
        if isinstance(maps, str):
            raise RefusedError(409, f"maps: {maps}. Ask `POST /v1/predict` alone.")
        found = await self._behind_others(attribute, maps.explained, patch[None], maps.method)
        if found.refused:
            raise RefusedError(409, f"maps: of this patch by {maps.method}, {found.refused}. No map is shown of it.")
        return EvidenceMap(
            model_sha256=self.digest,
            method=maps.method,
            logit=float(found.logits[0]),
            limit=maps.limit,
            map=base64.b64encode(found.maps[0].astype("<f4").tobytes()).decode(),
        )

    async def nearest(self, patches: Pixels) -> TrainingNeighbours:
        """The training patches most like each; raises RefusedError where the training set is not at hand, BusyError."""
        search = self.neighbours
        if search is None:
            raise RefusedError(404, f"neighbours: {_NO_NEIGHBOURS}. Start it with --data DATA.")
        if len(patches) > MOST_COMPARED:
            raise RefusedError(422, f"the body: holds {len(patches)} patches. Send at most {MOST_COMPARED} at once.")
        found = await self._behind_others(_nearest, search, patches)
        return TrainingNeighbours(model_sha256=self.digest, neighbours=found)

    async def _behind_others(self, work: Callable[..., T], *given: object) -> T:
        """What `work` makes of what is given, one after the other; raises BusyError where too much waits."""
        if self._maps_waiting >= MOST_MAPS_WAITING:
            raise BusyError
        self._maps_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._painter, work, *given)
        finally:
            self._maps_waiting -= 1

    async def card(self) -> ModelCard:
        """What the model is; the first time it may take a few seconds."""
        return await asyncio.shield(self._card)

    def _point(self, threshold: str | None) -> OperatingPoint | None:
        if threshold is None and DEFAULT_POINT not in self.classifier.operating_points:
            return None
        try:
            return self.classifier.operating_point(threshold or DEFAULT_POINT)
        except ConfigError as error:
            known = ", ".join([*self.classifier.operating_points, "a number from 0 to 1"])
            raise RefusedError(422, f"threshold: {error.what}. Give one of: {known}.") from error

    def _read_card(self) -> ModelCard:
        card, model = self.classifier.card(), self.classifier
        return ModelCard(
            name=model.name,
            model_sha256=self.digest,
            kind=card.kind,
            architectures=list(card.architectures),
            networks=card.networks,
            views=model.views,
            runtimes=list(model.runtimes),
            spacing_um_per_px=model.spacing_um_per_px,
            data=card.data,
            origin=card.origin,
            training_patches=card.training_patches,
            validation_patches=card.validation_patches,
            split=card.split,
            clusters=card.clusters,
            cluster_kind=card.cluster_kind,
            scores={
                name: ModelScore(estimate=found.estimate, low=found.low, high=found.high, reason=found.reason)
                for name, found in card.scores.items()
            },
            operating_points={name: Point(**asdict(point)) for name, point in model.operating_points.items()},
            calibrations=list(model.calibrations),
            undecided=model.undecided,
            notices=list(card.notices),
            labels=list(model.labels),
            maps=None if isinstance(self.maps, str) else self.maps.method,
            no_maps=self.maps if isinstance(self.maps, str) else "",
            neighbours=self.neighbours is not None,
            no_neighbours="" if self.neighbours else _NO_NEIGHBOURS,
        )
