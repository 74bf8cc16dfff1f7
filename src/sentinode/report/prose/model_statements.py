"""What the records of a study say about its networks and scores, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from sentinode.config.fit import (
    AverageConfig,
    CosineSchedule,
    EmaAverage,
    FitConfig,
    FitHead,
    FitStages,
    NoAverage,
    SwaAverage,
)
from sentinode.config.run import RunConfig
from sentinode.evaluation.bootstrap import Interval
from sentinode.evaluation.clusters import CLUSTER_NAMES, CLUSTERS_IN_WORDS
from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.models.summary import InitialWeights
from sentinode.report.prose import verdicts as words
from sentinode.report.prose.cautions import cautions, split_caution
from sentinode.report.prose.numbers import many, mean_and_spread, number
from sentinode.report.sections.tables import confusion_of
from sentinode.runs.run import Run
from sentinode.runs.run_record import Augmentation, Preprocessing, Seeded
from sentinode.settings import short_name, to_flat
from sentinode.studies.evidence import Evidence
from sentinode.studies.study import FinishedStudy

_DISCRIMINATION: Final = ("auc", "average_precision", "accuracy", "balanced_accuracy")
_CALIBRATION: Final = ("ece", "brier_score", "log_loss")


@dataclass(frozen=True)
class ModelStatements:
    """Sentences about the chosen variant, its training and its scores; what a model card and the checklists quote."""

    study: FinishedStudy

    @cached_property
    def config(self) -> RunConfig:
        """The settings of the chosen variant's first run."""
        return self._first.config

    @cached_property
    def _first(self) -> Run:
        return self.study.chosen.runs[0]

    @cached_property
    def _evidence(self) -> Evidence | None:
        name, asked = self.study.record.chosen, self.study.comparisons.items()
        question = next(question for question, found in asked if name in {variant.name for variant in found.variants})
        return self.study.evidence.get(question)

    @cached_property
    def _runs(self) -> list[Run]:
        return list({run.name: run for variant in self.study.variants for run in variant.runs}.values())

    @property
    def network(self) -> str:
        return network_statement(self._first)

    @property
    def seeds(self) -> str:
        runs = self.study.chosen.runs
        seeds = ", ".join(map(str, dict.fromkeys(run.seed for run in runs)))
        several = "seeds" if "," in seeds else "seed"
        decided = seeded_statement(runs, folds=bool(self.study.config.split.folds))
        return f"“{self.study.record.chosen}”: {many(len(runs), 'run')} with the {several} {seeds}. {decided}"

    @property
    def initial(self) -> str:
        return initial_statement(self.study.chosen.runs)

    @property
    def training(self) -> str:
        return training_statement(self.study.chosen.runs)

    @property
    def kept(self) -> str:
        fits = dict.fromkeys(network.config.fit for run in self.study.chosen.runs for network in run.networks)
        return " ".join(dict.fromkeys(map(_kept, fits)))

    @property
    def selection(self) -> str:
        by = words.chosen_by(self.study.comparisons, self.study.config.fit.metric)
        name = f"“{self.study.record.chosen}”"
        if len(self.study.variants) == 1:
            return f"{self.kept} {name} is the only variant."
        if not self._chosen_by_score:
            return f"{self.kept} {name} {by}."
        return f"{self.kept} {name} {by}; scored on the patches that selected it, its scores are slightly too good."

    @property
    def _chosen_by_score(self) -> bool:
        """Not so where splits alone were asked about."""
        return set(self.study.comparisons) != {"leak"}

    @property
    def objectives(self) -> str:
        asked = []
        if self.study.comparison:
            names = ", ".join(f"“{variant.name}”" for variant in self.study.comparison.variants)
            asked.append(f"to compare {names}")
        if self.study.tuning:
            asked.append(f"to search over {', '.join(self.study.config.search.search)}")
        if self.study.leak:
            asked.append("to measure how the way of splitting changes the scores")
        aims = f" {_upper(' and '.join(asked))}: {many(len(self._runs), 'run')}." if asked else ""
        return f"Development with internal validation of networks that detect tumour in a patch.{aims}"

    @property
    def prediction(self) -> str:
        views, runs = self.config.predict.views, len(self.study.chosen.runs)
        seen = f"is the mean over {views} views of a patch" if views > 1 else "comes from a single view"
        joined = " An ensemble takes the weighted average of its members' logits." if self._first.members else ""
        averaged = f" The submission averages {runs} runs." if self.study.record.submission_rows and runs > 1 else ""
        return f"A probability {seen}.{joined}{averaged}"

    @property
    def ensemble_status(self) -> str:
        several = self.config.predict.views > 1 or len(self.study.chosen.runs) > 1 or bool(self._first.members)
        return "reported" if several else "not applicable"

    @property
    def metrics(self) -> str:
        names = METRIC_NAMES if self._evidence is None else self._evidence.intervals[self.study.record.chosen]
        return f"Measured: {', '.join(METRIC_NAMES.get(name, name) for name in names)}; and ROC curves."

    @property
    def performance(self) -> str:
        return f"“{self.study.record.chosen}”, validation: {self._scores(_DISCRIMINATION)}."

    @property
    def uncertainty_status(self) -> str:
        return "not known" if self._evidence is None else "reported"

    @property
    def calibration(self) -> str:
        """As the networks give their probabilities, and with maps fitted on other slides or groups."""
        raw = _upper(self._scores(_CALIBRATION))
        if not self.study.decision.calibrations:
            return f"{raw}; not recalibrated."
        scored = ", ".join(
            f"{METRIC_NAMES['ece']} {number(found.ece, 3)} with the {scale} map"
            for scale, found in self.study.decision.agreements.items()
            if scale != "raw"
        )
        told = f"calibrated: {scored}" if scored else "calibrated, but not scored on other slides or groups"
        return f"{raw}. The mean of its runs, {told}."

    @property
    def updating(self) -> str:
        """What was done to the model after it was evaluated; its weights are never touched."""
        fitted = list(self.study.decision.calibrations)
        if not fitted:
            return "Neither networks nor probabilities were changed after evaluation."
        return (
            f"The networks were not changed. Their probabilities were recalibrated on the validation set "
            f"({' and '.join(fitted)} maps), which a prediction can use."
        )

    @property
    def updating_status(self) -> str:
        return "reported" if self.study.decision.calibrations else "not applicable"

    @property
    def diagnostic(self) -> str:
        chosen = self.study.chosen
        at_half = (f"{name} {mean_and_spread(chosen.scores(name), 3)}" for name in ("sensitivity", "specificity"))
        at_95 = _upper(self._scores(("sensitivity_at_95_specificity",)))
        return f"At threshold 0.5: {', '.join(at_half)}. {at_95}."

    @property
    def thresholds(self) -> str:
        points = self.study.decision.points.values()
        told = "; ".join(f"{point.threshold:.3f} for {point.rule}" for point in points)
        return (
            f"Thresholds on the mean of its runs, chosen on validation patches: {told}."
            if told
            else "No threshold was chosen from the data."
        )

    def _scores(self, metrics: tuple[str, ...]) -> str:
        """With intervals where the records hold them, else means over seeds."""
        if self._evidence is None:
            return ", ".join(f"{METRIC_NAMES[m]} {number(self.study.chosen.mean(m), 3)}" for m in metrics)
        found = self._evidence.intervals[self.study.record.chosen]
        told = ", ".join(f"{METRIC_NAMES[metric]} {_interval(found[metric])}" for metric in metrics)
        return f"{told}, with {100 * found[metrics[0]].level:.0f} % intervals"

    @property
    def uncertainty(self) -> str:
        found = self._evidence
        if found is None:
            return "No intervals are recorded."
        return (
            f"Intervals come from {found.replicates:,} bootstrap replicates of {found.clusters:,} "
            f"{CLUSTERS_IN_WORDS[found.cluster_kind]} ({found.patches:,} patches) and the seeds."
        )

    @property
    def performance_status(self) -> str:
        return "not known" if self._evidence is None else "partly"

    @property
    def spread(self) -> str:
        values = self.study.chosen.distinct_scores("auc")
        if len(values) == 1:
            return "One seed only: the spread between seeds was not measured."
        return f"AUC over {len(values)} seeds: {mean_and_spread(values, 3)} (mean ± standard deviation)."

    @property
    def spread_status(self) -> str:
        return "partly" if len(self.study.chosen.distinct) > 1 else "not done"

    @property
    def verdicts(self) -> str:
        told = "; ".join(
            f"“{v.a}” against “{v.b}”: {v.outcome}" for found in self.study.evidence.values() for v in found.verdicts
        )
        return f"Verdicts: {told}." if told else "No variants were compared."

    @property
    def failures(self) -> str:
        repeat = self.study.chosen.repeats[0]
        counts = confusion_of(repeat.predictions)
        negative, positive = counts.true_negative + counts.false_positive, counts.true_positive + counts.false_negative
        pictured = "; the worst mistakes are pictured" if counts.false_positive + counts.false_negative else ""
        return (
            f"With seed {repeat.seed} and threshold 0.5, {counts.false_positive:,} of {negative:,} negatives are "
            f"called positive and {counts.false_negative:,} of {positive:,} positives are missed{pictured}."
        )

    @cached_property
    def _by_cluster(self) -> tuple[int, list[float]]:
        """How many slides, or what stands in for them, there are, and the AUC of those that are large enough."""
        found = next(table for table in self.study.errors.subgroups if table.by == self.study.errors.cluster_kind)
        return found.count, [line.auc for line in found.lines if line.auc is not None and not line.flag]

    @property
    def by_cluster(self) -> str:
        count, judged = self._by_cluster
        name = CLUSTER_NAMES[self.study.errors.cluster_kind]
        if not judged:
            return f"None of the {count:,} {name} has enough patches of both classes for a score of its own."
        told = f"over the {len(judged)} of {count:,} that are large enough"
        return f"AUC by {name}: {min(judged):.3f} to {max(judged):.3f} {told}."

    @property
    def by_cluster_status(self) -> str:
        return "partly" if self._by_cluster[1] else "not done"

    @property
    def subgroups(self) -> str:
        """The range of the AUC over the parts of each quantity."""
        told = []
        for table in self.study.errors.subgroups:
            scores = [line.auc for line in table.lines if line.auc is not None and not line.flag]
            if table.by != self.study.errors.cluster_kind and scores:
                told.append(f"{table.by.replace('_', ' ')} {min(scores):.3f} to {max(scores):.3f}")
        return f"AUC by subgroup: {', '.join(told)}." if told else "No subgroup was scored."

    @property
    def suspects(self) -> str:
        found, patches = self.study.errors.suspects.found, self.study.errors.patches
        return f"{found.total:,} of {patches:,} labels are suspected of being wrong (confident learning)."

    @property
    def limits(self) -> str:
        split = split_caution(self._first.record)
        found = cautions(self._runs)
        titles = [*(["The data are synthetic"] if self.study.record.note else []), *([split.title] if split else [])]
        return f"{'. '.join([*titles, *(caution.title for caution in found), 'No external data'])}."

    @property
    def version(self) -> str:
        facts = self._first.environment
        git = facts.get("git") or {}
        changed = ", changed since" if git.get("dirty") else ""
        commit = f"commit {git['commit']}{changed}" if git.get("commit") else "no commit is recorded"
        return f"Trained with sentinode {facts.get('sentinode', 'of an unrecorded version')} ({commit})."

    @property
    def environment(self) -> str:
        facts = self._first.environment
        kept: dict[str, Any] = {name: facts[name] for name in ("python", "device") if facts.get(name)}
        told = ", ".join(f"{name} {value}" for name, value in (kept | facts.get("libraries", {})).items())
        return f"Computed with {told}." if told else "Versions are not recorded."

    @property
    def data_digest(self) -> str:
        digest = self._first.environment.get("data_sha256")
        known = f"SHA-256 of ids and labels: {digest}." if digest else "The digest of the data is not recorded."
        return f"{known} Where the data can be obtained is not recorded."

    @property
    def files(self) -> str:
        others = " and others" if len(self._runs) > 1 else ""
        return (
            f"The study's folder contains settings, split, predictions and weights of each run "
            f"(runs/{self._first.name}{others}), sealed with digests."
        )


def _kept(fit: FitConfig) -> str:
    what = "penalty" if fit.train == "head" else "epoch"
    if fit.keep == "last":
        return f"Each run keeps its last {what}."
    return f"Each run keeps the {what} with the best validation {METRIC_NAMES[fit.metric]}."


def _interval(found: Interval) -> str:
    return f"{number(found.estimate, 3)} ({found.ends_in_words()})"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


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
