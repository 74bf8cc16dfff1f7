"""A trained network on PyTorch, ready to predict."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from sentinode.config.run import RunConfig
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.data.patches import apply_symmetry
from sentinode.device import has_bfloat16, in_precision
from sentinode.errors import FailureError
from sentinode.inference.dense import DenseNetwork, dense_network
from sentinode.inference.network import BLOCK, BatchSize, Network, Probabilities, RuntimeName, Sliceable, in_batches
from sentinode.inference.runtimes import Fastest, Forward, patches_tried
from sentinode.inputs.augment import as_input
from sentinode.machine import may_have_avx512
from sentinode.models.folded import folded
from sentinode.models.group_conv import inverse
from sentinode.progress import StepProgress

_PACKAGES: Final = {"pytorch": "torch"}
_MANY: Final = 1024  # patches and views
_LONG_S: Final = 60.0  # a trial takes a quarter of that, and halves the rest


class TrainedNetwork(Network):
    """One network, ready to predict under the settings of its run. Several threads may ask it at once.

    `network` maps (n, 3, s, s) in [0, 1] to (n, 1) logits; it is put into evaluation mode, and lies on the device.
    """

    device: torch.device

    def __init__(
        self, network: nn.Module, config: RunConfig, device: torch.device, fastest: Fastest | None = None
    ) -> None:
        """`fastest` finds what computes it faster than PyTorch, where many patches are to come."""
        self.preprocess, self.views, self.device = config.preprocess, config.predict.views, device
        self.batch_size = BatchSize(config.running.prediction_batch_size, search=device.type == "cpu")
        self._precision = config.predict.precision
        self.network = folded(network.eval())
        """An equal one, in fewer operations."""
        self.given = network
        """As it was trained, layer by layer."""
        in_float32 = device.type == "cpu" and (self._precision == "float32" or not has_bfloat16(device))
        self._fastest = fastest if in_float32 else None
        self._found: tuple[RuntimeName, Forward] | None = None
        self._dense: dict[int, DenseNetwork | None] = {}  # by the size of cells
        self._finding = threading.Lock()

    @property
    def runtime(self) -> str:
        """What computes it, with its version."""
        if self._found is None:
            return f"pytorch {version('torch')}"
        name, *how = self._found[0].split(", ")
        return ", ".join([f"{name} {version(_PACKAGES.get(name, name))}", *how])

    def expect(self, first: Sliceable, total: int) -> None:
        """Take the fastest runtime that an earlier trial found, or make the trial where the patches will take long."""
        if self._fastest is None or self._found is not None or not len(first):
            return
        with self._finding, torch.inference_mode():
            if self._found is not None:
                return
            shown = _filled(first[: patches_tried()], patches_tried())
            seen = as_input(torch.from_numpy(shown).permute(0, 3, 1, 2))
            seen = seen.contiguous(memory_format=torch.channels_last)
            found = self._fastest.kept(self.network, seen)
            if found is None and self._seconds(seen[:BLOCK], total * self.views) > _LONG_S:
                found = self._fastest.tried(self.network, seen)
            if found is not None:
                self._found = found[0].runtime, found[1]

    @property
    def way(self) -> RuntimeName:
        """What computes it; until many patches are expected, PyTorch."""
        return "pytorch" if self._found is None else self._found[0]

    def compute_by(self, way: RuntimeName) -> None:
        """See `Network`; no trial is made any more."""
        if self._found is not None and way == self.way:
            return
        forward: Forward = self.network
        if way != "pytorch":
            if self._fastest is None:
                told = f"a network cannot be computed by {way} here"
                raise FailureError(told, remedy="Leave out --runtime pytorch and --device, as before.")
            side = self.preprocess.size_px
            seen = torch.zeros(BLOCK, 3, side, side).contiguous(memory_format=torch.channels_last)
            with self._finding, torch.inference_mode():
                forward = self._fastest.named(way, self.network, seen)
        self._found = way, forward

    def _seconds(self, block: Float[Tensor, "n 3 s s"], views: int) -> float:
        """About how long PyTorch takes for so many patches and views; 0 for a few, which are done before."""
        if views < _MANY:
            return 0.0
        self.network(block)
        began = time.perf_counter()
        self.network(block)
        return (time.perf_counter() - began) / len(block) * views

    def with_network(self, network: nn.Module) -> TrainedNetwork:
        """Another network under the same settings."""
        other = copy.copy(self)
        other.network, other.given, other._fastest, other._found = folded(network.eval()), network, None, None
        other._dense = {}
        return other

    def dense(self, cell_px: int) -> DenseNetwork | None:
        """The same network over a whole image, where the patches of neighbouring cells can share its maps."""
        if cell_px not in self._dense:
            self._dense[cell_px] = dense_network(self.given, self.preprocess, cell_px)
        return self._dense[cell_px]

    def is_dense(self, cell_px: int) -> bool:
        """Whether `over_image` can be asked."""
        return self.dense(cell_px) is not None

    @torch.inference_mode()
    def over_image(
        self, rgb: UInt8[np.ndarray, "height width 3"], cells: Bool[np.ndarray, "rows columns"], cell_px: int
    ) -> Probabilities:
        """About what `probabilities` gives for the patches around the marked cells of an image, row by row."""
        dense = self.dense(cell_px)
        assert dense is not None
        found, side, phases = np.full(cells.shape, np.nan), dense.cells_at_once, dense.phases
        apart = phases * cell_px
        for down, across in product(range(phases), repeat=2):
            image, of_phase = rgb[cell_px * down :, cell_px * across :], np.s_[down::phases, across::phases]
            wanted, answers = cells[of_phase], found[of_phase]
            for top, left in product(range(0, wanted.shape[0], side), range(0, wanted.shape[1], side)):
                part = np.s_[top : top + side, left : left + side]
                if wanted[part].any():
                    height, width = (apart * (count - 1) + PATCH_SIZE_PX for count in wanted[part].shape)
                    y, x = apart * top, apart * left
                    answers[part] = self._of_cells(dense, image[y : y + height, x : x + width])
        return np.asarray(found[cells])

    def _of_cells(
        self, dense: DenseNetwork, rgb: UInt8[np.ndarray, "height width 3"]
    ) -> Float[np.ndarray, "rows columns"]:
        seen = np.array(dense.geometry.seen(rgb), order="C")  # PyTorch warns of what cannot be written to
        image = torch.from_numpy(seen).permute(2, 0, 1)[None].to(self.device)
        said = []
        for symmetry in range(self.views):
            with in_precision(self._precision, self.device):
                logits = dense(as_input(apply_symmetry(image, symmetry)))
            said.append(apply_symmetry(logits[None, None], inverse(symmetry))[0, 0].cpu().double())
        return np.asarray(torch.sigmoid(torch.stack(said)).numpy().mean(axis=0))

    @torch.inference_mode()
    def probabilities(self, prepared: Sliceable, *, on_progress: StepProgress | None = None) -> Probabilities:
        """The mean probability over the views of each patch, in the order given."""

        # In double precision: in single, every logit above 17 would become the same probability, 1.
        # NumPy adds the views one after the other; PyTorch's mean adds those of few patches in another order.
        def mean(logits: Float[Tensor, "views n"]) -> Probabilities:
            return np.asarray(torch.sigmoid(logits).numpy().mean(axis=0))

        return self._in_batches(prepared, self.views, mean, on_progress)

    @torch.inference_mode()
    def logits(self, prepared: Sliceable, *, views: int) -> Float[np.ndarray, " n"]:
        """The mean logit over so many views of each patch, 1 or 8, in the order given."""
        return self._in_batches(prepared, views, lambda logits: np.asarray(logits.numpy().mean(axis=0)))

    def _in_batches(
        self,
        prepared: Sliceable,
        views: int,
        joined: Callable[[Float[Tensor, "views n"]], Float[np.ndarray, " n"]],
        on_progress: StepProgress | None = None,
    ) -> Float[np.ndarray, " n"]:
        if self._found is None or self._found[0] == "pytorch":
            ask, size, block = self._view_by_view, self.batch_size, min(_block(), self.batch_size.largest)
        else:
            forward, block = self._found[1], _block()
            size = BatchSize(block * torch.get_num_threads(), search=False)  # every thread has a block

            def ask(of_views: list[UInt8[Tensor, "m 3 s s"]]) -> Float[Tensor, "views m"]:
                return forward(as_input(torch.cat(of_views))).view(views, -1)

        def of_batch(pixels: UInt8[np.ndarray, "n s s 3"]) -> Float[np.ndarray, " n"]:
            images = torch.from_numpy(_filled(pixels, block)).permute(0, 3, 1, 2).to(self.device)
            seen = (apply_symmetry(images, symmetry) for symmetry in range(views))
            said = ask([view.contiguous(memory_format=torch.channels_last) for view in seen])
            return joined(said.cpu().double())[: len(pixels)]

        return in_batches(prepared, size, of_batch, on_progress)

    def _view_by_view(self, of_views: list[UInt8[Tensor, "m 3 s s"]]) -> Float[Tensor, "views m"]:
        said = []
        for view in of_views:
            with in_precision(self._precision, self.device):
                said.append(self.network(as_input(view)).squeeze(1))
        return torch.stack(said)


def _block() -> int:
    """A block for PyTorch: with AVX-512, whose registers hold twice as much, what is left over begins at 16.

    MKL asks the processor itself, not PyTorch. The probabilities of another runtime's logits are PyTorch's, too.
    """
    return 2 * BLOCK if may_have_avx512() else BLOCK


def _filled(pixels: UInt8[np.ndarray, "n s s 3"], block: int) -> UInt8[np.ndarray, "m s s 3"]:
    """The patches and, up to whole blocks, the last of them again."""
    missing = -len(pixels) % block
    return np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)]) if missing else pixels
