"""What a `Classifier` asks of each of its networks, whatever computes it, and how many patches it asks at once."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from sentinode.config.run import PreprocessConfig
from sentinode.errors import FailureError
from sentinode.progress import StepProgress

if TYPE_CHECKING:
    import torch

RuntimeName = Literal["pytorch", "pytorch, folded", "onnxruntime", "openvino"]
Probabilities = Float[np.ndarray, " n"]
BLOCK: Final = 8
"""Batches are filled up to whole blocks: PyTorch computes what is left over of a batch by other instructions, which
round otherwise, so that a patch's last digits would depend on its place."""
_BATCH_SIZES_TRIED: Final = (16, 32, 64, 128)


@runtime_checkable
class Sliceable(Protocol):
    """Preprocessed pixels, (n, s, s, 3) uint8: an array, or what makes them when they are looked at."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: slice, /) -> UInt8[np.ndarray, "k s s 3"]: ...


class Network(ABC):
    """A network that is ready to predict. Several threads may ask it at once."""

    preprocess: PreprocessConfig
    """What becomes of a patch before the network is given it."""
    views: int
    """Under how many symmetries a patch is seen, 1 or 8."""
    device: torch.device | str
    """Where it is computed."""
    batch_size: BatchSize

    @property
    @abstractmethod
    def runtime(self) -> str:
        """What computes it, such as "pytorch 2.14.1"."""

    @property
    @abstractmethod
    def way(self) -> RuntimeName:
        """What computes it: where `compute_by` is told it, the same bits come out."""

    def compute_by(self, way: RuntimeName) -> None:
        """Take that way from now on, which was chosen elsewhere or before; raises FailureError where it cannot."""
        if way != self.way:
            raise FailureError(f"it is computed by {self.way} alone, not by {way}", remedy="Give the run's folder.")

    def expect(self, _first: Sliceable, _total: int) -> None:
        """Hear that so many patches are to come, of which these are the first: to get ready, if that pays."""
        return

    def is_dense(self, _cell_px: int) -> bool:
        """Whether `over_image` can be asked: the patches of neighbouring cells of that size can share its maps."""
        return False

    def over_image(
        self, _rgb: UInt8[np.ndarray, "height width 3"], _cells: Bool[np.ndarray, "rows columns"], _cell_px: int
    ) -> Probabilities:
        """About what `probabilities` gives for the patches around the marked cells of an image, row by row."""
        raise AssertionError("it is not dense")

    @abstractmethod
    def probabilities(self, prepared: Sliceable, *, on_progress: StepProgress | None = None) -> Probabilities:
        """The mean probability over the views of each patch, in the order given."""


class BatchSize:
    """How many patches a batch holds: what overflows a processor's cache, or is too little for it, costs up to double.

    With `search`, each size up to the largest is tried twice on the patches at hand, the first time to warm up;
    from then on the fastest is kept. A patch's probability does not depend on the patches beside it.
    """

    def __init__(self, largest: int, *, search: bool) -> None:
        sizes = [size for size in _BATCH_SIZES_TRIED if size < largest] if search else []
        self.largest = sizes[-1] if sizes else max(largest - largest % BLOCK, min(largest, BLOCK))
        self._to_try = [size for size in sizes for _ in range(2)]
        self._seconds: dict[int, float] = {}
        self._lock = threading.Lock()
        self.patches = self._to_try[0] if self._to_try else self.largest

    def took(self, patches: int, seconds: float) -> None:
        """Note what a batch took; one that was not full tells nothing of the size."""
        with self._lock:
            if not self._to_try or patches != self._to_try[0]:
                return
            self._seconds[self._to_try.pop(0)] = seconds / patches
            self.patches = self._to_try[0] if self._to_try else min(self._seconds, key=self._seconds.__getitem__)


def in_batches(
    prepared: Sliceable,
    size: BatchSize,
    ask: Callable[[UInt8[np.ndarray, "k s s 3"]], Probabilities],
    on_progress: StepProgress | None = None,
) -> Probabilities:
    """What `ask` gives for all patches, batch after batch; `size` learns from how long each takes."""
    found = np.empty(len(prepared))
    start = 0
    while start < len(prepared):
        stop, began = min(start + size.patches, len(prepared)), time.perf_counter()
        found[start:stop] = ask(prepared[start:stop])
        size.took(stop - start, time.perf_counter() - began)
        start = stop
        if on_progress:
            on_progress(stop, len(prepared))
    return found
