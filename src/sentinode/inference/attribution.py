"""Where in a patch a network's evidence lies: maps of its logit, by three methods.

cam                   the last maps times the gradient of the logit in them (HiResCAM: Draelos and Carin 2020). Where a
                      linear layer follows the maps, as in p4m networks and frozen or fine-tuned backbones, the map
                      and the layer's bias sum to the logit.
integrated_gradients  the gradient in the pixels, along the straight line from a patch of one colour to the patch, times
                      their difference (Sundararajan et al. 2017). The map sums to the difference of the two logits, but
                      for the steps, which are doubled until that holds.
occlusion             how much lower the logit is when a square is painted over (Zeiler and Fergus 2014).

A map says how a network came to its logit, not whether there is a tumour, and a map that looks right proves nothing:
`explain/exam.py` examines each method on each network.

Maps of several networks, and of several views of a patch, are averaged as their logits are. What is taken away from a
patch is painted in the patch's own mean colour.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from sentinode.config.run import PreprocessConfig
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.errors import ConfigError, DataError
from sentinode.inference.trained import TrainedNetwork
from sentinode.inputs.augment import as_input
from sentinode.inputs.preprocess import preprocess
from sentinode.models.backbones.backbone import Backbone
from sentinode.models.group_conv import inverse
from sentinode.progress import StepProgress

if TYPE_CHECKING:
    from sentinode.inference.classifier import Classifier

Pixels = UInt8[np.ndarray, "n 96 96 3"]
Maps = Float[np.ndarray, "n 96 96"]
Method = Literal["cam", "integrated_gradients", "occlusion"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
COMPLETE_WITHIN: Final = 0.01
"""Of the logit: what the sum of a complete map may miss."""
COMPLETE_SHARE: Final = 0.95
"""Of the patches: how many maps of a method must be complete."""
WINDOW_PX: Final = 16
"""The side of the squares that are painted over."""

_CLAIMS: Final = frozenset[str]({"cam", "integrated_gradients"})
_STEPS: Final = (8, 16, 32, 64, 128, 256)
_HOPELESS: Final = 32, 0.5  # errors about halve with twice the steps: with fewer complete by then, 256 do not suffice
_TRIED: Final = 16  # patches, before all: a network whose integrals do not converge is told soon
_AT_ONCE: Final = 64
_FORWARD_AT_ONCE: Final = 1024
_ARRAYS: Final = "maps", "logits", "bases"


@dataclass(frozen=True, eq=False)
class Attribution:
    """Maps of the logits of N patches, by one method.

    maps: logits a pixel, float32; what speaks for tumour is positive. logits: what is explained. bases: the logit where
    there is nothing to see, of a patch of one colour or with empty maps, from which the map leads to the logit.
    steps: of the integral, the most that a patch took; None of another method.
    """

    method: str
    maps: Maps
    logits: Float[np.ndarray, " n"]
    bases: Float[np.ndarray, " n"]
    steps: int | None = None

    @property
    def errors(self) -> Float[np.ndarray, " n"]:
        """How far each map and its base are from summing to the logit, in logits."""
        return np.asarray(np.abs(self.maps.sum(axis=(1, 2), dtype=np.float64) + self.bases - self.logits))

    @property
    def complete(self) -> Bool[np.ndarray, " n"]:
        """Which maps sum to the logit within 1 % of it."""
        return np.asarray(self.errors <= COMPLETE_WITHIN * np.abs(self.logits))

    @property
    def claims_completeness(self) -> bool:
        """Whether the method's maps ought to sum to the logit; squares that are painted over one by one need not."""
        return self.method in _CLAIMS

    @property
    def refused(self) -> str | None:
        """Why these maps are not to be shown, if they do not sum to what they explain; None where they do."""
        share = float(self.complete.mean()) if len(self.logits) else 1.0
        if not self.claims_completeness or share >= COMPLETE_SHARE:
            return None
        steps = "" if self.steps is None else f" with {self.steps} steps"
        return (
            f"{share:.0%} of the maps{steps} sum to the logit within {COMPLETE_WITHIN:.0%}, where "
            f"{COMPLETE_SHARE:.0%} must"
        )


