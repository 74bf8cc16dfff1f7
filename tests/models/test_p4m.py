"""The p4m networks: turning a patch changes no logit, which cannot be said of an ordinary network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.behaviour import act, require_overfitting, require_weights_of_the_generator
from rounding import Rounding
from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.models.group_conv import ORDER, GroupNormRelu
from sentinode.models.notebook import notebook_network
from sentinode.models.p4m import INPUT_SIZES_PX, P4MNetwork, Residual, RingReadout, p4m_network

# The convolutions' weights, a scale and a shift of each normalised feature, the readout's weights and bias.
PLAIN_CONVS = {5: 3 * 25 * 8, 6: 3 * 36 * 8}  # the lifting layer's, by kernel size
PLAIN_REST = 8 * 9 * (8 * 12 + 12 * 16 + 16 * 16 + 16 * 24 + 24 * 24) + 2 * (8 + 12 + 16 + 16 + 24 + 24)
PARAMETERS: dict[int, int] = {
    32: PLAIN_CONVS[5] + PLAIN_REST + 24 * 3 + 1,  # 109,161
    48: PLAIN_CONVS[5] + PLAIN_REST + 24 * 6 + 1,  # 109,233
    64: PLAIN_CONVS[6] + PLAIN_REST + 24 * 3 + 1,  # 109,425
    96: PLAIN_CONVS[6] + PLAIN_REST + 24 * 6 + 1,  # 109,497
}


def generator(seed: int = 25) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network_of(size_px: int, *, momentum: float = 0.5) -> P4MNetwork:
    return p4m_network(input_size_px=size_px, bn_momentum=momentum, generator=generator())


def patches(count: int, size_px: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise around a colour of each patch's own."""
    colours = torch.rand(count, 3, 1, 1, generator=generator(1))
    noise = torch.rand(count, 3, size_px, size_px, generator=generator(2))
    return (0.5 * colours + 0.5 * noise).to(dtype)


def with_a_past(network: nn.Module, x: Tensor) -> nn.Module:
    """In evaluation, after moving averages have met a batch, scales and shifts far from their initial values."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator(number))
        network.train()(x)
    return network.eval()


def variation(network: nn.Module, x: Tensor) -> float:
    """By how much the logit of a patch depends on how it is turned."""
    with torch.no_grad():
        logits = torch.cat([network(apply_symmetry(x, g)) for g in SYMMETRIES], 1)
    return (logits - logits[:, :1]).abs().max().item()


@pytest.mark.numeric
@pytest.mark.parametrize("size_px", INPUT_SIZES_PX)
def test_logits_are_invariant(size_px: int) -> None:
    x = patches(16, size_px)  # many, for the reference has one case of each, and ours eight
    network = with_a_past(network_of(size_px), x)
    assert network(x).std() > 1e-3  # they do depend on the patch
    rounding = Rounding()
    with torch.no_grad():
        straight, truth = network(x), copy.deepcopy(network).double()(x.double())
        for g in SYMMETRIES:
            rounding.add("logits", network(apply_symmetry(x, g)), straight, truth)
    rounding.check()


@pytest.mark.numeric
def test_in_double_precision_logits_are_invariant_to_rounding() -> None:
    x = patches(3, 32, torch.float64)
    network = network_of(32).double()
    assert variation(network.train(), x) < 1e-12
    assert variation(with_a_past(network, x), x) < 1e-12


@pytest.mark.numeric
def test_an_ordinary_network_is_not_invariant() -> None:
    x = patches(8, 32)
    network = notebook_network(norm="before", bn_momentum=0.5, generator=generator())
    assert variation(with_a_past(network, x), x) > 1e-2


@pytest.mark.numeric
def test_one_wrong_filter_copy_would_be_seen() -> None:
    """One layer whose index is wrong for one of 8 copies makes the network's logits vary."""
    x = patches(4, 32)
    network = with_a_past(network_of(32), x)
    with torch.no_grad():
        network[0].index[:25] = network[0].index[25:50]  # the first copy of each filter, as the second
    assert variation(network, x) > 1e-3


