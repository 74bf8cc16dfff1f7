"""A trained model as one object: patches in, tumour probabilities out. `sentinode.load` makes it from a folder.

    classifier = sentinode.load("run")
    classifier(patches)                    # probabilities, (N,) float64, in the patches' order
    classifier.decide(patches, "youden")   # which of them are called tumour

The model is a run of one network, an ensemble, whose members' logits are blended, or what a study chose: the mean
probability of several runs. Each network sees a patch under its own preprocessing and views.

On one machine, in one number of threads, a patch has the same probability to the last bit, whatever patches come with
it and however the caller cuts them into batches. On a GPU, whose libraries choose another algorithm for another size,
it is the same to rounding.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL.Image import Image

from sentinode.config.run import PreprocessConfig
from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.data.patches import PatchSet
from sentinode.errors import ConfigError, DataError, SentinodeWarning
from sentinode.evaluation.blend import blend
from sentinode.evaluation.bootstrap import Interval
from sentinode.evaluation.calibration import METHODS, Calibration, Method, logits
from sentinode.evaluation.clusters import ClusterKind
from sentinode.evaluation.metrics import confusion
from sentinode.evaluation.threshold import POINTS, OperatingPoint, PointName
from sentinode.inference.network import Network, Probabilities, RuntimeName
from sentinode.inference.predictions import Predictions
from sentinode.inputs.preprocess import preprocess, unnormalised_in_words
from sentinode.progress import Progress, StepProgress, of_step, silent

Pixels = UInt8[np.ndarray, "n 96 96 3"]
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sentinode.inference.attribution import Attribution
    from sentinode.inference.attribution import Method as AttributionMethod
    from sentinode.models.own import Recipes

    Batch = Pixels | Shaped[Tensor, "n 96 96 3"] | Shaped[Tensor, "n 3 96 96"] | Sequence[Image]
    Patches = Batch | Iterable[Batch]
else:
    Patches = Any  # whatever is given is looked at, and refused in words

LABELS: Final = ("no tumour", "tumour")
"""What a patch's label says of its central 32 x 32 pixels: 0, and 1, whose probability is given."""

_SHAPE: Final = (PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
_CHANNELS_FIRST: Final = (3, PATCH_SIZE_PX, PATCH_SIZE_PX)
_AT_ONCE: Final = 128  # patches that are prepared together, at least: more overflow a processor's cache


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """The network of a run, or those of an ensemble with the weights of their logits."""

    networks: tuple[Network, ...]
    weights: Float[np.ndarray, " networks"] | None = None
    """None for a network that is no ensemble's."""
    folder: Path | None = None
    """Where it was opened; None of an exported file."""
    own: Recipes | None = None
    """What makes networks of a user's own, with which it was opened."""

    def probabilities(self, prepared: NetworkInputs) -> tuple[Probabilities, list[Probabilities]]:
        """The run's, and those of each of its networks."""
        said = [
            network.over_image(*prepared.image)
            if prepared.image is not None and network.is_dense(prepared.image[2])
            else network.probabilities(prepared.patches[network.preprocess])
            for network in self.networks
        ]
        return said[0] if self.weights is None else blend(np.column_stack(said), self.weights), said


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """What the networks of a classifier take of some patches, made once for all that take the same."""

    patches: Mapping[PreprocessConfig, UInt8[np.ndarray, "n _ _ 3"]]
    count: int
    """Of the patches."""
    unnormalised: int = 0
    """Of how many the stain was to be normalised and could not be."""
    image: tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "rows columns"], int] | None = None
    """For dense networks, which take no patches: the image, the cells that are marked in it, and a cell's side."""


@dataclass(frozen=True)
class Card:
    """What a model is, what it was trained on, and what it scored on the patches that it was validated on."""

    name: str
    kind: str
    """"run", "ensemble" or "study"."""
    architectures: tuple[str, ...]
    """Of its networks, each once: `model.architecture`, or the name of the backbone or of a user's own network."""
    networks: int
    data: str
    """What the data said of themselves, such as the phantom's note; "" where they said nothing."""
    origin: str
    """Whose patches they are."""
    training_patches: int
    validation_patches: int
    split: str
    """How training and validation set were told apart, in words."""
    clusters: int
    """Of the validation set: what the intervals draw."""
    cluster_kind: ClusterKind
    scores: Mapping[str, Interval]
    """On the validation set, with 95 % intervals; the ends are NaN, and `reason` says why, where they are unknown."""
    notices: tuple[str, ...]
    """What was done otherwise than asked."""

    def __str__(self) -> str:
        reasons = dict.fromkeys(found.reason for found in self.scores.values() if found.reason)
        lines = [
            f"{self.name}: {self.kind} of {_networks(self.networks)} ({', '.join(self.architectures)})",
            *([self.data] if self.data else []),
            f"trained on {self.training_patches:,} patches ({self.origin}), validated on {self.validation_patches:,}; "
            f"{self.split}",
            *(f"{name}: {found.estimate:.4f} ({found.ends_in_words('.4f')})" for name, found in self.scores.items()),
            *(f"95 % intervals are unknown: {reason}" for reason in reasons),
            *self.notices,
        ]
        return "\n".join(lines)


