"""What networks see of an image's cells is what they see of the cells' patches, bit for bit; dense, but for borders."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sentinode.config.presets import load_preset
from sentinode.config.run import PreprocessConfig
from sentinode.inference.dense import inputs_of_cells, is_shared, shares_of_windows
from sentinode.inference.trained import TrainedNetwork
from sentinode.inputs.preprocess import preprocess
from sentinode.models.batch_norm import KerasBatchNorm
from sentinode.models.build import build
from sentinode.settings import override

WAYS: list[dict[str, Any]] = [
    {"crop_px": 96, "size_px": 32, "resize": "area"},
    {"crop_px": 96, "size_px": 32, "resize": "nearest"},
    {"crop_px": 96, "size_px": 40, "resize": "nearest"},
    {"crop_px": 64, "size_px": 32, "resize": "area"},
    {"crop_px": 32, "size_px": 32},
    {"crop_px": 96, "size_px": 96},
    {"crop_px": 50, "size_px": 25, "resize": "area"},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_inputs_are_those_of_the_patches(way: dict[str, Any]) -> None:
    config, rng = PreprocessConfig(**way), np.random.default_rng(0)
    for px in (32, 16, 8):
        rgb = rng.integers(0, 256, (px * 4 + 96, px * 3 + 96, 3), dtype=np.uint8)
        cells = rng.random((5, 4)) < 0.6
        patches = np.stack([rgb[px * r : px * r + 96, px * c : px * c + 96] for r, c in np.argwhere(cells)])
        assert np.array_equal(inputs_of_cells(rgb, cells, config, px), preprocess(patches, config)[0])


def test_no_cell_is_no_input() -> None:
    rgb = np.zeros((96, 96, 3), np.uint8)
    assert len(inputs_of_cells(rgb, np.zeros((1, 1), bool), PreprocessConfig())) == 0


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="need an image of the shape"):
        inputs_of_cells(np.zeros((96, 100, 3), np.uint8), np.ones((1, 1), bool), PreprocessConfig())


def test_stains_are_normalised_patch_by_patch() -> None:
    assert is_shared(PreprocessConfig())
    assert not is_shared(PreprocessConfig(stain="macenko"))


# One pass over an image.


def network_of(views: int = 1, **settings: Any) -> TrainedNetwork:
    """A p4m network, or a drawn EfficientNet-Lite whose head says something."""
    config = override(load_preset("fair").run_config(), {"predict.views": views, **settings})
    network = build(config.model, input_size_px=config.preprocess.size_px, generator=torch.Generator().manual_seed(1))
    for name, parameter in network.named_parameters():
        if name == "head.weight":
            nn.init.normal_(parameter, std=0.01, generator=torch.Generator().manual_seed(2))
    return TrainedNetwork(network, config, torch.device("cpu"))


P4M = {"model.architecture": "p4m"}
LITE = {"model.architecture": "timm", "model.backbone": "tf_efficientnet_lite0", "model.pretrained": "none"}
SWIFT = {"preprocess.size_px": 48, "preprocess.resize": "area"}
STAGES = {"model.features": {"kind": "stages"}, "model.resize_px": 160}
CUT = {"model.features": {"kind": "stages", "cut_maps": 1}, "model.stem_stride": 3}
DENSE: list[dict[str, Any]] = [
    {**P4M, "preprocess.size_px": 48, "preprocess.resize": "area"},
    {**P4M, "preprocess.size_px": 96},
    {**LITE, "preprocess.size_px": 96},
    {**LITE, "preprocess.size_px": 48, "preprocess.resize": "area"},
    {**LITE, **STAGES, "preprocess.size_px": 96},
    {**LITE, **CUT, "preprocess.size_px": 96},
]


@pytest.mark.parametrize(
    "settings",
    DENSE,
    ids=["p4m of 48", "p4m of 96", "Lite", "Lite of 48", "Lite's stages at 160", "cut Lite with wide steps"],
)
def test_one_patch_is_an_image(settings: dict[str, Any]) -> None:
    """Its borders are those of the image, so what it says is the same in every view, resized or not."""
    network, one = network_of(8, **settings), np.ones((1, 1), bool)
    patch = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    alone = network.probabilities(inputs_of_cells(patch, one, network.preprocess))
    assert 0.01 < alone[0] < 0.99
    assert network.over_image(patch, one, 32) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(("settings", "every"), [({}, 1), (CUT, 3)], ids=["whole", "cut, with wide steps"])
def test_without_borders_every_cell_has_the_logit_of_its_patch(
    settings: dict[str, Any], every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an image with a period of 96 pixels, padded by going on with it, a patch goes on like the image around it.

    Where a network's steps do not divide cells, that is so of every cell from which the image's steps are its patch's.
    """

    def goes_on(x: torch.Tensor, kernel: list[int], stride: list[int], *_: Any, **__: Any) -> torch.Tensor:
        total = kernel[0] - stride[0]
        return F.pad(x, (total // 2, total - total // 2) * 2, mode="circular")

    # The package has a function of the same name.
    monkeypatch.setattr(import_module("timm.layers.conv2d_same"), "pad_same", goes_on)
    network = network_of(**LITE, **settings, **{"preprocess.size_px": 96})
    for module in network.network.modules():
        if type(module) is nn.Conv2d:
            module.padding_mode = "circular"
    image = np.tile(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8), (3, 2, 1))
    cells = np.ones((7, 4), bool)
    tiled = network.probabilities(inputs_of_cells(image, cells, network.preprocess))
    assert 0.01 < tiled.min() < 0.49 or 0.51 < tiled.max() < 0.99
    ours, theirs = (p.reshape(7, 4)[::every, ::every] for p in (network.over_image(image, cells, 32), tiled))
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "cell_px"),
    [({}, 8), ({"model.norm": "after"}, 8), (SWIFT, 8), (SWIFT, 16)],
    ids=["before", "after", "of 48", "of 48, at 16"],
)
def test_networks_that_pad_nothing_give_each_patch_its_own_logit(settings: dict[str, Any], cell_px: int) -> None:
    config = override(load_preset("fair").run_config(), {"predict.views": 8, **settings})
    size_px = config.preprocess.size_px
    drawn = build(config.model, input_size_px=size_px, generator=torch.Generator().manual_seed(1))
    for norm in (layer for layer in drawn.modules() if isinstance(layer, KerasBatchNorm)):
        norm.weight.data[::2] *= -1  # as of some channels after training: pooling takes their smallest value
        norm.running_mean.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(2))
    network, rng = TrainedNetwork(drawn, config, torch.device("cpu")), np.random.default_rng(0)
    coarse = rng.integers(0, 256, (15, 18, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((16, 16, 1), np.uint8))[: cell_px * 9 + 96, : cell_px * 12 + 96]
    cells = rng.random((10, 13)) < 0.7
    tiled = network.probabilities(inputs_of_cells(image, cells, network.preprocess, cell_px))
    assert np.ptp(tiled) > 0.01
    assert network.over_image(image, cells, cell_px) == pytest.approx(tiled, abs=1e-6)


@pytest.mark.parametrize(("settings", "cell_px"), [({}, 32), ({}, 16), (SWIFT, 32)])
def test_where_dilation_would_compute_more_than_patches_do_nothing_is_shared(
    settings: dict[str, Any], cell_px: int
) -> None:
    assert not network_of(**settings).is_dense(cell_px)


def test_a_window_takes_of_each_place_the_share_that_it_covers() -> None:
    assert torch.equal(shares_of_windows(2, 1.0, 3.0, 4) * 3, torch.tensor([[1.0, 1, 1, 0], [0, 1, 1, 1]]))
    halves = shares_of_windows(2, 1.5, 2.0, 4) * 2
    assert torch.allclose(halves, torch.tensor([[1.0, 1, 0, 0], [0, 0.5, 1, 0.5]]))


def test_far_from_borders_a_cell_does_not_depend_on_its_place() -> None:
    network = network_of(**DENSE[0])
    image = np.random.default_rng(0).integers(0, 256, (32 * 17, 32 * 18, 3), dtype=np.uint8)
    whole = network.over_image(image[:-32, :-32], np.ones((14, 15), bool), 32).reshape(14, 15)
    moved = network.over_image(image[32:, 32:], np.ones((14, 15), bool), 32).reshape(14, 15)
    assert whole[6:9, 6:9].ravel() == pytest.approx(moved[5:8, 5:8].ravel(), abs=1e-6)
    assert np.ptp(whole) > 1e-4


@pytest.mark.parametrize("cell_px", [16, 8])
def test_finer_cells_are_between_coarser_ones(cell_px: int) -> None:
    """The patches of every second or fourth are those of cells of 32 pixels, from the same maps."""
    network, times = network_of(**LITE, **{"preprocess.size_px": 96}), 32 // cell_px
    image = np.random.default_rng(0).integers(0, 256, (32 * 6 + 64, 32 * 5 + 64, 3), dtype=np.uint8)
    coarse = network.over_image(image, np.ones((6, 5), bool), 32).reshape(6, 5)
    finer = np.ones((5 * times + 1, 4 * times + 1), bool)
    fine = network.over_image(image, finer, cell_px).reshape(finer.shape)
    assert fine[::times, ::times].ravel() == pytest.approx(coarse.ravel(), abs=1e-6)
    between = (coarse[:, :-1] + coarse[:, 1:]) / 2
    assert np.corrcoef(fine[::times, times // 2 :: times].ravel(), between.ravel())[0, 1] > 0.8


def test_only_marked_cells_are_answered_for_and_blocks_may_be_larger_than_what_is_seen_at_once() -> None:
    network = network_of(**DENSE[0])
    image = np.random.default_rng(0).integers(0, 256, (32 * 20 + 64, 32 * 3 + 64, 3), dtype=np.uint8)
    cells = np.random.default_rng(1).random((20, 3)) < 0.5
    everywhere = network.over_image(image, np.ones_like(cells), 32)
    assert np.array_equal(network.over_image(image, cells, 32), everywhere[cells.ravel()])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**P4M, "preprocess.size_px": 32},
        {**LITE, "preprocess.size_px": 96, "preprocess.stain": "macenko"},
        {**LITE, "model.backbone": "efficientnet_b0", "preprocess.size_px": 96},
    ],
    ids=["notebook", "p4m whose maps lie between cells", "stain by patch", "squeeze and excitation"],
)
def test_what_shares_nothing_or_looks_at_everything_is_not_dense(settings: dict[str, Any]) -> None:
    assert network_of(**settings).dense(32) is None
