"""What the records of runs say about their networks and how these were trained, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sentinode.config import (
    AverageConfig,
    CosineSchedule,
    EmaAverage,
    FitConfig,
    FitHead,
    FitStages,
    NoAverage,
    SwaAverage,
)
from sentinode.models.summary import InitialWeights
from sentinode.runs.run import Run
from sentinode.runs.run_record import Augmentation, Preprocessing, Seeded
from sentinode.settings import short_name, to_flat


def network_statement(run: Run) -> str:
    """The network of a run, or the networks of an ensemble."""
    if run.members:
        counts = ", ".join(f"{each.network_record.summary.total:,}" for each in run.members)
        return f"An ensemble of {len(run.members)} convolutional networks with {counts} parameters."
    settings = ", ".join(f"{short_name(name)} {value}" for name, value in to_flat(run.config.model).items())
    summary = run.network_record.summary
    return (
        f"A convolutional network ({settings}) with {summary.total:,} parameters, {summary.trainable:,} of them "
        "trainable."
    )


def initial_statement(runs: Sequence[Run]) -> str:
    """Where the weights of all networks of the runs came from, each way told once."""
    return _each(runs, lambda run: _initial(run.network_record.initial, run.config.fit))


def _initial(initial: InitialWeights, fit: FitConfig) -> str:
    fitted = isinstance(fit, FitHead) or (isinstance(fit, FitStages) and fit.head_first is not None)
    head = "its head was fitted to its features" if fitted else "its head started at zero"
    match initial.source:
        case "drawn" if initial.name:
            return f"The backbone {initial.name} was randomly initialised under the run's seed; {head}."
        case "drawn":
            return "The network was randomly initialised under the run's seed."
        case "own" if initial.fixed:
            return f"The network {initial.name} came with weights of its own, the same under every seed."
        case "own":
            return f"The network {initial.name} was initialised by its own code under the run's seed."
        case "package":
            return f"The backbone {initial.name} was pretrained on ImageNet, another task; {head}."
        case "hub":
            return f"The backbone was pretrained on another task (timm's hub: {initial.name}); {head}."


def inputs_statement(runs: Sequence[Run]) -> str:
    """What the networks see of a patch."""
    return _each(runs, lambda run: _inputs(run.network_record.preprocessing))


def _inputs(prepared: Preprocessing) -> str:
    resized = f", resized to {prepared.size_px} × {prepared.size_px} px ({prepared.resize})"
    enlarged = f", then enlarged to {prepared.enlarged_px} × {prepared.enlarged_px} px and normalised by channel"
    kept = f", except for {prepared.unnormalised:,} patches with too little stain" if prepared.unnormalised else ""
    stain = f" Stains are normalised first (Macenko et al. 2009){kept}." if prepared.stain == "macenko" else ""
    return (
        f"Red, green and blue of the centre {prepared.crop_px} × {prepared.crop_px} px"
        f"{'' if prepared.resize == 'none' else resized}, scaled to 0 to 1"
        f"{enlarged if prepared.enlarged_px else ''}.{stain}"
    )


def augmentation_statement(runs: Sequence[Run]) -> str:
    """What was varied at random in training."""
    return _each(runs, lambda run: f"Augmentation in training: {_augmented(run.network_record.augmentation)}.")


def _augmented(augmentation: Augmentation) -> str:
    parts = [
        f"zoom by up to {augmentation.zoom:g}" if augmentation.zoom else "",
        {"none": "", "flips": "flips", "all": "all 8 rotations and flips"}[augmentation.symmetries],
        f"stain strength varied by up to {augmentation.stain_jitter:g}" if augmentation.stain_jitter else "",
    ]
    return ", ".join(filter(None, parts)) or "none"


def seeded_statement(runs: Sequence[Run], *, folds: bool) -> str:
    """What another seed changes; with `folds` the split, too."""
    decided: dict[str, None] = {"the split": None} if folds else {}
    for run in runs:
        for network in run.networks:
            decided |= dict.fromkeys(map(_seeded, network.network_record.seeded))
    if not decided:
        return "The seed has no effect here: every seed gives the same network."
    *others, last = decided
    return f"The seed sets {', '.join(others)} and {last}." if others else f"The seed sets {last}."


def _seeded(what: Seeded) -> str:
    return f"the {what}" if what != "augmentation" else "augmentation"


def curves_statement(runs: Sequence[Run]) -> str:
    """What the points of a training curve are; "" for ensembles, which have none."""
    networks = [run for run in runs if not run.members]
    told = []
    if any(isinstance(run.config.fit, FitHead) for run in networks):
        told.append("A linear probe has no epochs: each point is a fit with another penalty, the strongest first.")
    trained = [run for run in networks if not isinstance(run.config.fit, FitHead)]
    if trained:
        varied = ", on augmented patches" if any(run.network_record.augmentation.ran for run in trained) else ""
        told.append(f"Training curves are measured while the weights still change{varied}.")
    return " ".join(told)


def training_statement(runs: Sequence[Run]) -> str:
    """How the networks of the runs were trained, each way told once."""
    ways: dict[FitConfig, list[int]] = {}
    for run in runs:
        for each in run.networks:
            ways.setdefault(each.config.fit.model_copy(update={"seed": 0}), []).append(len(each.history))
    return " ".join(_trained(way, rows) for way, rows in ways.items())


def _trained(fit: FitConfig, rows: Sequence[int]) -> str:
    """How networks were trained whose histories have so many rows."""
    if isinstance(fit, FitHead):
        copies = f" and of {fit.copies.count} augmented copies of each patch" if fit.copies else ""
        return f"Logistic regression on features of a frozen backbone (a linear probe){copies}, with {_penalties(fit)}."
    least, most = min(rows), max(rows)
    lasted = f"{least}" if least == most else f"{least} to {most}"
    frozen = fit.frozen_stages if isinstance(fit, FitStages) else 0
    stages = "stage" if frozen == 1 else f"{frozen} stages"
    parts = [
        f"Adam on binary cross-entropy, learning rate {fit.learning_rate:g}",
        "cosine schedule" if isinstance(fit.schedule, CosineSchedule) else "",
        f"weight decay {fit.weight_decay:g}" if fit.weight_decay else "",
        f"label smoothing {fit.label_smoothing:g}" if fit.label_smoothing else "",
        "the head fitted before the rest" if isinstance(fit, FitStages) and fit.head_first else "",
        f"the first {stages} frozen" if frozen else "",
        f"batches of {fit.batch_size}",
        f"{lasted} of at most {fit.epochs} epochs",
        _averaged(fit.average),
    ]
    return ", ".join(part for part in parts if part) + "."


def _penalties(fit: FitHead) -> str:
    count = len(fit.penalties)
    return "1 penalty" if count == 1 else f"{count} penalties, a fit each"


def _each(runs: Iterable[Run], say: Callable[[Run], str]) -> str:
    """A sentence for each network of the runs, equal ones once."""
    return " ".join(dict.fromkeys(say(network) for run in runs for network in run.networks))


def _averaged(average: AverageConfig) -> str:
    match average:
        case NoAverage():
            return ""
        case EmaAverage():
            return "exponential moving average of the weights"
        case SwaAverage():
            return "stochastic weight averaging over later epochs"
