"""A whole model in one HTML file: a page that classifies patches and scans regions in the browser, offline.

The page holds the weights, and a small interpreter of layers (`page/model.js`); nothing is installed, and nothing is
sent. It computes what the folded networks of the notebook are made of: convolutions, ReLU, max-pooling, dense layers.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from torch import nn

from sentinode.errors import ExportError
from sentinode.exports.certificate import Logits, Pixels
from sentinode.inference.classifier import Classifier
from sentinode.inference.exported import Exported
from sentinode.inference.trained import TrainedNetwork
from sentinode.inputs.preprocess import sampled_px

HTML: Final = "model.html"
_PAGE: Final = Path(__file__).parent / "page"
IMAGE_READER: Final = _PAGE / "image.js"
"""The module that reads image files in a browser, which the service's page uses too."""
_LARGEST: Final = 5_000_000  # weights: a browser computes them in plain loops
_POINT: Final = "youden"


def write_html(classifier: Classifier, record: Exported, folder: Path) -> None:
    """Raises ExportError for a network with other layers than the page knows, or with too many weights."""
    described = describe(classifier, record)
    modules = "".join(map(_inlined, ("image.js", "model.js")))
    page = _resource("page.html").replace("/*MODULES*/", modules)
    # In a script element "</" would end it, whatever a name holds.
    (folder / HTML).write_text(page.replace("/*MODEL*/", json.dumps(described).replace("</", "<\\/")), encoding="utf-8")


def html_runtimes(folder: Path) -> tuple[dict[str, Logits], dict[str, str]]:
    """The page's computation in Node, where that is installed; browsers compute alike."""
    node = shutil.which("node")
    if node is None:
        return {}, {"node": "not installed"}
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    text = (folder / HTML).read_text(encoding="utf-8")
    described = text.split("const described = ", 1)[1].split(";\nconst model", 1)[0]

    def logits_of(pixels: Pixels) -> Float[np.ndarray, " n"]:
        asked = base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode()
        code = f"{_inlined('model.js')}\nconst described = {described};\n{_IN_NODE}"
        told = subprocess.run(
            [node, "-"], input=f"{code}answer('{asked}');", capture_output=True, text=True, check=True
        )
        return np.array(json.loads(told.stdout))

    return {f"node {version}": logits_of}, {}


_IN_NODE: Final = """
function answer(base64) {
  const bytes = Buffer.from(base64, "base64"), model = new Model(described), logits = [];
  for (let at = 0; at < bytes.length; at += 3 * 96 * 96)
    logits.push(model.logit({ width: 96, height: 96, rgb: bytes.subarray(at, at + 3 * 96 * 96) }));
  console.log(JSON.stringify(logits));
}
"""


def describe(classifier: Classifier, record: Exported) -> dict[str, Any]:
    """The model as the page reads it; raises as `write_html`."""
    arrays: list[np.ndarray] = []
    runs = [
        {
            "weights": None if run.weights is None else run.weights.tolist(),
            "networks": [_network(network, arrays, classifier.name) for network in run.networks],
        }
        for run in classifier.runs
    ]
    weights = np.concatenate(arrays).astype("<f4")
    if len(weights) > _LARGEST:
        raise ExportError(
            f"its {len(weights):,} weights are too many for a page ({_LARGEST:,} at most)",
            where=classifier.name,
            remedy="Export to onnx.",
        )
    fitted = record.calibrations.get("temperature")
    point = record.operating_points.get(_POINT)
    auc = record.card.scores["auc"]
    return {
        "name": record.name,
        "about": f"{_many(record.card.networks, 'network')}, {_many(record.views, 'view')}; validation AUC "
        f"{auc.estimate:.3f} ({auc.ends_in_words()}). Patches of 96 x 96 pixels at {record.spacing_um_per_px:g} um/px; "
        f"the label speaks of the central 32 x 32. {record.card.data}".strip(),
        "digest": record.digest,
        "spacing": record.spacing_um_per_px,
        "threshold": 0.5 if point is None else point.threshold,
        "temperature": getattr(fitted, "temperature", None),
        "runs": runs,
        "weights": base64.b64encode(weights.tobytes()).decode(),
    }


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _network(network: object, arrays: list[np.ndarray], name: str) -> dict[str, Any]:
    assert isinstance(network, TrainedNetwork)
    if not isinstance(network.network, nn.Sequential):
        raise _unknown(network.network, name)
    first, block = sampled_px(network.preprocess)
    return {
        "views": network.views,
        "way": {"at": first.tolist(), "block": block, "size": network.preprocess.size_px},
        "layers": [_layer(layer, arrays, name) for layer in network.network],
    }


def _layer(layer: nn.Module, arrays: list[np.ndarray], name: str) -> dict[str, Any]:
    def kept(values: Any) -> int:
        start = sum(map(len, arrays))
        arrays.append(values.detach().cpu().contiguous().numpy().ravel())
        return start

    match layer:
        case nn.Conv2d(groups=1, dilation=(1, 1), bias=bias) if bias is not None and _is_square(layer):
            return {
                "kind": "conv",
                "outputs": layer.out_channels,
                "kernel": layer.kernel_size[0],
                "stride": layer.stride[0],
                "padding": layer.padding[0],
                "weight": kept(layer.weight),
                "bias": kept(bias),
            }
        case nn.MaxPool2d(kernel_size=int(size), stride=int(stride), padding=0, ceil_mode=False):
            return {"kind": "pool", "size": size, "stride": stride}
        case nn.ReLU():
            return {"kind": "relu"}
        case nn.Flatten(start_dim=1, end_dim=-1):
            return {"kind": "flatten"}
        case nn.Linear(bias=bias) if bias is not None:
            return {"kind": "linear", "outputs": layer.out_features, "weight": kept(layer.weight), "bias": kept(bias)}
        case _:
            raise _unknown(layer, name)


def _is_square(layer: nn.Conv2d) -> bool:
    return all(
        len(set(pair)) == 1 and not isinstance(pair, str) for pair in (layer.kernel_size, layer.stride, layer.padding)
    )


def _unknown(layer: nn.Module, name: str) -> ExportError:
    return ExportError(
        f"a page does not compute {type(layer).__name__}: it knows the layers of the notebook's networks",
        where=name,
        remedy="Export to onnx.",
    )


def _inlined(module: str) -> str:
    """A module's text for a script that is no module, which alone runs in a file and in a pipe to Node."""
    return re.sub(r"^export ", "", _resource(module), flags=re.MULTILINE)


def _resource(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")
