"""The p4m layers: turning the input turns the output and moves its maps, in single and in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product as pairs

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.behaviour import act
from rounding import Rounding
from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.models.batch_norm import KerasBatchNorm
from sentinode.models.group_conv import (
    ORDER,
    GroupConv,
    GroupNormRelu,
    LiftingConv,
    inverse,
    output_size_px,
    product,
)

pytestmark = pytest.mark.numeric

DOUBLE = 1e-12  # where no rounding of single precision is in the way


def generator(seed: int = 25) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def norm_with_a_past(features: int) -> GroupNormRelu:
    """Every feature with its own scale, some negative, shift, mean and variance."""
    norm = GroupNormRelu(features, momentum=0.9)
    with torch.no_grad():
        norm.weight.copy_(random(features, seed=1))
        norm.bias.copy_(random(features, seed=2))
        norm.running_mean.copy_(random(features, seed=3))
        norm.running_var.copy_(random(features, seed=4).square() + 0.1)
    return norm


def test_products_and_inverses_are_those_of_the_turns_themselves() -> None:
    """Closure, associativity and inverses need no test of their own where composition is that of real turns."""
    image = random(1, 1, 5, 5)
    turned = [apply_symmetry(image, g) for g in SYMMETRIES]
    for first, second in pairs(SYMMETRIES, SYMMETRIES):
        both = apply_symmetry(apply_symmetry(image, second), first)
        assert [g for g in SYMMETRIES if torch.equal(both, turned[g])] == [product(first, second)]
    for g in SYMMETRIES:
        assert torch.equal(apply_symmetry(turned[g], inverse(g)), image)


def test_the_symmetries_are_a_group() -> None:
    for g in SYMMETRIES:
        assert {product(g, h) for h in SYMMETRIES} == {product(h, g) for h in SYMMETRIES} == set(SYMMETRIES)
        assert product(g, inverse(g)) == product(inverse(g), g) == 0
        assert product(g, 0) == product(0, g) == g
    for a, b, c in pairs(SYMMETRIES, SYMMETRIES, SYMMETRIES):
        assert product(product(a, b), c) == product(a, product(b, c))


def test_acting_on_maps_is_acting_with_one_symmetry_after_the_other() -> None:
    maps = random(2, 3 * ORDER, 4, 4)
    for a, b in pairs(SYMMETRIES, SYMMETRIES):
        assert torch.equal(act(act(maps, b), a), act(maps, product(a, b)))


LAYERS: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("valid 3 x 3", lambda: GroupConv(3, 4, 3, generator=generator()), 8),
    ("padded 3 x 3", lambda: GroupConv(3, 4, 3, padding_px=1, generator=generator()), 8),
    ("1 x 1", lambda: GroupConv(3, 4, 1, generator=generator()), 7),
    ("even kernel", lambda: GroupConv(3, 4, 2, generator=generator()), 7),
    ("strided", lambda: GroupConv(3, 4, 4, stride=2, padding_px=1, generator=generator()), 8),
    ("norm and ReLU", lambda: norm_with_a_past(3), 7),
    ("max-pooling", lambda: nn.MaxPool2d(2), 8),
    ("overlapping max-pooling", lambda: nn.MaxPool2d(3, stride=2), 9),
    ("mean-pooling", lambda: nn.AvgPool2d(2), 8),
]


@pytest.mark.parametrize(("make", "size_px"), [row[1:] for row in LAYERS], ids=[row[0] for row in LAYERS])
def test_layers_are_equivariant(make: Callable[[], nn.Module], size_px: int) -> None:
    layer, exact, rounding = make().eval(), make().double().eval(), Rounding()
    maps = random(2, 3 * ORDER, size_px, size_px, dtype=torch.float32)
    with torch.no_grad():
        truth = exact(maps.double())
        for g in SYMMETRIES:
            torch.testing.assert_close(exact(act(maps.double(), g)), act(truth, g), rtol=0, atol=DOUBLE)
            rounding.add("maps", layer(act(maps, g)), act(layer(maps), g), act(truth, g))
    rounding.check()


@pytest.mark.parametrize(("kernel_px", "stride", "size_px"), [(3, 1, 8), (5, 1, 8), (6, 2, 10), (1, 1, 4)])
def test_lifting_is_equivariant(kernel_px: int, stride: int, size_px: int) -> None:
    layer = LiftingConv(3, 4, kernel_px, stride=stride, generator=generator())
    exact, rounding = copy.deepcopy(layer).double(), Rounding()
    images = random(2, 3, size_px, size_px, dtype=torch.float32)
    with torch.no_grad():
        truth = exact(images.double())
        for g in SYMMETRIES:
            turned = apply_symmetry(images, g)
            torch.testing.assert_close(exact(turned.double()), act(truth, g), rtol=0, atol=DOUBLE)
            rounding.add("maps", layer(turned), act(layer(images), g), act(truth, g))
    rounding.check()


def test_the_norm_is_equivariant_while_training() -> None:
    """And its moving averages do not see that the input was turned."""
    maps, rounding = random(4, 3 * ORDER, 6, 6, dtype=torch.float32), Rounding()
    straight, exact = norm_with_a_past(3).train(), norm_with_a_past(3).double().train()
    expected, truth = straight(maps), exact(maps.double())
    for g in SYMMETRIES:
        norm, double = norm_with_a_past(3).train(), norm_with_a_past(3).double().train()
        torch.testing.assert_close(double(act(maps.double(), g)), act(truth, g), rtol=0, atol=DOUBLE)
        torch.testing.assert_close(double.running_var, exact.running_var, rtol=0, atol=DOUBLE)
        rounding.add("maps", norm(act(maps, g)), act(expected, g), act(truth, g))
        rounding.add("variance", norm.running_var, straight.running_var, exact.running_var)
    rounding.check()


def test_a_stride_that_leaves_pixels_over_is_not_equivariant() -> None:
    """What `output_size_px` is there to refuse."""
    pool, maps = nn.MaxPool2d(2), random(2, 3 * ORDER, 7, 7)
    assert not torch.allclose(pool(act(maps, 2)), act(pool(maps), 2), atol=1e-2)
    with pytest.raises(ValueError, match="2 pixels in steps of 2 do not lie symmetrically in 7"):
        output_size_px(7, kernel_px=2, stride=2)


@pytest.mark.parametrize("kernel_px", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding_px", [0, 1])
def test_output_sizes_are_those_of_the_convolution(kernel_px: int, stride: int, padding_px: int) -> None:
    for size_px in range(max(1, kernel_px - 2 * padding_px), 12):
        if (size_px + 2 * padding_px - kernel_px) % stride == 0:
            weight = torch.ones(1, 1, kernel_px, kernel_px)
            y = F.conv2d(torch.ones(1, 1, size_px, size_px), weight, stride=stride, padding=padding_px)
            expected = output_size_px(size_px, kernel_px=kernel_px, stride=stride, padding_px=padding_px)
            assert y.shape[-1] == expected
    with pytest.raises(ValueError, match="lie symmetrically"):
        output_size_px(2, kernel_px=9)


def test_a_lifted_map_is_what_the_turned_filter_finds() -> None:
    """Equation 10 written out: map g of feature d is the image, correlated with filter d turned by g."""
    layer, images = LiftingConv(2, 3, 3, generator=generator()).double(), random(1, 2, 6, 6)
    maps = layer(images).unflatten(1, (3, ORDER))
    for g in SYMMETRIES:
        torch.testing.assert_close(maps[:, :, g], F.conv2d(images, apply_symmetry(layer.weight, g)))


def test_a_group_convolution_is_the_sum_over_the_group() -> None:
    """Equation 11 written out: map g is the sum over h of map h, correlated with filter map g^-1 h turned by g."""
    layer, maps = GroupConv(2, 3, 3, generator=generator()).double(), random(1, 2 * ORDER, 6, 6)
    found, given = layer(maps).unflatten(1, (3, ORDER)), maps.unflatten(1, (2, ORDER))
    filters = layer.weight.unflatten(1, (2, ORDER))
    for g in SYMMETRIES:
        expected = sum(
            F.conv2d(given[:, :, h], apply_symmetry(filters[:, :, product(inverse(g), h)], g)) for h in SYMMETRIES
        )
        torch.testing.assert_close(found[:, :, g], expected)


def test_the_norm_shares_its_statistics_over_a_features_maps() -> None:
    """Against PyTorch's batch norm in three dimensions, of which the maps of a feature are one."""
    maps = random(4, 3 * ORDER, 5, 5) * 3 + 1
    norm, reference = norm_with_a_past(3).double(), nn.BatchNorm3d(3, eps=1e-3).double()
    with torch.no_grad():
        reference.weight.copy_(norm.weight)
        reference.bias.copy_(norm.bias)
    expected = F.relu(reference(maps.unflatten(1, (3, ORDER)))).flatten(1, 2)
    past = norm.running_var.clone()
    torch.testing.assert_close(norm.train()(maps), expected, rtol=0, atol=1e-12)
    biased = maps.unflatten(1, (3, ORDER)).transpose(0, 1).flatten(1).var(1, correction=0)
    torch.testing.assert_close(norm.running_var, 0.9 * past + 0.1 * biased)


