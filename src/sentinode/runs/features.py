"""What the last layer of a network is given of each patch: its features, computed once and kept in the cache."""

from __future__ import annotations

import hashlib
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from sentinode.artefacts import write_atomically
from sentinode.config.fit import CopiesConfig
from sentinode.config.run import RunConfig, TimmModel
from sentinode.data.cache import kept_array
from sentinode.data.patches import PatchSet
from sentinode.device import Precision, has_bfloat16, in_precision
from sentinode.fitting.linear_probe import LabelledFeatures
from sentinode.inputs.augment import Draws, as_input, augmented, draw
from sentinode.inputs.preprocess import Prepared
from sentinode.models.backbones.backbone import Backbone
from sentinode.models.p4m import RingReadout
from sentinode.progress import StepProgress, of_step
from sentinode.randomness import Purpose
from sentinode.runs.material import Material
from sentinode.runs.teacher import TeacherPredictions
from sentinode.session import Session

_CHUNK: Final = 512  # patches hashed at a time
_PLAIN: Final = 0  # the copy that is the patch itself


def head_features(
    material: Material,
    config: RunConfig,
    copies: CopiesConfig | None,
    network: Backbone,
    by_teacher: TeacherPredictions | None = None,
) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Features and labels of the training set, those that a teacher labels last, and of the validation set.

    The training set is there once for each of the copies. Without copies, and to validate, patches are looked at as
    they are.
    """
    split, patches = material.split(config), material.patches
    store = FeatureStore(patches, config, copies, network, material.session)
    rows = patches.rows_of(split.validation)
    validation = LabelledFeatures(store.features(rows), patches.labels[rows].astype(np.int64))
    rows = patches.rows_of(split.training)
    parts = [store.copies(rows, patches.labels[rows])]
    if by_teacher is not None and len(by_teacher.joined):
        assert material.unlabelled is not None
        store = FeatureStore(material.unlabelled.patches, config, copies, network, material.session)
        parts.append(store.copies(store.patches.rows_of(by_teacher.joined.ids), by_teacher.joined.labels))
    values, labels = (np.concatenate(of_parts) for of_parts in zip(*[(p.values, p.labels) for p in parts], strict=True))
    return LabelledFeatures(values, labels), validation


class Penultimate(nn.Module):
    """A network without a body and head of its own up to the last layer that weighs: what this is given of each patch.

    That is the last linear layer, or convolution, that is called; where a user's network has neither, the last layer
    with weights. Of maps the features are means over their places; of a p4m network's, over each of its rings.
    """

    def __init__(self, network: nn.Module, size_px: int) -> None:
        super().__init__()
        self.network = network.eval()
        called: list[nn.Module] = []
        hooks = [
            layer.register_forward_pre_hook(lambda layer, _: called.append(layer))
            for layer in network.modules()
            if next(layer.parameters(recurse=False), None) is not None
        ]
        place = next(network.parameters()).device
        with torch.no_grad():
            network(torch.zeros(1, 3, size_px, size_px, device=place))
        for hook in hooks:
            hook.remove()
        weigh = [layer for layer in called if isinstance(layer, nn.Linear | nn.Conv2d | RingReadout)]
        self._last = ((weigh or called)[-1],)  # in a tuple, or its weights would be there twice
        with torch.no_grad():
            self.width = self.features(torch.zeros(1, 3, size_px, size_px, device=place)).shape[1]

    def features(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n d"]:
        """Pixels in [0, 1] -> features."""
        given: list[Tensor] = []
        (last,) = self._last
        hook = last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        self.network(x)
        hook.remove()
        match last:
            case RingReadout():
                return last.of_rings(given[-1])
            case nn.Linear():
                return given[-1].flatten(1, -2).mean(1) if given[-1].ndim > 2 else given[-1]
            case _:
                return given[-1].flatten(2).mean(2) if given[-1].ndim > 2 else given[-1]


class FeatureStore:
    """Features of patches as a network sees them under a config, each computed when it is first asked for.

    They are kept in the folder `features` of the cache, a file for each copy, under a digest of all that they depend
    on: every split, seed and number of labels reads the same ones.
    """

    def __init__(
        self,
        patches: PatchSet,
        config: RunConfig,
        copies: CopiesConfig | None,
        network: Backbone | Penultimate,
        session: Session,
    ) -> None:
        self.patches, self._config, self._copies = patches, config, copies
        self._network, self._session = network, session
        self._digest = _digest(patches, config, network, session.device)

    def copies(self, rows: Int[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"]) -> LabelledFeatures:
        """Of some rows all copies that are asked for, one behind the other, with their labels."""
        numbers = range(1, self._copies.count + 1) if self._copies else [_PLAIN]
        values = np.concatenate([self.features(rows, number) for number in numbers])
        return LabelledFeatures(values, np.tile(labels.astype(np.int64), len(numbers)))

    def features(self, rows: Int[np.ndarray, " n"], copy: int = _PLAIN) -> Float[np.ndarray, "n d"]:
        """Of some rows: of the patches as they are, or of their copy of this number, from 1."""
        path = self._path(copy)
        every = self._kept(path)
        missing = rows[np.isnan(every[rows, 0])]
        if len(missing):
            every[missing] = self._computed(missing, copy)
            write_atomically(path, lambda file: np.save(file, every, allow_pickle=False))
        found: Float[np.ndarray, "n d"] = every[rows]
        return found

    def _computed(self, rows: Int[np.ndarray, " n"], copy: int) -> Float[np.ndarray, "n d"]:
        draws = None
        if self._copies is not None and copy != _PLAIN:  # a patch's draws do not depend on which others are asked for
            generator = torch.Generator().manual_seed(Purpose.COPIES.seed(then=(copy,)))
            draws = draw(self._copies, len(self.patches), generator).of(itemgetter(torch.from_numpy(rows)))
        step = "features" if copy == _PLAIN else f"features, copy {copy}"
        return features_of(
            self._network,
            Prepared(self.patches, rows, self._config.preprocess, None),  # looked at once, so not held
            draws,
            precision=self._config.predict.precision,
            device=self._session.device,
            on_progress=of_step(self._session.progress, step),
        )

    def _path(self, copy: int) -> Path:
        digest = self._digest.copy()
        varied = self._copies.model_dump(exclude={"count"}) if self._copies and copy != _PLAIN else None
        digest.update(f"|{copy}|{varied}".encode())
        return self._session.cache_root / "features" / f"{digest.hexdigest()[:20]}.npy"

    def _kept(self, path: Path) -> Float[np.ndarray, "n d"]:
        """What the cache has of all patches, and NaN; what is written into it changes no file."""
        shape = (len(self.patches), self._network.width)
        kept = kept_array(path, shape)
        return np.full(shape, np.nan, np.float32) if kept is None else kept


def _digest(
    patches: PatchSet, config: RunConfig, network: Backbone | Penultimate, device: torch.device
) -> hashlib._Hash:
    """Of the pixels themselves: ids need not change with them."""
    digest = hashlib.sha256(str(patches.pixels.shape).encode())
    for start in range(0, len(patches), _CHUNK):
        digest.update(patches.pixels[start : start + _CHUNK].tobytes())
    arithmetic = "bfloat16" if config.predict.precision == "mixed" and has_bfloat16(device) else "float32"
    looks: object = config.model
    if isinstance(network, Backbone):
        assert isinstance(config.model, TimmModel)
        looks = config.model.backbone, network.kind, network.seen, config.model.stem_stride, network.resize_px
    for part in (looks, config.preprocess, arithmetic):
        digest.update(f"|{part}".encode())
    for name, tensor in network.state_dict().items():
        if isinstance(network, Penultimate) or not name.startswith(("head.", "centre", "scale")):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest


# A backbone's maps of more patches than these overflow a processor's cache; a GPU wants more.
_BATCH_ON_CPU: Final = 16
_BATCH_ON_GPU: Final = 256


@torch.inference_mode()
def features_of(
    network: Backbone | Penultimate,
    prepared: Prepared,
    draws: Draws | None = None,
    *,
    precision: Precision,
    device: torch.device,
    on_progress: StepProgress | None = None,
) -> Float[np.ndarray, "n d"]:
    """What the last layer sees of each patch, in the order of `prepared`; of its copy, where `draws` make one."""
    network.eval()
    size = _BATCH_ON_CPU if device.type == "cpu" else _BATCH_ON_GPU
    features = np.empty((len(prepared), network.width), np.float32)
    for start in range(0, len(prepared), size):
        rows = slice(start, min(start + size, len(prepared)))
        images = torch.from_numpy(prepared[rows]).permute(0, 3, 1, 2).to(device)
        inputs = as_input(images) if draws is None else augmented(images, draws.of(itemgetter(rows)))
        with in_precision(precision, device):
            found = network.features(inputs.contiguous(memory_format=torch.channels_last))
        features[rows] = found.float().cpu().numpy()
        if on_progress:
            on_progress(rows.stop, len(prepared))
    return features
