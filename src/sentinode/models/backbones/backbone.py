"""Any backbone of timm by name, with pretrained weights or with weights that a seed decides; the extra `zoo`.

Weights that were asked for and cannot be had are an error: timm's random ones never stand in for them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sentinode.errors import ConfigError, MissingExtraError
from sentinode.models.backbones import lite_weights as packaged
from sentinode.models.backbones.hub import OFFLINE, from_hub
from sentinode.models.backbones.rows import Row, frozen_then_trained, rows_of
from sentinode.models.summary import InitialWeights
from sentinode.settings import suggestion

PretrainedWeights = bool | Literal["hub", "package"]

LARGEST: Final = 700_000_000
"""Most weights of a backbone; with gradients and Adam's moments they take 11 GB."""
FeatureKind = Literal["last", "stages", "blocks"]


@dataclass(frozen=True)
class Changes:
    """What a body is other than timm's network of its name, whose weights it has all the same."""

    stem_stride: int | None = None
    """Of the first convolution; None for its own."""
    last_map: int | None = None
    """The number, among those that the features are made of, of the map behind which it ends; None for its own end."""

    def make(self, body: Any, name: str, features: FeatureKind) -> None:
        """Change timm's network `name`; raises ConfigError where it cannot be changed so."""
        if self.stem_stride is not None:
            _set_stem_stride(body, self.stem_stride, name)
        if self.last_map is None:
            return
        if not hasattr(body, "prune_intermediate_layers"):
            raise ConfigError(
                f"model.features.cut_maps: timm does not shorten {name!r}",
                remedy="Set it to 0, or take another backbone.",
            )
        body.prune_intermediate_layers([self.last_map], **_finer(features))


