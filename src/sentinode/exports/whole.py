"""A whole classifier as one module: patches as they are -> probability and logit. Every exported format is made of it.

In it are what a run does to a patch before its network (the centre, downsampling, [0, 1]), the views and their mean, an
ensemble's members and weights, the mean of a study's runs, and calibration by temperature. Where the run computes
probabilities in double precision, this computes their logits in single, which every runtime has, so that nothing is
lost near 0 and 1: the logit of a mean of probabilities is the difference of two sums that never round to 0.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sentinode.config.run import PreprocessConfig
from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.errors import RunError
from sentinode.evaluation import blend, calibration
from sentinode.evaluation.calibration import Temperature
from sentinode.inference.classifier import Classifier, TrainedRun
from sentinode.inference.network import Network
from sentinode.inference.trained import TrainedNetwork
from sentinode.inputs.preprocess import sampled_px
from sentinode.models.folded import folded_backbone


class Whole(nn.Module):
    """(n, 96, 96, 3), bytes or whole numbers from 0 to 255 -> probability and logit, (n,) float32 each.

    Where a temperature was fitted, the third output is the probability that is calibrated by it. Thresholds hold for
    the first.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self._runs = [_WholeRun(run) for run in classifier.runs]
        self.runs = nn.ModuleList(self._runs)
        self._ways = list(dict.fromkeys(member.way for run in self._runs for member in run.networks))
        fitted = classifier.calibrations.get("temperature")
        self.temperature = fitted.temperature if isinstance(fitted, Temperature) else None
        self.eval().requires_grad_(False)

    @property
    def outputs(self) -> list[str]:
        """Their names, in their order."""
        return ["probability", "logit", *(["calibrated"] if self.temperature else [])]

    def forward(self, patches: Shaped[Tensor, "n 96 96 3"]) -> tuple[Tensor, ...]:
        logit = self.logit(patches.float())
        if self.temperature is None:
            return _probability(logit), logit
        return _probability(logit), logit, _probability(logit / self.temperature)

    def logit(self, patches: Float[Tensor, "n 96 96 3"]) -> Float[Tensor, " n"]:
        """Of whole numbers from 0 to 255."""
        seen = {way: network_input(patches, way) for way in self._ways}
        said = [run(seen) for run in self._runs]
        return _bounded(said[0] if len(said) == 1 else mean_of_probabilities(torch.stack(said)), calibration.SMALLEST)


class _WholeRun(nn.Module):
    """The network of a run, or those of an ensemble with the weights of their logits."""

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        self.networks = [_WholeNetwork(network) for network in run.networks]
        self.members = nn.ModuleList(self.networks)
        self.weights = None if run.weights is None else run.weights.tolist()

    def forward(self, seen: dict[PreprocessConfig, Tensor]) -> Float[Tensor, " n"]:
        said: list[Tensor] = [network(seen[network.way]) for network in self.networks]
        if self.weights is None:
            return said[0]
        weighted = [weight * _bounded(logit, blend.SMALLEST) for weight, logit in zip(self.weights, said, strict=True)]
        return torch.stack(weighted).sum(0)


class _WholeNetwork(nn.Module):
    """A network under all its views, which it sees as one batch: the graph holds it once."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        assert isinstance(network, TrainedNetwork)
        self.network = folded_backbone(network.network) or network.network
        self.views, self.way = network.views, network.preprocess

    def forward(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, " n"]:
        views = x if self.views == 1 else torch.cat([apply_symmetry(x, symmetry) for symmetry in SYMMETRIES])
        logits: Tensor = self.network(views)[:, 0]
        return logits if self.views == 1 else mean_of_probabilities(logits.reshape(self.views, -1))


def whole(classifier: Classifier) -> Whole:
    """Raises RunError for what no format has operations for, and for a model that is an export itself."""
    for network in (network for run in classifier.runs for network in run.networks):
        if not isinstance(network, TrainedNetwork):
            raise RunError(f"{classifier.name} is an export itself", remedy="Export the run that it was made from.")
        if network.preprocess.stain != "none":
            raise RunError(
                f"{classifier.name} normalises stains (preprocess.stain), patch by patch and by eigenvectors, which no "
                "format of a network has",
                remedy="Export a run of preprocess.stain = none.",
            )
    return Whole(classifier)


def network_input(patches: Float[Tensor, "n 96 96 3"], way: PreprocessConfig) -> Float[Tensor, "n 3 s s"]:
    """What `downsample` makes of patches, to the last bit, in [0, 1]."""
    at, block = sampled_px(way)
    first, size = int(at[0]), way.size_px
    if block > 1:
        centre = patches[:, first : first + size * block, first : first + size * block]
        total = centre.reshape(-1, size, block, size, block, 3).sum((2, 4))
        # Half more than the loop adds to whole numbers: a runtime may multiply by 1 / 9, a little below the ninth.
        pixels = torch.floor((total + (block * block // 2 + 0.5)) / (block * block))
    elif way.crop_px == size:
        pixels = patches[:, first : first + size, first : first + size]
    else:
        places = torch.from_numpy(at)
        pixels = patches.index_select(1, places).index_select(2, places)
    return pixels.permute(0, 3, 1, 2) / 255.0


def mean_of_probabilities(logits: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """The logit of the mean over the first axis of the probabilities that logits stand for."""
    return _log_sum_exp(-_softplus(-logits)) - _log_sum_exp(-_softplus(logits))


def _log_sum_exp(x: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    largest = x.amax(0)
    return largest + torch.log(torch.exp(x - largest).sum(0))


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), by hand: runtimes write PyTorch's as the logarithm of a sigmoid, which rounds to 0."""
    return torch.relu(x) + torch.log(1 + torch.exp(-x.abs()))


def _bounded(logit: Tensor, smallest: float) -> Tensor:
    largest = math.log1p(-smallest) - math.log(smallest)
    return logit.clamp(-largest, largest)


def _probability(logit: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """By hand, too: ONNX Runtime's sigmoid is off by 1e-7 near 0, many times a small probability."""
    return 1 / (1 + torch.exp(-logit))
