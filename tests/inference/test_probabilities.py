"""Probabilities: in the order of the ids, averaged over views, the same whatever the batch size."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from conftest import make_patches
from rounding import Rounding
from sentinode.config import NotebookModel, PreprocessConfig
from sentinode.data.preprocess import Prepared, as_input, prepare
from sentinode.data.symmetry import apply_symmetry
from sentinode.errors import ConfigError, RunError
from sentinode.inference.device import choose_device
from sentinode.inference.probabilities import BatchSize, Predictions, average, predict_probabilities, unlabelled
from sentinode.inference.views import views
from sentinode.models.build import build

CPU = torch.device("cpu")


@pytest.fixture
def network() -> torch.nn.Module:
    return build(NotebookModel(), input_size_px=32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def prepared() -> Prepared:
    return prepare(make_patches(21), np.arange(21), PreprocessConfig(), budget_mb=10)


def probabilities(network: torch.nn.Module, prepared: Prepared, view_count: int, batch_size: int = 8) -> np.ndarray:
    return predict_probabilities(network, prepared, view_count=view_count, batch_size=batch_size, device=CPU)


def known(network: torch.nn.Module, prepared: Prepared) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of each symmetry by the network itself, (8, N), in single precision and in double."""
    images = as_input(torch.from_numpy(prepared[slice(0, 21)]).permute(0, 3, 1, 2))
    exact = copy.deepcopy(network).double().eval()
    network.eval()
    with torch.no_grad():
        turned = [apply_symmetry(images, k) for k in range(8)]
        single = torch.stack([torch.sigmoid(network(view)).squeeze(1) for view in turned])
        return single, torch.stack([torch.sigmoid(exact(view.double())).squeeze(1) for view in turned])


@pytest.mark.numeric
def test_views_are_averaged_over_the_symmetries_whatever_the_batch_size(
    network: torch.nn.Module, prepared: Prepared
) -> None:
    single, exact = known(network, prepared)
    rounding = Rounding()
    for size in (4, 8, 21):
        eight, one = (torch.from_numpy(probabilities(network, prepared, count, size)).float() for count in (8, 1))
        rounding.add("8 views", eight, single.mean(0), exact.mean(0))
        rounding.add("1 view", one, single[0], exact[0])
    rounding.check()


@pytest.mark.numeric
def test_eight_views_do_not_care_how_the_patch_lies(network: torch.nn.Module, prepared: Prepared) -> None:
    assert prepared.held is not None
    turned = Prepared(prepared.patches, prepared.rows, prepared.config, np.ascontiguousarray(prepared.held[:, ::-1]))
    single, exact = known(network, prepared)
    rounding = Rounding()
    of_turned = torch.from_numpy(probabilities(network, turned, 8)).float()
    rounding.add("turned", of_turned, single.mean(0), exact.mean(0))
    rounding.check()


class Sure(torch.nn.Module):
    """Logits of 18 to 27, a little higher for brighter patches."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 18 + 9 * images.mean(dim=(1, 2, 3), keepdim=True)[:, :, 0, 0]


@pytest.mark.parametrize("view_count", [1, 8])
def test_what_a_confident_network_tells_apart_stays_apart(prepared: Prepared, view_count: int) -> None:
    found = probabilities(Sure(), prepared, view_count)
    assert len(np.unique(found)) == len(found)
    assert found.max() < 1
    assert len(np.unique(found.astype(np.float32))) == 1, "single precision would not do"


def test_predicting_does_not_change_the_network(network: torch.nn.Module, prepared: Prepared) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probabilities(network, prepared, 8)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_only_one_or_eight_views() -> None:
    with pytest.raises(ValueError, match="1 or 8"):
        next(views(torch.zeros(1, 3, 4, 4), 3))


def test_averaging_needs_the_same_patches() -> None:
    ids = np.array(["a", "b"])
    first = Predictions(ids, unlabelled(2), np.array([0.0, 0.4]))
    second = Predictions(ids, unlabelled(2), np.array([1.0, 0.6]))
    assert average([first, second]).probabilities.tolist() == [0.5, 0.5]
    with pytest.raises(RunError, match="different patches"):
        average([first, Predictions(ids[::-1], unlabelled(2), np.array([0.0, 0.4]))])


def test_the_device_is_chosen_or_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="not available"):
            choose_device("cuda")


def test_the_fastest_of_the_batch_sizes_tried_is_kept() -> None:
    size = BatchSize(100, search=True)
    seconds = {16: 3.0, 32: 1.0, 64: 2.0}
    tried: list[int] = []
    for _ in range(6):
        tried.append(size.patches)
        size.took(9.0 if tried.count(size.patches) == 1 else seconds[size.patches])
    assert tried == [16, 16, 32, 32, 64, 64]
    assert size.patches == 32
    size.took(100.0)
    assert size.patches == 32


def test_nothing_is_searched_for_on_other_devices_or_below_the_smallest() -> None:
    assert BatchSize(256, search=False).patches == 256
    assert BatchSize(16, search=True).patches == 16