def _networks(count: int) -> str:
    return f"{count} network{'s' if count > 1 else ''}"


class Classifier:
    """A finished run, ensemble or study's choice as a function of patches. Several threads may call it at once.

    Patches are 96 x 96 RGB, as one of:

    - an array (N, 96, 96, 3) of uint8, a memory map too;
    - a tensor (N, 96, 96, 3) or (N, 3, 96, 96) of uint8, or of floats in [0, 1], which are rounded to the nearest of
      the 256 values that networks were trained on;
    - a list of PIL images of mode RGB;
    - an iterator, or any other iterable, of such batches: one batch is held at a time.

    Whatever else is given is refused with a DataError in one line. A SentinodeWarning tells how many stains could not
    be normalised, where the model asks for that.
    """

    labels: Final = LABELS

    def __init__(
        self,
        name: str,
        runs: Sequence[TrainedRun],
        *,
        calibrations: Mapping[Method, Calibration],
        operating_points: Mapping[PointName, OperatingPoint],
        undecided: str,
        decided_in: Path,
        spacing_um_per_px: float,
        validation: Callable[[], Predictions],
        card: Callable[[], Card],
    ) -> None:
        """`undecided`: why calibrations and operating points are not in the record `decided_in`, if so.

        `validation` and `card` are read when they are first asked for: to predict takes neither.
        """
        self.name, self.calibrations, self.operating_points = name, calibrations, operating_points
        self.spacing_um_per_px: Final = spacing_um_per_px
        """Of the patches that it was trained on."""
        self.runs = tuple(runs)
        """Those whose mean it is: what a study chose has several."""
        self.undecided: Final = undecided
        self._decided_in = decided_in
        self._validation, self._card = validation, card

    def with_runs(self, runs: Sequence[TrainedRun]) -> Classifier:
        """The same of other runs: whose networks are computed elsewhere, for example."""
        other = copy.copy(self)
        other.runs = tuple(runs)
        return other

    @property
    def _networks(self) -> list[Network]:
        return [network for run in self.runs for network in run.networks]

    @property
    def _at_once(self) -> int:
        """How many patches are prepared together."""
        return max(_AT_ONCE, *(network.batch_size.largest for network in self._networks))

    def expect(self, pixels: Pixels, total: int | None = None) -> None:
        """Get ready for patches as in a call with all of them, or with `total`, of which `pixels` are a few."""
        self._expect(self._prepared(pixels[: self._at_once]), len(pixels) if total is None else total)

    @property
    def ways(self) -> tuple[RuntimeName, ...]:
        """What computes each of its networks, for `compute_by`."""
        return tuple(network.way for network in self._networks)

    def compute_by(self, ways: Sequence[RuntimeName]) -> None:
        """Have the networks computed in these ways from now on, with the bits of whoever chose them.

        Raises FailureError where one of them cannot be.
        """
        for network, way in zip(self._networks, ways, strict=True):
            network.compute_by(way)

    def _expect(self, first: NetworkInputs, total: int) -> None:
        for network in self._networks:
            network.expect(first.patches[network.preprocess], total)

    def __repr__(self) -> str:
        return f"<Classifier {self.name}: {_networks(len(self._networks))}, {self.views} views, on {self.device}>"

    @property
    def device(self) -> torch.device | str:
        """Where its networks lie."""
        return self._networks[0].device

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What computes its networks, with versions, each once; many patches may make it another."""
        return tuple(dict.fromkeys(network.runtime for network in self._networks))

    @property
    def views(self) -> int:
        """Under how many symmetries a patch is seen, 1 or 8: of networks that differ in it, the most."""
        return max(network.views for network in self._networks)

    @property
    def networks(self) -> int:
        """How many networks have a say."""
        return len(self._networks)

    def card(self) -> Card:
        """What it is, what it was trained on, and its validation scores with intervals, which take a few seconds."""
        return self._card()

    def __call__(self, patches: Patches, *, on_progress: StepProgress | None = None) -> Probabilities:
        """The tumour probability of each patch, (N,) float64 in [0, 1], in the order given.

        `on_progress` hears how many patches are done, and of how many: of a stream, of those seen so far.
        """
        return self._judged(patches, on_progress)[0]

    def with_disagreement(
        self, patches: Patches, *, on_progress: StepProgress | None = None
    ) -> tuple[Probabilities, Probabilities]:
        """The probabilities, and how far the networks disagree: the standard deviation of theirs, (N,).

        Of a model of one network, which has nobody to disagree with, that is NaN.
        """
        return self._judged(patches, on_progress)

    def _judged(self, patches: Patches, on_progress: StepProgress | None) -> tuple[Probabilities, Probabilities]:
        found, spread, unnormalised, done = [np.empty(0)], [np.empty(0)], 0, 0
        total = len(patches) if isinstance(patches, np.ndarray) or _is_tensor(patches) or _are_images(patches) else 0
        at_once = self._at_once
        chunks = (pixels for batch, where in _batches_of(patches) for pixels in _pixels_of(batch, where, at_once))
        for pixels in chunks:
            prepared = self._prepared(pixels)
            if not done:
                self._expect(prepared, max(total, len(pixels)))
            probability, disagreement = self._said(prepared)
            found.append(probability)
            spread.append(disagreement)
            unnormalised, done = unnormalised + prepared.unnormalised, done + len(pixels)
            if on_progress:
                on_progress(done, max(total, done))
        if unnormalised:
            warnings.warn(unnormalised_in_words(unnormalised, done), SentinodeWarning, stacklevel=3)
        return np.concatenate(found), np.concatenate(spread)

    def can_be_dense(self, cell_px: int = CENTRE_SIZE_PX) -> bool:
        """Whether any of its networks can share maps between the patches of neighbouring cells of an image."""
        return any(network.is_dense(cell_px) for network in self._networks)

    def prepared(
        self,
        rgb: UInt8[np.ndarray, "height width 3"],
        cells: Bool[np.ndarray, "rows columns"],
        *,
        cell_px: int = CENTRE_SIZE_PX,
        dense: bool = False,
    ) -> NetworkInputs:
        """What networks see of the patches around an image's marked cells, row by row, for `on_prepared`.

        Cells are squares of `cell_px` side by side, each in the middle of its patch; `rgb` is what the patches cover:
        of cells of 32 pixels, 32 more on every side. Inputs are made from the image at once, unless stains are to be
        normalised, which is done patch by patch. No network is asked, so that another thread can do this while one is.
        `dense`: networks that can go over the image at once do so, which is faster, and not quite the same.
        """
        from sentinode.inference.dense import inputs_of_cells, is_shared  # here: with it comes PyTorch

        tiled = [network for network in self._networks if not dense or not network.is_dense(cell_px)]
        ways = dict.fromkeys(network.preprocess for network in tiled)
        image = (rgb, cells, cell_px) if dense else None
        if all(map(is_shared, ways)):
            made = {way: inputs_of_cells(rgb, cells, way, cell_px) for way in ways}
            return NetworkInputs(made, int(cells.sum()), image=image)
        windows = np.lib.stride_tricks.sliding_window_view(rgb, (PATCH_SIZE_PX, PATCH_SIZE_PX), axis=(0, 1))
        patches = windows[::cell_px, ::cell_px][cells].transpose(0, 2, 3, 1)
        return replace(self._prepared(patches), image=image)

    def on_prepared(self, prepared: NetworkInputs) -> tuple[Probabilities, Probabilities]:
        """`with_disagreement` of the patches that were prepared: to the last bit, where nothing is dense."""
        if prepared.unnormalised:
            told = unnormalised_in_words(prepared.unnormalised, prepared.count)
            warnings.warn(told, SentinodeWarning, stacklevel=2)
        return self._said(prepared)

    def _said(self, prepared: NetworkInputs) -> tuple[Probabilities, Probabilities]:
        """The mean of the runs, and the deviation of all networks."""
        summed = np.zeros(prepared.count)  # run by run: NumPy's mean would add those of a patch alone in another order
        each: list[Probabilities] = []
        for run in self.runs:
            blended, said = run.probabilities(prepared)
            summed += blended
            each += said
        return summed / len(self.runs), np.std(each, axis=0) if len(each) > 1 else np.full(prepared.count, np.nan)

    def predictions(self, patches: PatchSet, progress: Progress = silent) -> Predictions:
        """The probabilities of patches that have ids, beside these and their labels."""
        told = of_step(progress, f"predict {self.name}")
        return Predictions(patches.ids, patches.labels, self(patches.pixels, on_progress=told))

    def _prepared(self, pixels: Pixels) -> NetworkInputs:
        """Stains that cannot be normalised are the same for every network that asks for it."""
        ways = {way: preprocess(pixels, way) for way in dict.fromkeys(network.preprocess for network in self._networks)}
        unnormalised = max(int(left.sum()) for _, left in ways.values())
        return NetworkInputs({way: made for way, (made, _) in ways.items()}, len(pixels), unnormalised)

    def logits(self, patches: Patches) -> Float[np.ndarray, " n"]:
        """log(p / (1 - p)) of each patch's probability, (N,); a probability of 0 or 1 counts as 1e-12 away."""
        return logits(self(patches))

    def calibrated(self, patches: Patches, method: str = "temperature") -> Probabilities:
        """Probabilities mapped as the validation set has it, "temperature" or "isotonic"; raises as `calibration`."""
        fitted = self.calibration(method)
        return fitted.apply(self(patches))

    def explain(self, patches: Patches, method: AttributionMethod = "cam", *, views: int | None = None) -> Attribution:
        """Maps, (N, 96, 96) float32, of where in patches the evidence for their logits lies, in logits a pixel.

        `method` is "cam", "integrated_gradients" or "occlusion"; `inference/attribution.py` says what they are. What
        speaks for tumour is positive. `views`: 1, of the patch as it lies, or 8; None for those that the model predicts
        with. Raises ConfigError for an exported model, where the network has no such maps, and where they do not sum to
        the logit that they are to explain. Whether the maps of a method mean anything for this network is examined by
        `sentinode explain`.
        """
        from sentinode.inference.attribution import METHODS, ExplainedLogit, attribute  # here: with it comes PyTorch

        if method not in METHODS:
            known = f"{', '.join(METHODS[:-1])} or {METHODS[-1]}"
            raise ConfigError(f"unknown method {method!r}", where="method", remedy=f"Give {known}.")
        chunks = [np.empty((0, *_SHAPE), np.uint8)]
        for batch, where in _batches_of(patches):
            chunks += _pixels_of(batch, where, _AT_ONCE)
        found = attribute(ExplainedLogit.of(self, views=views), np.concatenate(chunks), method)
        if found.refused:
            raise ConfigError(found.refused, where=method, remedy="Explain it by another method.")
        return found

    def decide(self, patches: Patches, threshold: str | float = "youden") -> Bool[np.ndarray, " n"]:
        """Which patches are called tumour, (N,): those whose probability is above the threshold; raises as `threshold`.

        The threshold is that of an operating point, by name, or a probability before any calibration.
        """
        above = self.threshold(threshold)
        return np.asarray(self(patches) > above)

    def threshold(self, threshold: str | float) -> float:
        """The threshold of an operating point, or the number itself.

        Raises ConfigError for a name that is not known or was not chosen, and for a number outside [0, 1].
        """
        try:
            asked = float(threshold)
        except ValueError:
            return self._operating_point(str(threshold)).threshold
        if not 0 <= asked <= 1:
            raise ConfigError(
                f"{threshold} is not a probability", where="threshold", remedy="Give one between 0 and 1."
            )
        return asked

    def operating_point(self, threshold: str | float) -> OperatingPoint:
        """What `threshold` gives, with its rule in words and its rates on the validation set; raises alike."""
        above = self.threshold(threshold)
        if str(threshold) in self.operating_points:
            point = self._operating_point(str(threshold))
            return replace(point, rule=f"{point.rule}; chosen on the validation set")
        seen = self._validation()
        counts = confusion(seen.labels, seen.probabilities, above)
        return OperatingPoint("as given", above, counts.sensitivity, counts.specificity)

    def _operating_point(self, name: str) -> OperatingPoint:
        if name not in POINTS:
            known = f"{', '.join(POINTS[:-1])} or {POINTS[-1]}"
            raise ConfigError(f"unknown operating point {name!r}", remedy=f"Give {known}, or a number between 0 and 1.")
        if name not in self.operating_points:
            raise ConfigError(
                f"holds no operating point {name!r}: {self.undecided}",
                where=self._decided_in,
                remedy="Give a number between 0 and 1.",
            )
        return self.operating_points[name]

    def calibration(self, method: str) -> Calibration:
        """The map of that name; raises ConfigError for one that is not known or could not be fitted."""
        if method not in METHODS:
            raise ConfigError(f"unknown calibration {method!r}", remedy=f"Give {' or '.join(METHODS)}.")
        if method not in self.calibrations:
            raise ConfigError(
                f"holds no calibration {method!r}: {self.undecided}",
                where=self._decided_in,
                remedy="Predict without a calibration.",
            )
        return self.calibrations[method]


