"""What is doubtful about a run or a study: each caution is chosen by the records of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sentinode.data.images import CENTRE_SIZE_PX
from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.runs.run import Run
from sentinode.runs.run_record import RunRecord


@dataclass(frozen=True)
class Remark:
    """Something that a reader of the scores must know, in a few words and in full."""

    title: str
    text: str


NO_CLINIC: Final = Remark(
    "Not for diagnosis", "A good score here does not show that the model works on another hospital's slides."
)


def split_name(basis: str) -> str:
    named = {
        "random": "random",
        "file": "from a file",
        "slide+group": "by slide where known",
    }
    return named.get(basis, f"by {basis}")


def split_caution(record: RunRecord) -> Remark | None:
    """What the split leaves open; None where slides are kept apart."""
    unknown = record.slides_known == "none"
    match record.split_basis:
        case "slide" | "patient":
            return None
        case "slide+group":
            return Remark(
                "Slides are known for a part of the patches",
                "Known slides stay within one set, and so do patches found to share tissue. Other patches of one slide "
                "may be in both sets, so the scores may be too good. Complete the table of slides for a split that can "
                "be trusted.",
            )
        case "random":
            return Remark(
                "The split ignores slides",
                "Patches of one slide can be in both the training and the validation set. A network can then recognise "
                "the slide instead of the tumour: every score may be much too good and says little about new slides.",
            )
        case "group":
            remedy = "Give a table of slides" if unknown else "Split by slide"
            return Remark(
                "Slides are not known" if unknown else "The split does not go by slide",
                "Patches found to share tissue stay within one set, but patches of one slide may be in both, so the "
                f"scores may be too good. {remedy} for a split that can be trusted.",
            )
        case "file":
            return Remark(
                "The split comes from a file",
                "What the file keeps apart is not known; if patches of one slide are in both sets, the scores are too "
                "good.",
            )


_ONE_SEED: Final = Remark(
    "One seed only",
    "Two runs with the same settings differ by chance, often by more than two variants do, so one seed cannot show "
    "that a variant is better.",
)
_ONE_ENSEMBLE: Final = Remark(
    "One ensemble only",
    "Members trained with other seeds would give another score, so one ensemble cannot show that a choice of members "
    "is better.",
)
_FITTED_WEIGHTS: Final = Remark(
    "The ensemble's weights were fitted on the validation set",
    "Each patch is scored with weights fitted on other slides or groups; the final weights were fitted on all of them. "
    "If members were selected by their scores on these patches, the ensemble still looks better than it is.",
)


def cautions(runs: Sequence[Run]) -> list[Remark]:
    """What is doubtful about these runs, each once, with the figures of the first such run."""
    networks = [network for run in runs for network in run.networks]
    found = [
        *_parts_of_epochs(networks),
        *_undefined_epochs(networks),
        *_single_class(runs),
        *_one_seed(runs),
        *([_FITTED_WEIGHTS] if any(run.blend and run.blend.rule == "fitted" for run in runs) else []),
    ]
    for network in networks:
        found += [*_of_pixels(network), *_of_selection(network)]
    once: dict[str, Remark] = {}
    for remark in found:
        once.setdefault(remark.title, remark)
    return list(once.values())


def _parts_of_epochs(networks: Sequence[Run]) -> Iterator[Remark]:
    for network in networks:
        trained, validated = (int(network.history[f"{side}_patches"].max()) for side in ("training", "validation"))
        training, validation = network.record.training, network.record.validation
        if trained < training or validated < validation:
            moving = "Each epoch is validated on different patches, which adds variation to the curves. "
            yield Remark(
                "Epochs are incomplete",
                f"An epoch trains on {trained:,} of {training:,} patches and validates on {validated:,} of "
                f"{validation:,}. {moving if validated < validation else ''}Final scores use the whole "
                "validation set.",
            )


def _undefined_epochs(networks: Sequence[Run]) -> Iterator[Remark]:
    """Of networks that kept their best epoch, those with epochs that have no score."""
    fits = [(network.config.fit, network.history) for network in networks]
    found = [fit for fit, rows in fits if fit.keep == "best" and rows[f"validation_{fit.metric}"].isna().any()]
    if found:
        yield Remark(
            "Some epochs have no score",
            f"In {len(found)} of {len(networks)} runs the validation patches of some epochs have a single class, so "
            f"{METRIC_NAMES[found[0].metric]} is undefined; the epoch was selected among the others.",
        )


def _single_class(runs: Sequence[Run]) -> Iterator[Remark]:
    found = [run for run in runs if _calls_all_the_same(run)]
    if not found:
        return
    networks = [network for run in found for network in run.networks]
    trained = [network for network in networks if network.config.fit.train != "head"]
    remedies = ["train longer"] if trained else []
    if any(network.config.model.architecture != "timm" for network in trained):
        remedies.append("lower the batch-norm momentum")
    remedy = ", ".join([*remedies, f"{'or ' if remedies else ''}choose another threshold"])
    yield Remark(
        "Some models predict a single class",
        f"At threshold 0.5, {len(found)} of {len(runs)} models give every validation patch the same class, so their "
        f"accuracy is just that class's share, whatever their AUC. {remedy[0].upper()}{remedy[1:]}.",
    )


def _calls_all_the_same(run: Run) -> bool:
    said = run.predictions.probabilities > 0.5
    return bool(said.all() or not said.any())


def _one_seed(runs: Sequence[Run]) -> Iterator[Remark]:
    """Not of a network that another seed would give once more."""
    if len({run.seed for run in runs}) > 1:
        return
    if runs[0].members:
        yield _ONE_ENSEMBLE
    elif any(run.network_record.seeded for run in runs if not run.members):
        yield _ONE_SEED


def _of_pixels(network: Run) -> Iterator[Remark]:
    prepared, zoom = network.network_record.preprocessing, network.network_record.augmentation.zoom
    if prepared.crop_px < CENTRE_SIZE_PX:
        yield Remark(
            "The labelled centre is cropped",
            f"The network sees only the centre {prepared.crop_px} × {prepared.crop_px} pixels, but the label is for "
            f"{CENTRE_SIZE_PX} × {CENTRE_SIZE_PX}.",
        )
    if prepared.resize != "none":
        left = CENTRE_SIZE_PX * prepared.size_px / prepared.crop_px
        yield Remark(
            "The labelled centre is downsampled",
            f"Resizing {prepared.crop_px} to {prepared.size_px} pixels leaves about {left:.0f} × {left:.0f} of the "
            f"{CENTRE_SIZE_PX} × {CENTRE_SIZE_PX} pixels that decide the label"
            + ("; 'nearest' reads one pixel of each block." if prepared.resize == "nearest" else "."),
        )
    if zoom > 0:
        yield Remark(
            "Zoom can make labels wrong",
            f"A random zoom of up to {zoom:g} moves tissue across the border of the labelled centre, but the label "
            "stays the same.",
        )


def _of_selection(network: Run) -> Iterator[Remark]:
    fit, several = network.config.fit, len(network.history) > 1
    what = "penalty" if fit.train == "head" else "epoch"
    if several and fit.keep == "last":
        yield Remark(
            "The last epoch is kept, not the best",
            "The scores depend on where a noisy curve happens to end.",
        )
    elif several:
        yield Remark(
            f"The {what} was selected on the validation set",
            f"Each run keeps the {what} with the best validation {METRIC_NAMES[fit.metric]} and is scored on the same "
            "patches, so the scores are slightly too good.",
        )
    if fit.metric == "accuracy":
        scored = "the AUC, which scores the competition," if network.record.origin == "competition" else "the AUC"
        yield Remark(
            "Accuracy decides",
            f"Accuracy depends on the threshold 0.5 and on the share of tumour; {scored} depends on neither.",
        )