@dataclass(frozen=True, eq=False)
class ExplainedLogit:
    """What is explained: a model's logit, the weighted mean over its networks, and over the views of a patch, 1 or 8.

    With views the mean is of their logits, where a prediction is the mean of their probabilities.
    """

    networks: tuple[TrainedNetwork, ...]
    weights: tuple[float, ...]
    views: int

    @classmethod
    def of(cls, classifier: Classifier, *, views: int | None = None) -> ExplainedLogit:
        """`views`: None for as many as the model predicts with.

        Raises ConfigError for other numbers than 1 and 8, and for an exported model, whose gradients nobody has.
        """
        views = classifier.views if views is None else views
        if views not in (1, len(SYMMETRIES)):
            raise ConfigError(f"cannot explain {views} views", where="views", remedy="Give 1 or 8.")
        heard: list[tuple[TrainedNetwork, float]] = []
        for run in classifier.runs:
            weights = np.ones(1) if run.weights is None else run.weights
            for network, weight in zip(run.networks, weights.tolist(), strict=True):
                if not isinstance(network, TrainedNetwork):
                    raise ConfigError(
                        "an exported model has no gradients, so it cannot be explained",
                        where=classifier.name,
                        remedy="Give the folder of the run that it was exported from.",
                    )
                heard.append((network, weight / len(classifier.runs)))
        return cls(tuple(network for network, _ in heard), tuple(weight for _, weight in heard), views)

    def with_modules(self, modules: Sequence[nn.Module]) -> ExplainedLogit:
        """The same of other weights, network by network."""
        pairs = zip(self.networks, modules, strict=True)
        return replace(self, networks=tuple(network.with_network(module) for network, module in pairs))

    def logits(self, patches: Pixels) -> Float[np.ndarray, " n"]:
        """The logit of each patch, (N,) float64, computed by whatever is fastest."""
        total = np.zeros(len(patches))
        for start in range(0, len(patches), _FORWARD_AT_ONCE):
            chunk = patches[start : start + _FORWARD_AT_ONCE]
            for network, weight, seen in self._seen(chunk):
                network.expect(seen, len(patches))
                total[start : start + len(chunk)] += weight * network.logits(seen, views=self.views)
        return total

    def mean(
        self, patches: Pixels, of_network: Callable[[TrainedNetwork, Float[Tensor, "n 3 s s"]], Tensor]
    ) -> np.ndarray:
        """What is made of the patches, (N,) or maps (N, 96, 96) turned back, averaged as the logits are."""
        total: np.ndarray | float = 0.0
        for symmetry in range(self.views):
            for network, weight, seen in self._seen(turned_patches(patches, symmetry)):
                images = torch.from_numpy(seen).permute(0, 3, 1, 2).to(network.device)
                images = as_input(images.contiguous(memory_format=torch.channels_last))
                made = of_network(network, images).detach().cpu().double().numpy()
                total = total + weight / self.views * (made if made.ndim == 1 else turned(made, inverse(symmetry)))
        return np.asarray(total)

    def _seen(self, patches: Pixels) -> Iterator[tuple[TrainedNetwork, float, UInt8[np.ndarray, "n s s 3"]]]:
        """Each network with its weight, and with the patches as it is given them."""
        seen = {way: preprocess(patches, way)[0] for way in dict.fromkeys(net.preprocess for net in self.networks)}
        for network, weight in zip(self.networks, self.weights, strict=True):
            yield network, weight, seen[network.preprocess]


def attribute(
    explained: ExplainedLogit, patches: Pixels, method: Method, *, on_progress: StepProgress | None = None
) -> Attribution:
    """Maps of the patches' logits by a method.

    Integrals that do not converge on a few of the patches are not computed of the rest: then `refused` says so, and
    the maps are those of these few, as they lie. Raises ConfigError where a network has no maps, DataError for no
    patches.
    """
    if not len(patches):
        raise DataError("there is nothing to explain", where="patches", remedy="Give one patch or more.")
    of_chunk = {"cam": _cam, "integrated_gradients": _integrated, "occlusion": _occluded}[method]
    if method == "integrated_gradients" and len(patches) > _TRIED:
        trial = _integrated(replace(explained, views=1), patches[np.linspace(0, len(patches) - 1, _TRIED).astype(int)])
        if trial.complete.mean() < _HOPELESS[1]:
            return trial
    parts = []
    for start in range(0, len(patches), _AT_ONCE):
        chunk = np.ascontiguousarray(patches[start : start + _AT_ONCE])
        parts.append(of_chunk(explained, chunk))
        if on_progress:
            on_progress(start + len(chunk), len(patches))
    return _joined(parts)