def _batches_of(patches: object) -> Iterator[tuple[object, str]]:
    """The batches, one after the other, and what an error calls each."""
    if isinstance(patches, np.ndarray) or _is_tensor(patches) or _are_images(patches):
        yield patches, "patches"
    elif isinstance(patches, Iterable) and not isinstance(patches, str | bytes | Mapping):
        for number, batch in enumerate(patches):
            yield batch, f"batch {number}"
    else:
        raise _no_patches(patches, "patches")


def _pixels_of(batch: object, where: str, at_once: int) -> Iterator[Pixels]:
    """The patches of a batch as bytes, some at a time; raises DataError where they are anything else."""
    if isinstance(batch, np.ndarray):
        if batch.dtype != np.uint8:
            raise DataError(f"are {batch.dtype}", where=where, remedy="Give bytes (uint8), from 0 to 255.")
        _require_shape(batch.shape, where, [_SHAPE])
        for start in range(0, len(batch), at_once):
            yield batch[start : start + at_once]
    elif _is_tensor(batch):
        _require_shape(tuple(batch.shape), where, [_SHAPE, _CHANNELS_FIRST])
        if not (batch.is_floating_point() or str(batch.dtype) == "torch.uint8"):
            raise DataError(f"are {batch.dtype}", where=where, remedy="Give torch.uint8, or floats in [0, 1].")
        for start in range(0, len(batch), at_once):
            yield _bytes_of_tensor(batch[start : start + at_once], where)
    elif _are_images(batch):
        for start in range(0, len(batch), at_once):
            some = enumerate(batch[start : start + at_once], start)
            yield np.stack([_bytes_of_image(image, f"{where}, image {number}") for number, image in some])
    else:
        raise _no_patches(batch, where)