class Backbone(nn.Module):
    """Normalise, resize if so asked, run a network without its classifier, and end in one logit.

    `mean` and `std` of the input and `centre` and `scale` of the features are buffers, so that weights and what they
    were trained on stay together in a state dict. `body` maps (N, 3, s, s) to pooled features (N, d), or, for the
    features "stages", gives the maps of its stages. Of those the head sees the ones numbered in `seen`.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        body: Any,
        head: nn.Linear,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        features: FeatureKind,
        seen: range,
        changes: Changes,
        resize_px: int | None,
        initial: InitialWeights,
    ) -> None:
        super().__init__()
        self.body, self.head, self.resize_px, self.kind, self.initial = body, head, resize_px, features, initial
        self.seen, self.changes, self.frozen_stages = seen, changes, 0
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.register_buffer("centre", torch.zeros(head.in_features))
        self.register_buffer("scale", torch.ones(head.in_features))

    def forward(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1"]:
        """Pixels in [0, 1] -> logits.

        One patch alone, as a pass may end in, is trained on as by our own networks, whose batch norm takes one value as
        its own mean. timm's refuses that, so the patch stands in the batch twice, with the same gradient.
        """
        if self.training and len(x) == 1:
            # The mean, not one of both: what is equal cancels in the gradients, and exactly.
            return self.classified(self.features(x.expand(2, -1, -1, -1))).mean(0, keepdim=True)
        return self.classified(self.features(x))

    def require_trainable(self, size_px: int) -> None:
        """Try a step's way forward on two patches of that size; raises ConfigError where the network cannot take them.

        Its maps may be too small for a kernel, or its last one a single pixel, which no layer that normalises each map
        can be trained on. A copy is tried, for batch norm would note what it saw.
        """
        try:
            with torch.no_grad():
                copy.deepcopy(self).train()(torch.zeros(2, 3, size_px, size_px, device=self.mean.device))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"the backbone cannot be trained on {size_px} x {size_px} pixels ({reason})",
                where="preprocess.size_px",
                remedy="Set a larger preprocess.size_px or model.resize_px, or take another backbone.",
            ) from error

    def features(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n d"]:
        """Pixels in [0, 1] -> pooled features; for frozen ones call it in evaluation mode, without gradients."""
        prepared = self.prepared(x)
        rows = rows_of(self.body) if 0 < self.frozen_stages < self.body_stages and x.device.type == "cpu" else None
        if rows:
            return self._features_by_rows(rows, prepared)
        if self.kind == "last":
            last: Tensor = self.body(prepared)
            return last
        return self._pooled(self.maps_of(self.body, prepared))

    def maps(self, x: Float[Tensor, "n 3 s s"]) -> list[Float[Tensor, "n _ _ _"]]:
        """Pixels in [0, 1] -> the maps that the features are made of; raises ConfigError where it has none."""
        if self.kind != "last":
            return self.maps_of(self.body, self.prepared(x))
        last: Tensor = self.body.forward_features(self.prepared(x))
        if last.ndim != 4 or last.shape[1] != self.body.num_features:
            raise ConfigError(
                "the backbone's last features are no maps", where="cam", remedy="Explain it by another method."
            )
        return [last]

    def maps_of(self, body: nn.Module, prepared: Float[Tensor, "n 3 r r"]) -> list[Float[Tensor, "n _ _ _"]]:
        """The maps of several stages or rows that the head sees, of this body or an equal one."""
        return _maps(body, self.kind, prepared, self.seen)

    def of_maps(self, maps: list[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, "n 1"]:
        """The maps -> logits."""
        return self.classified(self._pooled(maps) if self.kind != "last" else self.body.forward_head(maps[0]))

    @staticmethod
    def _pooled(maps: list[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, "n d"]:
        return torch.cat([_statistics(of_stage) for of_stage in maps], dim=1)

    def _features_by_rows(self, rows: list[Row], prepared: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n d"]:
        """The same features, for less of a processor's time where the first rows are frozen; the stem is a row."""
        body: Any = self.body
        every = {"last": [], "stages": body.stage_ends, "blocks": range(len(rows))}[self.kind]
        told = every[self.seen.start : self.seen.stop]
        seen, maps = frozen_then_trained(rows, self.frozen_stages, prepared, told=told, tell=_statistics)
        if self.kind == "last":
            last: Tensor = body.forward_head(body.bn2(body.conv_head(maps)))
            return last
        return torch.cat(seen, dim=1)

    def classified(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        """Features -> logits."""
        logits: Tensor = self.head((features.float() - self.centre) / self.scale)
        return logits

    def prepared(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 3 r r"]:
        """Pixels in [0, 1] -> what the body sees: resized bilinearly where `resize_px` says so, and normalised."""
        if self.resize_px is not None and self.resize_px != x.shape[-1]:
            size = (self.resize_px, self.resize_px)
            x = F.interpolate(x, size=size, mode="bilinear", antialias=self.resize_px < x.shape[-1])
        return (x - self.mean) / self.std

    def stages(self) -> list[list[str]]:
        """The names of the parameters stage by stage, from the stem on; the head is the last."""
        from timm.models import group_parameters

        groups = group_parameters(self.body, self.body.group_matcher(coarse=True))
        body = [[f"body.{name}" for name in groups[number]] for number in sorted(groups)]
        return [*body, [f"head.{name}" for name, _ in self.head.named_parameters()]]

    @property
    def width(self) -> int:
        """How many features the head sees."""
        return self.head.in_features

    @property
    def body_stages(self) -> int:
        """How many stages there are without the head."""
        return len(self.stages()) - 1

    def freeze(self, count: int) -> None:
        """Fix the first `count` stages: their weights, and the statistics of their batch norm.

        Raises ConfigError where there are not so many.
        """
        stages = self.stages()
        if count >= len(stages):
            raise ConfigError(
                f"fit.frozen_stages {count}: the backbone has {len(stages) - 1} stages", remedy="Freeze fewer of them."
            )
        frozen = {name for stage in stages[:count] for name in stage}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self.frozen_stages = count
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, but for layers whose weights are all frozen."""
        super().train(mode)
        for module in self.modules() if self.frozen_stages else ():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
        return self

    def extra_repr(self) -> str:
        seen = f", maps {self.seen.start} to {self.seen.stop - 1}" if self.kind != "last" else ""
        return f"features={self.kind!r}{seen}, resize_px={self.resize_px}, frozen_stages={self.frozen_stages}"


def _maps(body: Any, kind: FeatureKind, prepared: Float[Tensor, "n 3 r r"], seen: range | None = None) -> list[Tensor]:
    """The maps (n, c, h, w) of a body's stages, or of its stem and its rows of blocks: all, or those so numbered."""
    asked: dict[str, Any] = {} if seen is None else {"indices": list(seen)}
    maps: list[Tensor] = body.forward_intermediates(prepared, intermediates_only=True, **asked, **_finer(kind))
    return maps


def _finer(kind: FeatureKind) -> dict[str, bool]:
    """timm counts the stem and the rows of blocks, not the stages."""
    return {"extra_blocks": True} if kind == "blocks" else {}


def _statistics(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2*c"]:
    """The mean and the deviation of each map over its positions; the deviation's gradient is finite everywhere."""
    values = maps.float().flatten(2)
    return torch.cat([values.mean(2), (values.var(2, correction=0) + 1e-6).sqrt()], dim=1)


def backbone(
    name: str,
    *,
    pretrained: PretrainedWeights,
    generator: torch.Generator,
    features: FeatureKind = "last",
    skipped_maps: int = 0,
    cut_maps: int = 0,
    stem_stride: int | None = None,
    resize_px: int | None = None,
) -> Backbone:
    """timm's network `name`, with a tag of its weights or without, as a module from (N, 3, s, s) in [0, 1] to logits.

    pretrained: False draws the body's weights from `generator`; "package" takes those that a package brings along,
    "hub" timm's from the hub, True the package's where it has them, else the hub's. The head begins at zero
    (Dosovitskiy et al. 2021, 3.2).
    features: what the head sees: the mean of the last map; or the mean and the deviation of the maps of all stages,
    or of the stem and all rows of blocks, but the first `skipped_maps` and the last `cut_maps`. What only the last ones
    need is no part of the network.
    stem_stride: of the first convolution, whose weights stay as they are; None leaves it.
    resize_px: the size that patches are brought to; None leaves them, or takes the network's own size if it is fixed.

    Which network it is does not depend on `pretrained`: a state dict fits whatever `pretrained` was.
    Raises MissingExtraError without timm, ConfigError for a name that timm does not know, a network of more than
    `LARGEST` weights, or a size, stages or a stride that it does not have, WeightsError where the weights are not had.
    """
    timm = _timm()
    count = weight_count(name)
    if count > LARGEST:
        raise ConfigError(
            f"{name!r} has {count:,} weights, and the most is {LARGEST:,}",
            where="model.backbone",
            remedy="Choose a smaller one.",
        )
    config = timm.get_pretrained_cfg(name)
    mean, std = config.mean, config.std
    # timm draws from the global state; it gets a seed there, and the state is put back.
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed GPUs, for good
        if pretrained is False:
            body, initial = timm.create_model(name, in_chans=3), InitialWeights("drawn", name)
        elif _takes_package(name, pretrained):
            body, mean, std = _from_package(timm, name), packaged.MEAN, packaged.STD
            initial = InitialWeights("package", name)
        else:
            body, initial = from_hub(timm, name), InitialWeights("hub", name)
        # Only now: timm loads weights strictly where the classes are as many as in the file.
        body.reset_classifier(0)
        size_px = _resize_px(config, name, resize_px)
        widths = _widths(body, features, name, size_px or int(config.input_size[-1]))
        seen = _seen(len(widths), features, skipped_maps, cut_maps, name)
        changes = Changes(stem_stride, seen[-1] if cut_maps else None)
        changes.make(body, name, features)
        head = nn.Linear(sum(widths[at] for at in seen) * (1 if features == "last" else 2), 1)
    # A drawn head outweighs what a few epochs teach it, also where the training patches never go.
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    network = Backbone(
        body,
        head,
        mean=mean,
        std=std,
        features=features,
        seen=seen,
        changes=changes,
        resize_px=size_px,
        initial=initial,
    )
    return network.to(memory_format=torch.channels_last)


@cache
def weight_count(name: str, features: FeatureKind = "last", cut_maps: int = 0) -> int:
    """How many weights timm's network `name` has without its classifier, found without making room for them.

    Of a network that ends before its last maps, those that are left. Raises as `backbone` does for a name that timm
    does not know, and maps that the network does not have.
    """
    timm = _timm()
    _check_name(timm, name)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        body = timm.create_model(name, in_chans=3, num_classes=0)
        if cut_maps:
            maps = len(_widths(body, features, name, int(timm.get_pretrained_cfg(name).input_size[-1])))
            Changes(last_map=_seen(maps, features, 0, cut_maps, name)[-1]).make(body, name, features)
    return sum(parameter.numel() for parameter in body.parameters())


def _timm() -> Any:
    try:
        import timm  # takes seconds, and the rest of the package does without it
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"backbones come from timm, and {error.name!r} is not installed",
            remedy="Run: pip install 'sentinode[zoo]'",
        ) from error
    return timm


def _check_name(timm: Any, name: str) -> None:
    """Names of networks, with or without a tag; not timm's paths and addresses, which would name no known network."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ConfigError(
            f"timm has no backbone {name!r}",
            remedy=f"timm.list_models() names them all{suggestion(architecture, timm.list_models())}",
        )
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        raise ConfigError(
            f"timm has no weights {name!r}",
            remedy=f"Leave the tag out, or choose one of {', '.join(tags) or 'none'}{suggestion(name, tags)}",
        )


def _set_stem_stride(body: Any, stride: int, name: str) -> None:
    """Let the first convolution of timm's network `name` take steps of `stride` pixels.

    Raises ConfigError where they would pass pixels over, or the network has no such convolution or takes one size only.
    """
    first = body.pretrained_cfg.get("first_conv")
    stem = body.get_submodule(first) if isinstance(first, str) else None
    if not isinstance(stem, nn.Conv2d) or body.pretrained_cfg.get("fixed_input_size"):
        raise ConfigError(
            f"model.stem_stride: the stride of {name!r} cannot be set", remedy="Leave it out, or take another backbone."
        )
    if stride > min(stem.kernel_size):
        raise ConfigError(
            f"model.stem_stride {stride}: {name!r} begins with a convolution over {min(stem.kernel_size)} pixels, "
            "so pixels between would not be seen",
            remedy=f"Set it to {min(stem.kernel_size)} or less.",
        )
    stem.stride = (stride, stride)


def _widths(body: Any, features: FeatureKind, name: str, size_px: int) -> list[int]:
    """How many channels each map has."""
    if features == "last":
        return [int(body.head_hidden_size)]
    told = signature(body.forward_intermediates).parameters if hasattr(body, "forward_intermediates") else {}
    if not told or (features == "blocks" and "extra_blocks" not in told):
        raise ConfigError(
            f"timm does not tell the {features} of {name!r}",
            remedy=f"Set model.features.kind = {'stages' if told else 'last'!r}, or take another backbone.",
        )
    body.eval()  # else the statistics of batch norm would take part
    with torch.no_grad():
        widths = [maps.shape[1] for maps in _maps(body, features, torch.zeros(1, 3, size_px, size_px))]
    body.train()
    return widths


def _seen(maps: int, features: FeatureKind, skipped: int, cut: int, name: str) -> range:
    """The numbers of the maps that the head sees, of so many."""
    seen = range(skipped, maps - cut)
    if not seen:
        raise ConfigError(
            f"model.features.skipped_maps {skipped}, cut_maps {cut}: {name!r} has {maps} {features}",
            remedy="Leave out fewer of them.",
        )
    return seen


def _takes_package(name: str, pretrained: PretrainedWeights) -> bool:
    if pretrained == "hub":
        return False
    if pretrained is True:
        return packaged.is_installed(name)
    if name not in packaged.PACKAGES:
        raise ConfigError(f"no package brings the weights of {name!r}", remedy=f"Choose {OFFLINE}, or use the hub.")
    return True


def _from_package(timm: Any, name: str) -> Any:
    network = timm.create_model(name, in_chans=3)
    network.load_state_dict(packaged.packaged_weights(name, network.state_dict()))
    return network


def _resize_px(config: Any, name: str, asked_px: int | None) -> int | None:
    if not config.fixed_input_size:
        return asked_px
    own_px = int(config.input_size[-1])
    if asked_px not in (None, own_px):
        raise ConfigError(
            f"{name!r} takes {own_px} x {own_px} pixels, not {asked_px}",
            remedy=f"Leave it out: {own_px} is the default.",
        )
    return own_px
