"""Checkpoints: whatever changed in one since it was written is found before it is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from sentinode.errors import RunError
from sentinode.fitting.checkpoint import load_weights, save_weights


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 1))


def test_weights_read_back(network: nn.Module, tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    load_weights(tmp_path / "a.safetensors", network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("place", range(24))
def test_a_flipped_bit_anywhere_is_found(place: int, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, network)
    content = bytearray(path.read_bytes())
    content[len(content) * place // 24] ^= 4
    path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        load_weights(path, network)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("change", ["no digest", "another digest", "another tensor", "more metadata"])
def test_what_another_program_wrote_is_no_checkpoint(change: str, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, network)
    with safetensors.safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata()
    match change:
        case "no digest":
            metadata = None
        case "another digest":
            metadata = {"sha256": "0" * 64}
        case "another tensor":
            tensors["0.bias"] += 1
        case _:
            metadata |= {"history": json.dumps([])}
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    with pytest.raises(RunError, match="has changed since it was written"):
        load_weights(path, network)
