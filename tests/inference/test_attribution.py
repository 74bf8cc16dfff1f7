"""Maps of a logit: what their sums are, where they lie, and that another implementation makes the same."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import make_patches
from rounding import Rounding
from sentinode.config.presets import load_preset
from sentinode.config.run import PreprocessConfig, RunConfig
from sentinode.errors import ConfigError, DataError
from sentinode.evaluation.blend import blend_logits
from sentinode.inference.attribution import (
    ExplainedLogit,
    Method,
    attribute,
    flat,
    spread,
    turned,
    turned_patches,
)
from sentinode.inference.classifier import Classifier, TrainedRun
from sentinode.inference.trained import TrainedNetwork
from sentinode.models.backbones.backbone import Backbone, FeatureKind, backbone
from sentinode.models.build import build
from sentinode.models.group_conv import inverse
from sentinode.settings import override

captum = pytest.importorskip("captum.attr", reason="captum is in the extra dev")

CPU = torch.device("cpu")
WHOLE = override(
    load_preset("fair").run_config(),
    {"preprocess.size_px": 96, "preprocess.resize": "area", "predict.views": 1},
)
PATCHES = np.ascontiguousarray(make_patches(10, seed=3).pixels)


class Small(nn.Sequential):
    """Two convolutions, and a linear layer that sees every place of their maps."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 5, stride=3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(6 * 15 * 15, 1),
        )  # fmt: skip


def seeded(make: type[nn.Module], seed: int = 7) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def explained(network: nn.Module, config: RunConfig = WHOLE, views: int = 1) -> ExplainedLogit:
    return ExplainedLogit((TrainedNetwork(network, config, CPU),), (1.0,), views)


def trained_head(network: nn.Module) -> nn.Module:
    """A backbone's head begins at zero, and its features unscaled: as if it were trained."""
    assert isinstance(network, Backbone)
    generator = torch.Generator().manual_seed(3)
    network.head.weight.data.normal_(std=network.head.in_features**-0.5, generator=generator)
    network.head.bias.data.fill_(0.7)
    network.centre.normal_(generator=generator)
    network.scale.uniform_(0.5, 2, generator=generator)
    return network.eval()


def lite(features: FeatureKind) -> nn.Module:
    pytest.importorskip("timm", reason="the extra zoo is not installed")
    generator = torch.Generator().manual_seed(1)
    return trained_head(backbone("tf_efficientnet_lite0", pretrained=False, generator=generator, features=features))


def p4m() -> nn.Module:
    config = override(WHOLE, {"model.architecture": "p4m", "fit.learning_rate": 0.001})
    return build(config.model, input_size_px=96, generator=torch.Generator().manual_seed(2)).eval()


def notebook() -> nn.Module:
    """With norms that shift what they are given, as after training: without a bias all sums would be right."""
    network = build(WHOLE.model, input_size_px=96, generator=torch.Generator().manual_seed(0))
    for name, values in network.named_parameters():
        if name.endswith("bias"):
            values.data.normal_(generator=torch.Generator().manual_seed(1))
    return network.eval()


@pytest.mark.numeric
@pytest.mark.parametrize("features", ["last", "stages", "blocks"])
def test_the_cam_of_a_backbone_and_its_bias_sum_to_the_logit_of_every_patch(features: FeatureKind) -> None:
    found = attribute(explained(lite(features)), PATCHES, "cam")
    assert found.logits.std() > 0.01
    assert found.errors.max() < 1e-4
    assert found.refused is None


@pytest.mark.numeric
def test_the_cam_of_a_p4m_network_and_its_bias_sum_to_the_logit_of_every_patch() -> None:
    network = p4m()
    found = attribute(explained(network), PATCHES, "cam")
    bias = float(network[-1].bias.detach())
    assert found.bases == pytest.approx(np.full(len(PATCHES), bias), abs=1e-6)
    assert found.errors.max() < 1e-4


def test_the_cam_of_a_network_whose_end_is_not_linear_is_refused() -> None:
    found = attribute(explained(notebook()), PATCHES, "cam")
    assert found.refused is not None
    assert "must" in found.refused