def turned_patches(patches: Pixels, symmetry: int) -> Pixels:
    """Patches under one of the 8 symmetries."""
    if symmetry == 0:
        return patches
    images = apply_symmetry(torch.tensor(patches).permute(0, 3, 1, 2), symmetry)  # a copy: the given may be read-only
    return np.asarray(images.permute(0, 2, 3, 1).contiguous().numpy())


def turned(maps: Maps, symmetry: int) -> Maps:
    """Maps under one of the 8 symmetries."""
    return np.asarray(apply_symmetry(torch.from_numpy(maps)[:, None], symmetry)[:, 0].contiguous().numpy())


def flat(patches: Pixels) -> Pixels:
    """Patches of one colour: the mean of each."""
    means = patches.reshape(len(patches), -1, 3).mean(axis=1)
    return np.broadcast_to(means.round().astype(np.uint8)[:, None, None], patches.shape)


def spread(maps: Float[np.ndarray, "n h w"], way: PreprocessConfig) -> Maps:
    """Maps over what a network sees, as maps over the patch: each value is spread evenly over its square.

    Sums are kept; around a crop there is nothing.
    """
    rows, columns = (_shares(size, way.crop_px) for size in maps.shape[1:])
    return np.asarray(np.einsum("yi,nij,xj->nyx", rows, maps, columns, optimize=True), np.float32)


def _shares(size: int, crop_px: int) -> Float[np.ndarray, "96 h"]:
    """How much of each of `size` equal parts of the crop lies in each of the patch's pixels; columns sum to 1."""
    margin, side = (PATCH_SIZE_PX - crop_px) / 2, crop_px / size
    begins, pixels = margin + side * np.arange(size), np.arange(PATCH_SIZE_PX)[:, None]
    overlap = np.minimum(pixels + 1, begins + side) - np.maximum(pixels, begins)
    return np.asarray(np.clip(overlap, 0, None) / side)


def _joined(parts: Sequence[Attribution]) -> Attribution:
    maps, logits, bases = (np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS)
    steps = max((part.steps for part in parts if part.steps is not None), default=None)
    return Attribution(parts[0].method, maps, logits, bases, steps)


def _occluded(explained: ExplainedLogit, patches: Pixels) -> Attribution:
    """Square by square, side by side."""
    logits, empty = explained.logits(patches), flat(patches)
    side = PATCH_SIZE_PX // WINDOW_PX
    lower = np.empty((len(patches), side, side))
    for y in range(side):  # a row of squares at a time: many patches are computed faster together than few
        painted = np.repeat(patches[None], side, axis=0)
        for x in range(side):
            square = np.s_[:, WINDOW_PX * y : WINDOW_PX * (y + 1), WINDOW_PX * x : WINDOW_PX * (x + 1)]
            painted[x][square] = empty[square]
        said = explained.logits(painted.reshape(-1, *patches.shape[1:])).reshape(side, -1)
        lower[:, y] = (logits - said).T / WINDOW_PX**2
    maps = lower.repeat(WINDOW_PX, axis=1).repeat(WINDOW_PX, axis=2).astype(np.float32)
    return Attribution("occlusion", maps, logits, explained.logits(empty))


def _cam(explained: ExplainedLogit, patches: Pixels) -> Attribution:
    maps, bases = explained.mean(patches, _contributions).astype(np.float32), explained.mean(patches, _of_no_maps)
    return Attribution("cam", maps, explained.logits(patches), bases)


