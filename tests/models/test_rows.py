"""A backbone's frozen rows on few patches at a time: what it computes is what timm's own order computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sentinode.models import zoo
from sentinode.models.rows import frozen_then_trained, rows_of
from sentinode.models.zoo import Backbone, Features, backbone

FROZEN = 3


def network(features: Features, skipped_maps: int) -> Backbone:
    made = backbone(
        "tf_efficientnet_lite0",
        pretrained=False,
        generator=torch.Generator().manual_seed(25),
        features=features,
        skipped_maps=skipped_maps,
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
@pytest.mark.parametrize(("features", "skipped"), [("last", 0), ("stages", 0), ("stages", 2), ("blocks", 1)])
def test_logits_gradients_and_statistics_are_those_of_the_whole_batch(
    features: Features, skipped: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = network(features, skipped).train(training)
    whole = copy.deepcopy(ours)
    x = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    logits, found = gradients(ours, x)
    monkeypatch.setattr(zoo, "rows_of", lambda body: None)
    expected, wanted = gradients(whole, x)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert len(found) == len(wanted) > 0
    for ours_of, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours_of, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    for name, buffer in ours.state_dict().items():
        torch.testing.assert_close(buffer, whole.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


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
