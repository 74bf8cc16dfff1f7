"""A run as a Hugging Face folder: weights as safetensors, config.json, a card filled from the records, the ONNX file.

A backbone of timm's is a folder that timm itself opens: `timm.create_model("local-dir:FOLDER", pretrained=True)`. Where
the head sees the last maps alone, that is the whole network, pixels to logit; else it is the body, and its head lies
beside it. One that ends before timm's, or takes other steps, is opened in a few lines more, which the card has. Of an
ensemble or a study's choice each network has a folder of its own.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sentinode.artefacts import write_json, write_text
from sentinode.config.run import TimmModel
from sentinode.exports.certificate import Logits
from sentinode.inference.classifier import Card, Classifier, TrainedRun
from sentinode.inference.exported import Exported
from sentinode.inference.network import Network
from sentinode.inference.trained import TrainedNetwork
from sentinode.models.backbones.backbone import Backbone, Changes
from sentinode.runs.run import Run
from sentinode.settings import to_flat

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
HEAD: Final = "head.safetensors"
CARD: Final = "README.md"
NETWORKS: Final = "networks"


def write_hugging_face(runs: Sequence[Run], record: Exported, onnx: bytes, folder: Path) -> None:
    """Fill an empty folder; the weights are those of the finished runs."""
    networks = dict(_networks(runs))
    alone = len(networks) == 1
    for name, run in networks.items():
        place = folder if alone else folder / NETWORKS / name
        place.mkdir(parents=True, exist_ok=True)
        _write_network(run, place)
    (folder / "model.onnx").write_bytes(onnx)
    if not alone:
        write_json(folder / CONFIG, {"library_name": "sentinode", "networks": list(networks), **_facts(record)})
    write_text(folder / CARD, _card(record, networks))


def _networks(runs: Sequence[Run]) -> Iterator[tuple[str, Run]]:
    """Every network that has a say, by a name that no other has."""
    for run in runs:
        if not run.members:
            yield run.name, run
        for member, weight in zip(run.members, run.weights, strict=True):
            if weight > 0:
                yield member.name if len(runs) == 1 else f"{run.name}-{member.name}", member


def _write_network(run: Run, folder: Path) -> None:
    told = {"sentinode": {"settings": to_flat(run.config), "digest": run.weights_digest}}
    if isinstance(run.config.model, TimmModel):
        network = run.network(torch.device("cpu"))
        assert isinstance(network, Backbone)
        write_backbone(network, run.config.preprocess.size_px, told, folder)
    else:
        shutil.copyfile(run.folder / WEIGHTS, folder / WEIGHTS)
        write_json(folder / CONFIG, {"architecture": run.config.model.architecture, **told})


def write_backbone(network: Backbone, size_px: int, told: dict[str, Any], folder: Path) -> None:
    """config.json and safetensors of a network that takes `size_px`, as timm has them; it may be changed by that."""
    from timm.models import save_for_hf  # here: most runs are none of timm's

    if network.kind != "last":
        head = {name: getattr(network, name) for name in ("centre", "scale")} | dict(network.head.state_dict())
        save_file({name: values.detach().contiguous() for name, values in head.items()}, folder / HEAD)
    side_px = network.resize_px or size_px
    seen = {
        "input_size": [3, side_px, side_px],
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    body = with_classifier(network) if network.kind == "last" else network.body
    body.to(memory_format=torch.contiguous_format)  # safetensors keeps no other
    save_for_hf(body, str(folder), {"pretrained_cfg": seen, **told}, safe_serialization=True)


def with_classifier(network: Backbone) -> Any:
    """timm's network with the head as its classifier of one class, which takes features as they are."""
    body: Any = network.body
    body.reset_classifier(1)
    classifier = body.get_classifier()
    assert isinstance(classifier, nn.Linear)
    scale, centre = network.scale.double(), network.centre.double()
    weight = network.head.weight.double() / scale
    with torch.no_grad():
        classifier.weight.copy_(weight)
        classifier.bias.copy_(network.head.bias.double() - weight @ centre)
    return body.eval()


