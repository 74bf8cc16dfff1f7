"""The written conclusion and the cautions: numbers and settings in, sentences out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sentinode.config import RunConfig
from sentinode.data.images import CENTRE_SIZE_PX
from sentinode.experiments.comparison import Comparison, Difference, Variant
from sentinode.experiments.run import Run
from sentinode.report.claims import claim
from sentinode.report.tables import METRIC_NAMES, mean_and_spread

NO_CLINIC = (
    "Research software: nothing here is a diagnosis, and no score here says how a network does on another "
    "hospital's slides."
)

NOTEBOOK = (
    "The notebook's figures are one run each on 50,000 patches of the full set: a random split that ignores slides, "
    "half epochs, the last epoch. They are here for reference, not as a target."
)


@dataclass(frozen=True)
class Remark:
    """Something that a reader of the scores must know, in a few words and in full."""

    title: str
    text: str


def split_name(basis: str) -> str:
    named = {
        "random": "random",
        "file": "from a file",
        "stain": "by stain cluster",
        "slide+group": "by slide where known",
    }
    return named.get(basis, f"by {basis}")


def kept_apart(basis: str) -> str:
    """Whether a split can be trusted, in a few words."""
    return {"slide": "slides kept apart", "patient": "patients kept apart"}.get(basis, "read with care")


def split_caution(basis: str) -> Remark | None:
    """What the split leaves open; None where slides are kept apart."""
    match basis:
        case "slide" | "patient":
            return None
        case "slide+group":
            return Remark(
                "Slides are known for a part of the patches",
                "Slides that are known stay on one side. Of the other patches those found to share tissue do, but some "
                "of one slide may stand on both: the scores may be too good. Complete the table of slides for a split "
                "that can be trusted.",
            )
        case "random":
            return Remark(
                "The split ignores slides",
                "Patches of one slide, some overlapping pixel for pixel, stand on both sides. A network can know "
                "the slide instead of the tumour: every score below is too good, and says little about new slides.",
            )
        case "group":
            return Remark(
                "Slides are not known",
                "Patches found to share tissue stay on one side, but patches of one slide may stand on both: the "
                "scores may be too good. Give a table of slides for a split that can be trusted.",
            )
        case "stain":
            return Remark(
                "Clusters of stain stand in for slides",
                "Patches of like stain and texture stay on one side, which keeps most of a slide together but not all. "
                "On real patches no gain over a split by shared tissue was measured: the scores may still be too good. "
                "A split by a table of slides can be trusted.",
            )
        case _:
            return Remark(
                "The split comes from a file",
                "What that file keeps apart is not known here; if patches of one slide stand on both sides, the "
                "scores are too good.",
            )


_ONE_SEED: Final = Remark(
    "One seed only",
    "Two runs of the same settings differ by the luck of their seeds, often by more than two variants do. One seed "
    "cannot tell such luck from a better variant.",
)
_ONE_BLEND: Final = Remark(
    "One blend only",
    "Members trained under other seeds would blend to another score. One blend cannot tell such luck from a better "
    "choice of members.",
)
_FITTED_BLEND: Final = Remark(
    "The weights were fitted on the validation side",
    "Every patch is scored by weights that were fitted on other slides or groups; those in use were fitted on all of "
    "them. Members that were picked by their scores on these patches flatter the blend all the same.",
)


def cautions(config: RunConfig, runs: Sequence[Run], *, training: int, validation: int) -> list[Remark]:
    """What is doubtful about these settings, said only where it is so; sizes are those of the split's sides."""
    found = []
    histories = [network.history for run in runs for network in run.networks]
    trained = max(int(history["training_patches"].max()) for history in histories)
    validated = max(int(history["validation_patches"].max()) for history in histories)
    if trained < training or validated < validation:
        moving = "Each epoch is validated on another part, so some of a curve's wobble is the change of part. "
        found.append(
            Remark(
                "Epochs are not whole",
                f"An epoch trains on {trained:,} of {training:,} patches and validates on {validated:,} of "
                f"{validation:,}. {moving if validated < validation else ''}The scores of the kept weights are of "
                "the whole validation side.",
            )
        )
    undefined = sum(_undefined_epochs(network) for run in runs for network in run.networks)
    if undefined:
        found.append(
            Remark(
                "Some epochs could not be judged",
                f"In {undefined} of {len(histories)} trainings the validation patches of some epochs have one class, "
                f"of which there is no {METRIC_NAMES[config.fit.metric]}: the kept epoch was chosen without these.",
            )
        )
    constant = sum(_calls_all_the_same(run) for run in runs)
    if constant:
        found.append(
            Remark(
                "Some runs say one thing only",
                f"At the threshold 0.5, {constant} of {len(runs)} kept networks call every validation patch the same; "
                "their accuracy is the share of that class, whatever their AUC. Longer training, another batch-norm "
                "momentum or another threshold would mend that.",
            )
        )
    if len({run.seed for run in runs}) == 1:
        found.append(_ONE_BLEND if runs[0].members else _ONE_SEED)
    if any(run.blend and run.blend.rule == "fitted" for run in runs):
        found.append(_FITTED_BLEND)
    if config.preprocess.size_px < config.preprocess.crop_px:
        shrunk = CENTRE_SIZE_PX * config.preprocess.size_px / config.preprocess.crop_px
        found.append(
            Remark(
                "The labelled centre is shrunken",
                f"Resizing {config.preprocess.crop_px} to {config.preprocess.size_px} pixels leaves about "
                f"{shrunk:.0f} × {shrunk:.0f} of the {CENTRE_SIZE_PX} × {CENTRE_SIZE_PX} pixels that the label "
                "speaks of"
                + ("; 'nearest' reads one pixel of each block." if config.preprocess.resize == "nearest" else "."),
            )
        )
    if config.augment.zoom > 0:
        found.append(
            Remark(
                "Zoom can make labels wrong",
                f"A random zoom of {config.augment.zoom:g} moves tissue across the border of the labelled centre: "
                "tumour comes in or goes out, and the label stays.",
            )
        )
    if config.fit.keep == "last":
        found.append(
            Remark(
                "The last epoch is kept, not the best",
                "The scores depend on where a noisy curve happens to stand at its end.",
            )
        )
    else:
        found.append(
            Remark(
                "The kept epoch was chosen on the validation side",
                f"Each run keeps the epoch with the best validation {METRIC_NAMES[config.fit.metric]}, and is scored "
                "on those same patches: slightly too good.",
            )
        )
    if config.fit.metric == "accuracy":
        found.append(
            Remark(
                "Accuracy decides",
                "Accuracy depends on the threshold of 0.5 and on the share of tumour; the competition is scored by "
                "the AUC, which depends on neither.",
            )
        )
    return found


