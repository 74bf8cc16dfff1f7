"""What the service answers, as types: the OpenAPI document is made from these."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

RESEARCH_USE: Final = "For research; not a medical device. No output of this service is a diagnosis."
Finite = Annotated[float | None, BeforeValidator(lambda x: None if isinstance(x, float) and math.isnan(x) else x)]
"""A number, or null where it is unknown."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class JudgedPatch(_Answer):
    """What the model says of one patch, and what the guard says of the patch."""

    name: str
    """As the client called it."""
    id: str
    """The SHA-1 of its pixels, as the competition names patches."""
    probability: float
    calibrated_probability: float | None
    """null where the model has no calibration."""
    tumour: bool | None
    """Whether the probability, before calibration, is above the threshold; null where there is none."""
    disagreement: Finite
    """Standard deviation of the networks' probabilities; null for one network."""
    reasons: list[str]
    """Why the probability may mean little here; empty for a patch like those of lymph node in H&E."""


class Judged(_Answer):
    """What the model says of all patches of a request, in their order."""

    model: str
    model_sha256: str
    threshold: float | None
    operating_point: str
    """How the threshold was chosen, in words."""
    calibration: str | None
    research_use: str = RESEARCH_USE
    patches: list[JudgedPatch]


class ModelScore(_Answer):
    """A validation score with its 95 % interval, or why that is unknown."""

    estimate: Finite
    low: Finite
    high: Finite
    reason: str | None


class Point(_Answer):
    """An operating point, and what it gave on the validation set."""

    rule: str
    threshold: float
    sensitivity: float
    specificity: float


class ModelCard(_Answer):
    """What the model is, what it was trained on, and what it scored."""

    name: str
    model_sha256: str
    kind: str
    architectures: list[str]
    networks: int
    views: int
    runtimes: list[str]
    spacing_um_per_px: float
    data: str
    origin: str
    training_patches: int
    validation_patches: int
    split: str
    clusters: int
    cluster_kind: str
    scores: dict[str, ModelScore]
    operating_points: dict[str, Point]
    calibrations: list[str]
    undecided: str
    """Why there are no operating points or calibrations; "" where there are."""
    notices: list[str]
    labels: list[str]
    maps: str | None
    """The method whose maps `POST /v1/explain` gives; null where it gives none."""
    no_maps: str
    """Why it gives none."""
    neighbours: bool
    """Whether `POST /v1/neighbours` answers."""
    no_neighbours: str
    """Why it does not."""
    research_use: str = RESEARCH_USE


class EvidenceMap(_Answer):
    """Where in a patch the evidence for its logit lies, by a method that passed its exam on this model."""

    model_sha256: str
    method: str
    logit: float
    limit: float
    """Of the colour scale of the explanation's own pages, in logits a pixel."""
    map: str
    """96 x 96 float32, little-endian, row by row, in base64; logits a pixel, positive for tumour."""
    research_use: str = RESEARCH_USE


class TrainingPatch(_Answer):
    """A patch that the model learned from, and how alike it takes another for."""

    id: str
    label: int
    """1 for tumour, 0 for none."""
    slide: str
    """"" where it is unknown."""
    similarity: float
    """At most 1: the cosine of what the network's last layer is given, in deviations of the training set."""
    tie: Literal["", "equal", "nearly equal", "shared tissue"]
    """What the two have in common beyond looks: then the model knows the patch from training."""
    picture: str
    """A PNG as a data: URI."""


class TrainingNeighbours(_Answer):
    """Of each patch of a request the nearest training patches of either class, the nearest first."""

    model_sha256: str
    neighbours: list[list[TrainingPatch]]
    research_use: str = RESEARCH_USE


class HeatMapPlace(_Answer):
    """Where a heat map lies on its slide, and what it was judged by."""

    rows: int
    columns: int
    step_px: list[float]
    """Sides of a cell along x and y, in pixels of level 0; the first begins at the slide's corner."""
    step_um: list[float]
    threshold: float
    threshold_rule: str
    model_sha256: str
    layers: list[str]
    """That have tiles: "probability", and "disagreement" where several networks judged."""
    tile: int
    """Cells along a tile's side."""
    max_level: int
    """The level with a pixel a cell; level 0 is one pixel."""
    reasons: dict[str, float]
    """Share of the cells of tissue, by why they were not judged, or why their probability may mean little."""


class HeatMapCell(_Answer):
    """What is said of one cell."""

    probability: Finite
    """null where it was not judged."""
    disagreement: Finite
    reason: str
    """Why it was not judged, such as "glass", or is "unlike" what the model knows; "" where nothing is to be said."""


class SlideCard(_Answer):
    """A slide, and its heat map, if it was judged."""

    name: str
    width_px: int
    height_px: int
    spacing_um_per_px: list[float] | None
    """Along x and y; null where the file has none."""
    tile_px: int
    heat_map: HeatMapPlace | None
    uploaded: bool
    """Whether a client sent it, which can remove it again."""
    research_use: str = RESEARCH_USE


class Job(_Answer):
    """A heat map that was asked for."""

    id: str
    slide: str
    state: Literal["waiting", "running", "done", "failed"]
    done: int = 0
    total: int = 0
    """Cells, of which `done` are judged; 0 until the tissue is found."""
    note: str = ""
    """What is being done, or how long it will take."""
    problem: str | None = None
    """Why it failed, in one line."""

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed")


class JobList(_Answer):
    """The heat maps that were asked for since the service was started, or wait since before, in their order."""

    jobs: list[Job]


class SlideNames(_Answer):
    """The slides that are served."""

    slides: list[str]


class Problem(_Answer):
    """An error, as RFC 9457 has it (application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    """What is wrong, where, and what to do next, in one line."""