def test_in_evaluation_the_norm_is_that_of_each_map_with_its_features_statistics() -> None:
    maps, norm = random(2, 3 * ORDER, 4, 4), norm_with_a_past(3).double().eval()
    plain = KerasBatchNorm(3, momentum=0.9).double().eval()
    plain.load_state_dict(norm.state_dict())
    for g in SYMMETRIES:
        torch.testing.assert_close(norm(maps)[:, g::ORDER], F.relu(plain(maps[:, g::ORDER])))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_the_norms_gradients(memory_format: torch.memory_format) -> None:
    """Against finite differences."""
    norm = norm_with_a_past(2).double().train()
    maps = random(2, 2 * ORDER, 2, 3).contiguous(memory_format=memory_format).requires_grad_()

    def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))
        return y

    assert torch.autograd.gradcheck(normalised, (maps, norm.weight, norm.bias))


def test_weights_are_he_normal_and_drawn_from_the_generator_alone() -> None:
    for layer, fan_in in (
        (LiftingConv(16, 32, 5, generator=generator()), 16 * 25),
        (GroupConv(16, 32, 3, generator=generator()), 8 * 16 * 9),
    ):
        variance = layer.weight.var().item()
        assert variance == pytest.approx(2 / fan_in, rel=5 * (2 / layer.weight.numel()) ** 0.5)
    torch.manual_seed(1)
    first = GroupConv(2, 2, 3, generator=generator()).weight
    torch.manual_seed(2)
    assert torch.equal(GroupConv(2, 2, 3, generator=generator()).weight, first)
    assert not torch.equal(GroupConv(2, 2, 3, generator=generator(26)).weight, first)


def test_indices_are_no_part_of_the_state() -> None:
    """They are the same for all weights, so a checkpoint need not hold them."""
    assert list(GroupConv(2, 2, 3, generator=generator()).state_dict()) == ["weight"]
    assert list(LiftingConv(3, 2, 3, generator=generator()).state_dict()) == ["weight"]