def _contributions(network: TrainedNetwork, seen: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 96 96"]:
    """What each place adds to the logit, by all the maps that it is made of.

    A gradient times what it is the gradient in: of a linear layer that is what each value adds, and of a deviation
    too, which doubles when its map does.
    """
    maps, logit_of = _maps_of(network.given, seen)
    held = [each.detach().requires_grad_() for each in maps]
    with torch.enable_grad():
        gradients = torch.autograd.grad(logit_of(held).sum(), held)
    added = [(each.detach() * slope).sum(1) for each, slope in zip(held, gradients, strict=True)]
    return torch.from_numpy(sum(spread(each.cpu().double().numpy(), network.preprocess) for each in added))


def _of_no_maps(network: TrainedNetwork, seen: Float[Tensor, "n 3 s s"]) -> Float[Tensor, " n"]:
    """The logit of maps that are zero, for each patch; of deviations, whose floor is above zero, that of none."""
    given = network.given
    with torch.no_grad():
        if isinstance(given, Backbone) and given.kind != "last":
            return given.classified(torch.zeros(1, given.head.in_features, device=seen.device))[0].expand(len(seen))
        maps, logit_of = _maps_of(given, seen[:1])
        return logit_of([torch.zeros_like(each) for each in maps])[0].expand(len(seen))


def _maps_of(
    network: nn.Module, seen: Float[Tensor, "n 3 s s"]
) -> tuple[list[Tensor], Callable[[list[Tensor]], Float[Tensor, "n 1"]]]:
    """The maps (N, c, h, w) that the logits are made of, and how; of a network not known here, those that come last."""
    with torch.no_grad():
        if isinstance(network, Backbone):
            return network.maps(seen), network.of_maps
        hooked = copy.deepcopy(network)  # another thread may be predicting with the network itself
        last = _last_maps(hooked, seen)
        found: list[Tensor] = []
        with last.register_forward_hook(lambda _module, _inputs, maps: found.append(maps)):
            hooked(seen)

    def of_maps(maps: list[Tensor]) -> Tensor:
        with last.register_forward_hook(lambda _module, _inputs, _maps: maps[-1]):
            logits: Tensor = hooked(seen[: len(maps[-1])])
        return logits

    return found[-1:], of_maps


def _last_maps(network: nn.Module, seen: Float[Tensor, "n 3 s s"]) -> nn.Module:
    """The module whose output is the last that has places; raises ConfigError where there is none."""
    told: list[nn.Module] = []

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1:
            told.append(module)

    with ExitStack() as hooks:
        for module in network.modules():
            if module is not network:
                hooks.enter_context(module.register_forward_hook(note))
        network(seen[:1])
    if not told:
        raise ConfigError("the network has no maps", where="cam", remedy="Take integrated_gradients or occlusion.")
    return told[-1]


def _integrated(explained: ExplainedLogit, patches: Pixels) -> Attribution:
    """With twice the steps for those patches whose maps do not yet sum to the logit."""
    logits = explained.logits(patches)
    maps = np.zeros((len(patches), PATCH_SIZE_PX, PATCH_SIZE_PX), np.float32)
    found = Attribution("integrated_gradients", maps, logits, explained.mean(patches, _of_flat), 0)
    left = np.arange(len(patches))
    for steps in _STEPS:
        maps[left] = explained.mean(patches[left], partial(_path, steps=steps))
        found = replace(found, steps=steps)
        share, left = found.complete.mean(), np.flatnonzero(~found.complete)
        if share >= COMPLETE_SHARE or (steps >= _HOPELESS[0] and share < _HOPELESS[1]):
            break
    return found


def _flat_inputs(seen: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 3 s s"]:
    return seen.mean(dim=(2, 3), keepdim=True).expand_as(seen)


def _of_flat(network: TrainedNetwork, seen: Float[Tensor, "n 3 s s"]) -> Float[Tensor, " n"]:
    with torch.no_grad():
        logits: Tensor = network.network(_flat_inputs(seen).contiguous(memory_format=torch.channels_last))
    return logits[:, 0]


def _path(network: TrainedNetwork, seen: Float[Tensor, "n 3 s s"], *, steps: int) -> Float[Tensor, "n 96 96"]:
    """The mean gradient in the middles of so many steps, times the way."""
    start = _flat_inputs(seen)
    way, total = seen - start, torch.zeros_like(seen)
    for step in range(steps):
        at = (start + (step + 0.5) / steps * way).contiguous(memory_format=torch.channels_last).requires_grad_()
        with torch.enable_grad():
            total += torch.autograd.grad(network.network(at).sum(), at)[0]
    return torch.from_numpy(spread((way * total / steps).sum(1).cpu().double().numpy(), network.preprocess))
