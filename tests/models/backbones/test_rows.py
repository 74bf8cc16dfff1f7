"""A backbone's frozen rows on few patches at a time: what it computes is what timm's own order computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rounding import Rounding
from sentinode.models.backbones import backbone as zoo
from sentinode.models.backbones.backbone import Backbone, FeatureKind, backbone
from sentinode.models.backbones.rows import frozen_then_trained, rows_of

pytestmark = pytest.mark.numeric

FROZEN = 3


def network(features: FeatureKind, skipped_maps: int, cut_maps: int) -> Backbone:
    made = backbone(
        "tf_efficientnet_lite0",
        pretrained=False,
        generator=torch.Generator().manual_seed(25),
        features=features,
        skipped_maps=skipped_maps,
        cut_maps=cut_maps,
    )
    nn.init.normal_(made.head.weight, generator=torch.Generator().manual_seed(4))  # at zero it would tell nothing
    made.freeze(FROZEN)
    return made


def gradients(of: Backbone, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits, and the gradients of their sum of what trains and takes part."""
    logits = of(x)
    trained = [p for p in of.parameters() if p.requires_grad]
    found = torch.autograd.grad(logits.sum(), trained, allow_unused=True)
    return logits, [g for g in found if g is not None]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("features", "skipped", "cut"),
    [("last", 0, 0), ("stages", 0, 0), ("stages", 2, 0), ("stages", 1, 1), ("blocks", 1, 0), ("blocks", 1, 3)],
)
def test_logits_gradients_and_statistics_are_those_of_the_whole_batch(
    features: FeatureKind, skipped: int, cut: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = network(features, skipped, cut).train(training)
    whole, exact = copy.deepcopy(ours), copy.deepcopy(ours).double()
    batches = [torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    told = [gradients(ours, x) for x in batches]
    monkeypatch.setattr(zoo, "rows_of", lambda body: None)
    rounding = Rounding()
    for (logits, found), x in zip(told, batches, strict=True):
        (their_logits, theirs), (truth, wanted) = gradients(whole, x), gradients(exact, x.double())
        rounding.add("logits", logits, their_logits, truth)
        assert len(found) == len(theirs) > 0
        largest = max(gradient.abs().max().item() for gradient in wanted)
        for of_parameter in zip(found, theirs, wanted, strict=True):
            rounding.add("gradients", *of_parameter, scale=largest)
    for of_buffer in zip(ours.buffers(), whole.buffers(), exact.buffers(), strict=True):
        if of_buffer[0].is_floating_point():
            rounding.add("statistics", *of_buffer)
    rounding.check()


def test_frozen_rows_see_few_patches_and_the_others_all() -> None:
    seen: list[tuple[int, int]] = []

    def row(number: int, maps: Tensor) -> Tensor:
        seen.append((number, len(maps)))
        return maps + number

    rows = [lambda maps, n=n: row(n, maps) for n in range(4)]
    patches = torch.arange(9.0)[:, None]
    told, last = frozen_then_trained(rows, 2, patches, told={1, 3}, tell=lambda maps: maps * 10)
    assert seen == [(0, 4), (1, 4), (0, 4), (1, 4), (0, 1), (1, 1), (2, 9), (3, 9)]
    assert torch.equal(last, patches + 6)
    assert [of_row.tolist() for of_row in told] == [(patches + 1).mul(10).tolist(), (patches + 6).mul(10).tolist()]


def test_only_networks_built_of_known_rows_are_taken_apart() -> None:
    import timm

    assert rows_of(timm.create_model("test_convnext")) is None
    rows = rows_of(timm.create_model("tf_efficientnet_lite0"))
    assert rows is not None
    assert len(rows) == 8  # the stem and seven rows of blocks