def timm_runtime(runs: Sequence[Run], classifier: Classifier, folder: Path) -> dict[str, Logits]:
    """The same model with every backbone as timm opens it from its folder; nothing where there is none."""
    networks = dict(_networks(runs))
    places = iter([folder] if len(networks) == 1 else [folder / NETWORKS / name for name in networks])
    if not any(isinstance(run.config.model, TimmModel) for run in networks.values()):
        return {}
    import timm

    def opened(run: TrainedRun) -> TrainedRun:
        return replace(run, networks=tuple(opened_by_timm(network, next(places)) for network in run.networks))

    again = classifier.with_runs([opened(run) for run in classifier.runs])
    return {f"timm {timm.__version__}": again.logits}


def opened_by_timm(network: Network, folder: Path) -> Network:
    """The same with the weights of a folder, of which timm opens the body; what is none of timm's as it is."""
    assert isinstance(network, TrainedNetwork)
    if not isinstance(network.network, Backbone):
        return network
    import timm

    given = network.network
    if given.changes == Changes():
        body = timm.create_model(f"local-dir:{folder}", pretrained=True)
    else:
        body = timm.create_model(given.initial.name, num_classes=int(given.kind == "last"))
        given.changes.make(body, given.initial.name, given.kind)
        body.load_state_dict(load_file(folder / WEIGHTS))
    if not (folder / HEAD).is_file():
        return network.with_network(_Classified(network.network, body))
    whole = copy.deepcopy(network.network)
    whole.body = body
    head = load_file(folder / HEAD)
    names = {"weight": "head.weight", "bias": "head.bias"}
    whole.load_state_dict({names.get(name, name): values for name, values in head.items()}, strict=False)
    return network.with_network(whole)


