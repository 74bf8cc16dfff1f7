"""The logistic head: its optimum, its scaling, and its going on where it stopped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sentinode.config.fit import FitHead
from sentinode.fitting.linear_probe import LabelledFeatures, fit_head
from sentinode.models.backbones.backbone import Backbone, backbone

PENALTIES = (1.0, 0.1, 0.01)
CONFIG = FitHead(penalties=PENALTIES)


def network() -> Backbone:
    return backbone("test_efficientnet", pretrained=False, generator=torch.Generator().manual_seed(1))


def sides(width: int) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Features of very different sizes, one of them constant, and labels that the first two decide, mostly."""
    rng = np.random.default_rng(3)
    made = []
    for count in (120, 60):
        values = rng.normal(size=(count, width)).astype(np.float32) * 10.0 ** rng.integers(-3, 4, width)
        values = values.astype(np.float32)
        values[:, -1] = 7.0
        labels = (values[:, 0] + values[:, 1] * np.std(values[:, 0]) / np.std(values[:, 1]) > 0).astype(np.int64)
        made.append(LabelledFeatures(values, labels))
    return made[0], made[1]


def test_each_fit_is_the_minimum_of_its_penalised_loss() -> None:
    net = network()
    training, validation = sides(net.head.in_features)
    labels = torch.from_numpy(training.labels).double()
    for record, penalty in zip(fit_head(net, training, validation, CONFIG), PENALTIES, strict=True):
        inputs = ((torch.from_numpy(training.values) - net.centre) / net.scale).double()
        weights = net.head.weight.detach().double().requires_grad_()
        bias = net.head.bias.detach().double().requires_grad_()
        logits = (inputs @ weights.T + bias).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        assert record.training.loss == pytest.approx(loss.item(), rel=1e-4)
        (loss + penalty / 2 * weights.square().sum()).backward()
        assert weights.grad is not None
        assert bias.grad is not None
        assert max(weights.grad.abs().max().item(), bias.grad.abs().item()) < 2e-3


def test_the_network_says_what_the_record_says() -> None:
    net = network().eval()
    training, validation = sides(net.head.in_features)
    for record in fit_head(net, training, validation, CONFIG):
        said = net.classified(torch.from_numpy(validation.values)).squeeze(1).detach().numpy()
        np.testing.assert_allclose(said, record.validation.logits, rtol=1e-3, atol=1e-4)
    assert record.epoch == 3
    assert np.isfinite(said).all()


def test_going_on_gives_the_same_as_going_through() -> None:
    whole, resumed = network(), network()
    data = sides(whole.head.in_features)
    through = list(fit_head(whole, *data, CONFIG))
    (last,) = fit_head(resumed, *data, CONFIG, done=2)
    assert last.epoch == 3
    assert np.array_equal(last.validation.logits, through[-1].validation.logits)
    assert torch.equal(whole.head.weight, resumed.head.weight)
