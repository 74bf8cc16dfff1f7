"""A finished model from wherever it lies: a run's folder, or one file that was exported from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sentinode.files import EXPORTED

if TYPE_CHECKING:
    import torch

    from sentinode.inference.classifier import Classifier
    from sentinode.models.own import Given
    from sentinode.session import Session


def load(
    model: str | Path,
    *,
    device: str | torch.device = "auto",
    network: Given | None = None,
    session: Session | None = None,
) -> Classifier:
    """The finished run, ensemble or study's choice in a folder as one object, which maps patches to probabilities.

    A run of your own network needs the same `network` as `fit`, because a folder contains no code. Every sealed file is
    checked once against its digest. Raises RunError, in one line, if the folder is unfinished or a file is missing,
    changed or foreign, and ConfigError if the device, such as "cpu", "cuda" or "mps", is not available.

    Where a CPU would need more than a minute for the patches, it tries what is installed (PyTorch, ONNX Runtime,
    OpenVINO), takes the fastest whose logits are within 1e-4 of PyTorch's, and keeps the choice in the user's cache. A
    `session`, in place of `device`, names another cache, hears of the choice, or asks for PyTorch.

    `model` may also be an ONNX file that `export` wrote: then neither PyTorch nor `network` is needed, and it is
    computed on the CPU, whatever `device` says. Probabilities are the run's within the file's certificate.
    """
    path = Path(model)
    if path.suffix.lower() == EXPORTED and not path.is_dir():
        from sentinode.inference.exported import open_exported

        return open_exported(path)
    import torch  # here: an exported model needs none

    from sentinode.device import choose_device
    from sentinode.inference.runtimes import RuntimeCache
    from sentinode.models.own import Recipes
    from sentinode.runs.load import classifier_of, open_runs, runtime_cache_of

    asked = session.device if session else device
    place = asked if isinstance(asked, torch.device) else choose_device(asked)
    cache = runtime_cache_of(session) if session else RuntimeCache()
    return classifier_of(open_runs(path, Recipes.of(network)), place, folder=path, fastest=cache)