class _Classified(nn.Module):
    """A body that has its classifier itself, given pixels as a backbone is."""

    def __init__(self, like: Backbone, body: nn.Module) -> None:
        super().__init__()
        self.prepared, self.body = like.prepared, body

    def forward(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 1"]:
        logits: Tensor = self.body(self.prepared(x))
        return logits


def _facts(record: Exported) -> dict[str, Any]:
    return {
        "labels": list(record.labels),
        "patch_size_px": record.patch_size_px,
        "spacing_um_per_px": record.spacing_um_per_px,
        "digest": record.digest,
        "sentinode_version": record.sentinode,
    }


def _card(record: Exported, networks: dict[str, Run]) -> str:
    """README.md: what Hugging Face reads of it stands between the first two lines of dashes."""
    card, models = record.card, [run.config.model for run in networks.values()]
    of_timm = all(isinstance(model, TimmModel) and model.is_timms_own for model in models)
    head = [
        "---",
        f"library_name: {'timm' if of_timm and len(models) == 1 else 'sentinode'}",
        "pipeline_tag: image-classification",
        "tags: [histopathology, lymph-node, metastasis, onnx]",
        "---",
    ]
    points = [
        f"| {name} | {point.threshold:.6g} | {point.sensitivity:.3f} | {point.specificity:.3f} | {point.rule} |"
        for name, point in record.operating_points.items()
    ]
    lines = [
        *head,
        f"# {record.name}",
        "",
        "Tumour in the central 32 x 32 pixels of 96 x 96 patches of lymph-node sections (H&E), at "
        f"{record.spacing_um_per_px:g} um per pixel. For research; not a medical device.",
        "",
        f"Exported by sentinode {record.sentinode}; digest of the weights `{record.digest}`.",
        "",
        "## What it is",
        "",
        f"A {card.kind} of {card.networks} network{'s' if card.networks > 1 else ''} "
        f"({', '.join(card.architectures)}), {record.views} view{'s' if record.views > 1 else ''} of each patch.",
        "",
        "## What it was trained on",
        "",
        *([f"{card.data}", ""] if card.data else []),
        f"{card.training_patches:,} patches ({card.origin}), and validated on {card.validation_patches:,}. "
        f"Split {card.split}.",
        "",
        *(f"- {notice}" for notice in card.notices),
        "## What it scored on its validation set",
        "",
        *_scores(card),
        "",
        "These patches chose the checkpoint, the calibration and the operating points. On other hospitals' slides the "
        "scores are likely to be lower.",
        "",
        *(
            [
                "| operating point | threshold | sensitivity | specificity | rule |",
                "| --- | --- | --- | --- | --- |",
                *points,
            ]
            if points
            else [f"No operating points: {record.undecided}."]
        ),
        "",
        "## How to use it",
        "",
        *_usage(networks),
    ]
    return "\n".join(lines) + "\n"


def _scores(card: Card) -> Iterator[str]:
    yield f"| score | value | 95 % interval over {card.clusters:,} clusters ({card.cluster_kind}) |"
    yield "| --- | --- | --- |"
    for name, found in card.scores.items():
        yield f"| {name} | {found.estimate:.4f} | {found.ends_in_words('.4f')} |"


def _usage(networks: dict[str, Run]) -> Iterator[str]:
    yield from (
        "`model.onnx` is the whole model: bytes in, probabilities out, with its views, downsampling and calibration.",
        "",
        "```python",
        "import sentinode",
        "",
        'model = sentinode.load("model.onnx")      # on ONNX Runtime, without PyTorch',
        "model(patches)                            # (N, 96, 96, 3) uint8 -> N probabilities of tumour",
        'model.decide(patches, "sensitivity")      # at an operating point',
        "```",
        "",
        "`parity.json` says how far it is from the run that it was exported from.",
    )
    for name, run in networks.items():
        model = run.config.model
        if isinstance(model, TimmModel):
            place = "." if len(networks) == 1 else f"{NETWORKS}/{name}"
            network = run.network(torch.device("cpu"))
            assert isinstance(network, Backbone)
            yield from ("", f"`{place}` is a network of timm's, of one view and without calibration:", "", "```python")
            yield from _opening(network, model.backbone, place)
            if model.features.kind == "last":
                yield "logit = network(x)  # x: pixels / 255, resized as config.json says, less its mean, by its std"
            else:
                finer = ", extra_blocks=True" if model.features.kind == "blocks" else ""
                yield from (
                    f'head = safetensors.torch.load_file("{place}/{HEAD}")',
                    "# x: pixels / 255, resized bilinearly as config.json says, less its mean, divided by its std",
                    f"maps = network.forward_intermediates(x, indices={list(network.seen)}, "
                    f"intermediates_only=True{finer})",
                    "f = [m.flatten(2) for m in maps]",
                    "f = torch.cat([s for m in f for s in (m.mean(2), (m.var(2, correction=0) + 1e-6).sqrt())], 1)",
                    'logit = (f - head["centre"]) / head["scale"] @ head["weight"].T + head["bias"]',
                )
            yield "```"


def _opening(network: Backbone, name: str, place: str) -> Iterator[str]:
    """How timm opens its body; of one that was changed, timm's own folder would be another network, or none."""
    changes = network.changes
    if changes == Changes():
        yield f'network = timm.create_model("local-dir:{place}", pretrained=True).eval()'
        return
    yield f'network = timm.create_model("{name.partition(".")[0]}", num_classes={int(network.kind == "last")})'
    if changes.stem_stride is not None:
        stride = (changes.stem_stride, changes.stem_stride)
        yield f'network.get_submodule(network.pretrained_cfg["first_conv"]).stride = {stride}'
    if changes.last_map is not None:
        finer = ", extra_blocks=True" if network.kind == "blocks" else ""
        yield f"network.prune_intermediate_layers([{changes.last_map}]{finer})"
    yield f'network.load_state_dict(safetensors.torch.load_file("{place}/{WEIGHTS}"))'
    yield "network.eval()"
