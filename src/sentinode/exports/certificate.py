"""parity.json: how far an exported model is from the run that it was made of, measured in every runtime at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int8, UInt8

from sentinode.data.images import PATCH_SIZE_PX
from sentinode.errors import ExportError
from sentinode.evaluation.bootstrap import PairedInterval
from sentinode.evaluation.metrics import auc
from sentinode.progress import Progress, of_step
from sentinode.randomness import Purpose
from sentinode.records import Number

PARITY: Final = "parity.json"
TOLERANCE: Final = 1e-4
_MADE_UP: Final = 64
FEW_PATCHES: Final = 1
"""So many are given to a runtime at once. A graph computes all their views together, and calibration in eight bits
keeps every map of every network: of an ensemble at 160 pixels 2 GB a patch."""
_AT_ONCE: Final = 64

Pixels = UInt8[np.ndarray, "n 96 96 3"]
Logits = Callable[[Pixels], Float[np.ndarray, " n"]]
"""A model in some runtime, as a function."""


@dataclass(frozen=True)
class RuntimeParity:
    """One runtime's logits beside the run's."""

    largest_logit_difference: float
    mean_logit_difference: float
    auc_difference: Number
    """The run's minus the export's; NaN where the patches lack a class."""


@dataclass(frozen=True)
class EightBits:
    """What became of a model in eight bits."""

    written: bool
    told: str
    """In words, with the numbers."""
    times_as_fast: Number = float("nan")
    """As the model in float32, in ONNX Runtime on this machine; NaN where it was not tried."""
    auc_difference: PairedInterval | None = None
    """Eight bits minus the run, on its validation patches; None where speed had decided."""


@dataclass(frozen=True)
class Certificate:
    """The record of parity.json. The reference is the run on PyTorch, on a CPU and in float32."""

    sentinode: str
    name: str
    digest: str
    """Of the run's weights, as in the model's own metadata."""
    measured_on: Literal["validation set", "made-up patches"]
    patches: int
    """So many of them."""
    auc: Number
    """The run's, on these."""
    tolerance: float
    """Above it an export is refused."""
    runtimes: dict[str, RuntimeParity]
    """By their names and versions."""
    not_measured: dict[str, str]
    """Runtimes that were not tried, and why."""
    int8: EightBits | None = None
    """What became of the model in eight bits; None for formats that have none."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Patches, and what the run itself predicts for them."""

    measured_on: Literal["validation set", "made-up patches"]
    pixels: Pixels
    labels: Int8[np.ndarray, " n"]
    logits: Float[np.ndarray, " n"]

    def first(self, count: int) -> Reference:
        """So many of them."""
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count], logits=self.logits[:count])

    def certificate(
        self,
        runtimes: Mapping[str, Logits],
        not_measured: Mapping[str, str],
        *,
        sentinode: str,
        name: str,
        digest: str,
        progress: Progress,
    ) -> Certificate:
        """Raises ExportError where a runtime's logits are farther from the run's than `TOLERANCE`."""
        return Certificate(
            sentinode=sentinode,
            name=name,
            digest=digest,
            measured_on=self.measured_on,
            patches=len(self.pixels),
            auc=auc(self.labels, self.logits),
            tolerance=TOLERANCE,
            runtimes={runtime: self._parity(runtime, of, progress) for runtime, of in runtimes.items()},
            not_measured=dict(not_measured),
        )

    def _parity(self, runtime: str, logits_of: Logits, progress: Progress) -> RuntimeParity:
        told, said = of_step(progress, f"parity: {runtime}"), []
        told(0, len(self.pixels))
        for start in range(0, len(self.pixels), _AT_ONCE):
            said.append(np.asarray(logits_of(self.pixels[start : start + _AT_ONCE]), np.float64))
            told(min(start + _AT_ONCE, len(self.pixels)), len(self.pixels))
        logits = np.concatenate(said)
        apart = np.abs(logits - self.logits)
        largest = float(apart.max())
        if not largest <= TOLERANCE:  # nor NaN
            raise ExportError(
                f"in {runtime} its logits are up to {largest:.3g} away from the run's, more than {TOLERANCE:g}",
                remedy="Nothing was written; export to another format, or report this.",
            )
        return RuntimeParity(largest, float(apart.mean()), auc(self.labels, self.logits) - auc(self.labels, logits))


def made_up_patches() -> Pixels:
    """Noise in large and small spots, from pale to dark; two patches of one colour each are the ends of the range."""
    rng = Purpose.MADE_UP_PATCHES.rng(0)
    pixels = np.zeros((_MADE_UP, PATCH_SIZE_PX, PATCH_SIZE_PX, 3))
    for spot_px in (1, 4, 12, 48):
        spots = rng.random((_MADE_UP, PATCH_SIZE_PX // spot_px, PATCH_SIZE_PX // spot_px, 3))
        pixels += spots.repeat(spot_px, axis=1).repeat(spot_px, axis=2)
    made = np.clip(pixels / 4 * rng.uniform(100, 400, (_MADE_UP, 1, 1, 3)), 0, 255).astype(np.uint8)
    made[0], made[-1] = 0, 255
    return made