def _require_shape(shape: tuple[int, ...], where: str, known: Sequence[tuple[int, ...]]) -> None:
    if shape[1:] not in known:
        forms = " or ".join(f"(N, {', '.join(map(str, form))})" for form in known)
        alone = "one patch is patch[None]" if shape in known else "cut or resize them first"
        raise DataError(f"have the shape {shape}", where=where, remedy=f"Give {forms}; {alone}.")


def _bytes_of_tensor(patches: Tensor, where: str) -> Pixels:
    if patches.is_floating_point():
        low, high = float(patches.min()), float(patches.max())
        if not (low >= 0 and high <= 1):  # nor NaN
            raise DataError(
                f"hold values from {low:g} to {high:g}",
                where=where,
                remedy="Give floats in [0, 1], not normalised by a mean and deviation, or bytes (torch.uint8).",
            )
        patches = (patches.float() * 255).round().byte()
    last = patches if tuple(patches.shape[1:]) == _SHAPE else patches.permute(0, 2, 3, 1)
    return np.asarray(last.detach().cpu().contiguous().numpy())


def _bytes_of_image(image: object, where: str) -> UInt8[np.ndarray, "96 96 3"]:
    if not isinstance(image, Image):
        raise _no_patches(image, where)
    if image.mode != "RGB" or image.size != (PATCH_SIZE_PX, PATCH_SIZE_PX):
        raise DataError(
            f"is of mode {image.mode} and {image.width} x {image.height} pixels",
            where=where,
            remedy=f"Give RGB images of {PATCH_SIZE_PX} x {PATCH_SIZE_PX} (image.convert('RGB')).",
        )
    return np.asarray(image)


def _is_tensor(batch: object) -> TypeGuard[Tensor]:
    """Nobody has a tensor where PyTorch was not imported, which an exported model does without."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(batch, torch.Tensor)


def _are_images(batch: object) -> TypeGuard[Sequence[Image]]:
    return isinstance(batch, list | tuple) and (not batch or isinstance(batch[0], Image))


def _no_patches(found: object, where: str) -> DataError:
    return DataError(
        f"{type(found).__name__} holds no patches",
        where=where,
        remedy="Give an array (N, 96, 96, 3) of bytes, a tensor, a list of PIL images, or an iterator of such batches.",
    )