def _undefined_epochs(run: Run) -> bool:
    return bool(run.config.fit.keep == "best" and run.history[f"validation_{run.config.fit.metric}"].isna().any())


def _calls_all_the_same(run: Run) -> bool:
    said = run.predictions.probabilities > 0.5
    return bool(said.all() or not said.any())


def in_words(difference: Difference) -> str:
    """The comparison's own words, with names that stand out in a sentence."""
    name = METRIC_NAMES.get(difference.metric, difference.metric)
    quoted = replace(difference, a=f"“{difference.a}”", b=f"“{difference.b}”", metric=name)
    return quoted.in_words()


def seen(comparison: Comparison, metrics: Sequence[str]) -> list[str]:
    """Every later variant against the first, in each metric."""
    return [in_words(difference) for metric in metrics for difference in comparison.differences(metric)]


def spread(comparison: Comparison, metric: str) -> str:
    """How far the variants' means lie apart, beside how far the seeds of one variant do."""
    name = METRIC_NAMES[metric]
    means = [variant.mean(metric) for variant in comparison.variants]
    between = max(means) - min(means)
    count = len(comparison.seeds)
    variants = f"{len(means)} variants"
    if count == 1:
        return (
            f"The {name} of the {variants} lies within {between:.4f}, one run each. How far two seeds of one variant "
            "lie apart was not measured, so no winner is named."
        )
    within = max(float(np.ptp(variant.scores(metric))) for variant in comparison.variants)
    told = (
        f"The mean {name} of the {variants} lies within {between:.4f}; the {count} seeds of a single variant lie up "
        f"to {within:.4f} apart."
    )
    if within >= between:
        return f"{told} Seeds matter as much as variants here."
    return f"{told} That describes the runs; the verdicts weigh them."


def same_training(comparison: Comparison) -> str | None:
    """Why table 2 shows one training accuracy several times; None where it does not."""
    if any(variant.blends for variant in comparison.variants):
        return None
    keys = {key for variant in comparison.variants for key in variant.settings}
    last = {
        tuple(float(run.history["training_accuracy"].iloc[-1]) for run in variant.runs)
        for variant in comparison.variants
    }
    if keys != {"model.bn_momentum"} or len(comparison.variants) < 2 or len(last) > 1:
        return None
    return (
        "The training accuracies are equal because they must be: the momentum only sets how fast batch "
        "normalisation's moving averages follow, and those are used in validation, not in training."
    )


def against_claims(comparison: Comparison) -> str | None:
    """The notebook's own difference between its two variants beside ours; None where it had no such two."""
    if len(comparison.variants) != 2 or any(variant.blends for variant in comparison.variants):
        return None
    first, second = comparison.variants
    claimed, other = claim(first.settings), claim(second.settings)
    if claimed is None or other is None:
        return None
    stated = other.validation_accuracy - claimed.validation_accuracy
    ours = [
        float(b.history["validation_accuracy"].iloc[-1] - a.history["validation_accuracy"].iloc[-1])
        for a, b in zip(first.runs, second.runs, strict=True)
    ]
    return (
        f"The notebook reported “{second.name}” minus “{first.name}” as {stated:+.4f} in the validation accuracy of "
        f"the last epoch, from one run. Here the same difference is {_signed(ours)}, on other patches: its figures are "
        "for reference, not a target."
    )


def _signed(values: Sequence[float]) -> str:
    text = mean_and_spread(values)
    return text if text.startswith("-") else f"+{text}"


def chosen_by(questions: Collection[str], metric: str) -> str:
    """What a study's variant was chosen by: an audit of splits alone chooses by trust, not by score."""
    if set(questions) == {"leak"}:
        return "was split in the way that can be trusted"
    return f"has the highest mean validation {METRIC_NAMES[metric]}"


def chosen(variant: Variant, metric: str, submission_rows: int, *, by: str) -> str:
    """`by` says what it was chosen by: its score or its split."""
    score = mean_and_spread(variant.scores(metric))
    if submission_rows:
        runs = "its run" if len(variant.runs) == 1 else f"its {len(variant.runs)} runs, averaged"
        purpose = f"The submission of {submission_rows:,} rows was made with “{variant.name}”: {runs}"
    else:
        purpose = f"ROC curve, confusion matrix and mistakes below are of “{variant.name}”"
    return (
        f"{purpose}. It {by}; its validation {METRIC_NAMES[metric]} is {score}. That is a choice that had to be made, "
        "not a verdict."
    )