@pytest.mark.numeric
@pytest.mark.parametrize("size_px", [32, 64])
def test_every_layer_of_a_network_is_equivariant(size_px: int) -> None:
    """Layer by layer on the way to the logit, in double precision, and as near to it in single as when not turned."""
    x, rounding = patches(1, size_px), Rounding()
    network = with_a_past(network_of(size_px), x)
    exact = copy.deepcopy(network).double()
    with torch.no_grad():
        for g in SYMMETRIES:
            straight, turned = x, apply_symmetry(x, g)
            for number, (layer, double) in enumerate(zip(list(network)[:-1], exact, strict=False)):
                truth, truth_turned = double(straight.double()), double(turned.double())
                torch.testing.assert_close(truth_turned, act(truth, g), rtol=0, atol=1e-12 * truth.abs().max().item())
                straight, turned = layer(straight), layer(turned)
                rounding.add(f"layer {number}", turned, act(straight, g), act(truth, g))
                turned = act(straight, g)  # no layer answers for the rounding of those before
    rounding.check()


@pytest.mark.parametrize("size_px", PARAMETERS)
def test_parameter_counts(size_px: int) -> None:
    count = sum(parameter.numel() for parameter in network_of(size_px).parameters())
    assert count == PARAMETERS[size_px]
    assert 50_000 < count < 150_000


def test_every_parameter_has_a_gradient() -> None:
    network, x = network_of(32).train(), patches(4, 32)
    labels = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    torch.autograd.backward(F.binary_cross_entropy_with_logits(network(x), labels))
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # Each filter and each feature, not only some of them.
        assert parameter.grad.flatten(1).any(1).all() if parameter.ndim > 1 else parameter.grad.any(), name


def test_overfits_32_patches_with_random_labels() -> None:
    require_overfitting(network_of(32), patches(32, 32), steps=25)


def test_a_training_pass_may_end_in_a_batch_of_one() -> None:
    logits = network_of(32).train()(patches(1, 32))
    assert logits.shape == (1, 1)
    assert logits.isfinite().all()


def test_a_wrong_input_size_is_refused() -> None:
    for size_px in (17, 31, 33, 50, 80, 95):
        with pytest.raises(ValueError, match=f"32, 48, 64, 96 pixels, not {size_px}"):
            network_of(size_px)
    with pytest.raises(ValueError, match="takes patches of 32 pixels"):
        network_of(32)(patches(1, 48))


def test_the_generator_alone_decides_the_weights() -> None:
    require_weights_of_the_generator(lambda drawn: p4m_network(input_size_px=48, bn_momentum=0.9, generator=drawn))


def test_the_momentum_is_that_of_every_norm() -> None:
    norms = [m for m in network_of(32, momentum=0.75).modules() if isinstance(m, GroupNormRelu)]
    assert norms
    assert {norm.momentum for norm in norms} == {0.75}


def test_a_state_comes_back() -> None:
    x = patches(4, 32)
    network = with_a_past(network_of(32), x)
    other = p4m_network(input_size_px=32, bn_momentum=0.5, generator=generator(1)).eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x))


@pytest.mark.numeric
def test_the_readout_weighs_rings_about_the_centre() -> None:
    """On 5 x 5 places there are 6: what the symmetries make of (0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)."""
    readout = RingReadout(1, 5, generator=generator()).double()
    assert readout.ring.tolist() == [
        [0, 1, 2, 1, 0],
        [1, 3, 4, 3, 1],
        [2, 4, 5, 4, 2],
        [1, 3, 4, 3, 1],
        [0, 1, 2, 1, 0],
    ]
    with torch.no_grad():
        readout.weight.copy_(torch.arange(1.0, 7.0)[None])
        readout.bias.fill_(0.25)
        maps = torch.rand(2, ORDER, 5, 5, dtype=torch.float64, generator=generator())
        expected = 0.25 + sum(
            (ring + 1) * maps.mean(1)[:, readout.ring == ring].mean(1, keepdim=True) for ring in range(6)
        )
        torch.testing.assert_close(readout(maps), expected)


def test_a_residual_block_adds_what_went_in() -> None:
    maps = torch.rand(2, 2 * ORDER, 6, 6, generator=generator())
    assert torch.equal(Residual(nn.ReLU())(maps), 2 * maps)