def as_input(patches: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255


@pytest.mark.numeric
def test_the_cam_is_captums_gradient_times_the_last_maps() -> None:
    errors = Rounding()
    for seed in range(6):
        network = seeded(Small, seed)

        def reference(net: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
            maps = captum.LayerGradientXActivation(net, net[3]).attribute(pixels, target=0).sum(1)
            return torch.from_numpy(spread(maps.detach().double().numpy(), WHOLE.preprocess))

        found = attribute(explained(network), PATCHES, "cam")
        told, pixels = reference(network, as_input(PATCHES)), as_input(PATCHES)
        exact = reference(copy.deepcopy(network).double(), pixels.double())
        errors.add("cam", torch.from_numpy(found.maps), told, exact.double())
    errors.check()


@pytest.mark.numeric
def test_integrated_gradients_are_captums() -> None:
    network = seeded(Small)
    pixels = torch.from_numpy(PATCHES).permute(0, 3, 1, 2).float() / 255
    start = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
    found = attribute(explained(network), PATCHES, "integrated_gradients")
    assert found.refused is None
    steps = 256
    reference = captum.IntegratedGradients(network).attribute(
        pixels, start, target=0, n_steps=steps, method="riemann_middle", internal_batch_size=16
    )
    wanted = reference.sum(1).detach().numpy()
    # Both are sums over steps; ours may have fewer, and is within 1 % of the logit in the sum over the patch.
    assert np.abs(found.maps - wanted).sum(axis=(1, 2)).max() < 0.05 * np.abs(wanted).sum(axis=(1, 2)).max()
    assert found.bases == pytest.approx(network(start)[:, 0].detach().numpy(), abs=1e-5)


@pytest.mark.numeric
def test_occlusion_is_captums_with_squares_side_by_side() -> None:
    errors, squares = Rounding(), {"sliding_window_shapes": (3, 16, 16), "strides": (3, 16, 16)}
    for seed in range(6):
        network = seeded(Small, seed)

        def reference(net: nn.Module, pixels: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
            of_square = captum.Occlusion(net).attribute(pixels, baselines=empty, target=0, **squares)[:, 0]
            return torch.as_tensor(of_square.detach())

        both = as_input(PATCHES), as_input(flat(PATCHES).copy())
        # Captum computes in double precision, and gives it in single, of which a difference loses nothing that counts.
        exact = reference(copy.deepcopy(network).double(), *(values.double() for values in both)).double()
        found = torch.from_numpy(attribute(explained(network), PATCHES, "occlusion").maps) * 256
        logit = float(np.abs(attribute(explained(network), PATCHES[:1], "cam").logits).max())  # differences of these
        errors.add("occlusion", found, reference(network, *both), exact, scale=max(logit, 0.1))
    errors.check()


@pytest.mark.parametrize("size", [32, 48, 5, 1])
@pytest.mark.parametrize("crop_px", [96, 48])
def test_spreading_keeps_sums_and_stays_within_the_crop(size: int, crop_px: int) -> None:
    values = np.random.default_rng(0).normal(size=(3, size, size))
    over = spread(values, PreprocessConfig(crop_px=crop_px, size_px=48))
    assert over.sum(axis=(1, 2)) == pytest.approx(values.sum(axis=(1, 2)), abs=1e-4)
    margin = (96 - crop_px) // 2
    around = over.copy()
    around[:, margin : 96 - margin, margin : 96 - margin] = 0
    assert not around.any()


def test_a_value_is_spread_over_its_own_square() -> None:
    values = np.zeros((1, 3, 3))
    values[0, 0, 2] = 1
    over = spread(values, WHOLE.preprocess)
    assert over[0, :32, 64:] == pytest.approx(np.full((32, 32), 1 / 1024))
    assert over.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.numeric
@pytest.mark.parametrize("method", ["cam", "integrated_gradients", "occlusion"])
def test_under_eight_views_maps_turn_with_the_patch(method: Method) -> None:
    eight = explained(seeded(Small), views=8)
    upright = attribute(eight, PATCHES[:2], method)
    assert upright.logits == pytest.approx(eight.logits(PATCHES[:2]), abs=1e-5)
    for symmetry in (1, 6):
        found = attribute(eight, turned_patches(PATCHES[:2], symmetry), method)
        assert turned(found.maps, inverse(symmetry)) == pytest.approx(upright.maps, abs=1e-6)


@pytest.mark.numeric
def test_maps_of_several_networks_are_their_weighted_mean() -> None:
    first, second = seeded(Small), seeded(Small)
    for weights in second.parameters():
        weights.data.mul_(-0.5)
    both = ExplainedLogit(tuple(TrainedNetwork(net, WHOLE, CPU) for net in (first, second)), (0.25, 0.75), 1)
    found = attribute(both, PATCHES, "cam")
    alone = [attribute(explained(net), PATCHES, "cam") for net in (first, second)]
    assert found.maps == pytest.approx(0.25 * alone[0].maps + 0.75 * alone[1].maps, abs=1e-7)
    assert found.logits == pytest.approx(0.25 * alone[0].logits + 0.75 * alone[1].logits, abs=1e-6)


def as_classifier(*runs: TrainedRun) -> Classifier:
    def unknown() -> Any:
        raise AssertionError("not asked")

    return Classifier(
        "some", list(runs), calibrations={}, operating_points={}, undecided="", decided_in=None,
        spacing_um_per_px=0.972, validation=unknown, card=unknown,
    )  # fmt: skip


@pytest.mark.numeric
def test_what_is_explained_is_the_logit_that_the_model_predicts_with() -> None:
    """Of an ensemble the weighted logits of its members; of a study's choice the mean over its runs."""
    networks = [TrainedNetwork(net, WHOLE, CPU) for net in (seeded(Small), p4m())]
    weights = np.array([0.3, 0.7])
    ensemble = TrainedRun(tuple(networks), weights)
    said = [blend_logits(as_classifier(TrainedRun((net,)))(PATCHES)[:, None])[:, 0] for net in networks]
    assert ExplainedLogit.of(as_classifier(ensemble)).logits(PATCHES) == pytest.approx(
        weights[0] * said[0] + weights[1] * said[1], abs=1e-5
    )
    study = as_classifier(*(TrainedRun((net,)) for net in networks))
    assert ExplainedLogit.of(study).logits(PATCHES) == pytest.approx((said[0] + said[1]) / 2, abs=1e-5)


def test_a_classifier_explains_any_form_of_patches() -> None:
    classifier = as_classifier(TrainedRun((TrainedNetwork(seeded(Small), WHOLE, CPU),)))
    found = classifier.explain(torch.from_numpy(PATCHES), "cam")
    assert found.maps == pytest.approx(classifier.explain(iter([PATCHES[:4], PATCHES[4:]]), "cam").maps, abs=1e-7)


def test_what_cannot_be_explained_is_one_line() -> None:
    classifier = as_classifier(TrainedRun((TrainedNetwork(seeded(Small), WHOLE, CPU),)))
    with pytest.raises(ConfigError, match="unknown method 'saliency'"):
        classifier.explain(PATCHES, "saliency")
    with pytest.raises(ConfigError, match="cannot explain 3 views"):
        classifier.explain(PATCHES, "cam", views=3)
    with pytest.raises(DataError, match="nothing to explain"):
        classifier.explain(PATCHES[:0], "cam")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 96 * 96, 1))
    with pytest.raises(ConfigError, match="has no maps"):
        attribute(explained(linear), PATCHES, "cam")
    with pytest.raises(ConfigError, match="must"):
        as_classifier(TrainedRun((TrainedNetwork(notebook(), WHOLE, CPU),))).explain(PATCHES, "cam")


def test_integrals_that_do_not_converge_are_given_up_after_a_few_patches() -> None:
    class Jagged(nn.Module):
        """A logit that swings faster than any number of steps here can follow."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.mean(dim=(1, 2, 3)) + torch.sin(1e5 * x.std(dim=(1, 2, 3))))[:, None]

    many = np.concatenate([PATCHES] * 3)
    found = attribute(explained(Jagged()), many, "integrated_gradients")
    assert found.refused is not None
    assert len(found.maps) < len(many)
    assert found.steps is not None
    assert found.steps < 256


def test_maps_of_a_crop_of_a_downsampled_patch_lie_where_the_crop_lies() -> None:
    config = override(WHOLE, {"preprocess.crop_px": 48, "preprocess.size_px": 48})

    class Middle(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0].mean(dim=(1, 2))[:, None] * 5

    found = attribute(explained(Middle(), config), PATCHES, "integrated_gradients")
    assert not found.maps[:, :24].any()
    assert np.abs(found.maps[:, 24:72, 24:72]).sum() > 0


def test_maps_that_are_made_in_another_thread_change_no_prediction() -> None:
    """They are made with hooks, one of which puts zeros in place of the last maps."""
    classifier = as_classifier(TrainedRun((TrainedNetwork(p4m(), WHOLE, CPU),)))
    wanted = classifier(PATCHES[:2])
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(lambda: [classifier.explain(PATCHES, "cam") for _ in range(3)])
        while not made.done():
            assert np.array_equal(classifier(PATCHES[:2]), wanted)
        assert np.array_equal(made.result()[0].maps, made.result()[2].maps)
