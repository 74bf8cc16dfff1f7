"""What every network must do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.models.group_conv import by_feature, inverse, product


def act(maps: Tensor, symmetry: int) -> Tensor:
    """What a symmetry u of the input does to feature maps, (N, 8 C, h, h): map g becomes map u^-1 g, turned by u."""
    places = [product(inverse(symmetry), g) for g in SYMMETRIES]
    return apply_symmetry(by_feature(maps)[:, :, places].flatten(1, 2), symmetry)


def require_overfitting(network: nn.Module, x: Tensor, *, steps: int) -> None:
    """Random labels of the patches are learnt by heart in so many steps."""
    network.train()
    labels = torch.randint(0, 2, (len(x), 1), generator=torch.Generator().manual_seed(3)).float()
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=1e-3), []
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(network(x), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.05
    assert ((network.eval()(x) > 0) == labels.bool()).all()


def require_weights_of_the_generator(make: Callable[[torch.Generator], nn.Module]) -> None:
    """The generator alone decides the weights, and PyTorch's global state does not."""

    def weights(seed: int) -> Tensor:
        network = make(torch.Generator().manual_seed(seed))
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    torch.manual_seed(1)
    first = weights(25)
    torch.manual_seed(2)
    assert torch.equal(weights(25), first)
    assert not torch.equal(weights(26), first)
