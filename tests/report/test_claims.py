"""Every sentence that could be untrue of some run, over all presets and kinds of model, data and split.

A claim is a fragment of what a report says, and the runs of which it is true. Each is looked for in all that is said of
each case: it must be there where it is true, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from report.altered import with_runs
from sentinode.config.fit import FitStages
from sentinode.config.presets import PRESETS, load_preset
from sentinode.config.run import RunConfig
from sentinode.data.listing import Origin
from sentinode.models.summary import InitialWeights
from sentinode.report.pages.study import answers
from sentinode.report.prose import notebook
from sentinode.report.prose.cautions import cautions, split_caution
from sentinode.report.prose.data_statements import centre_square, label_rule
from sentinode.report.prose.model_statements import curves_statement
from sentinode.report.standards.checklists import checklists
from sentinode.report.standards.model_card import model_card
from sentinode.runs.run import Blend, Run
from sentinode.runs.run_record import Augmentation, RunRecord, SlidesKnown, augmentation_of, seeded_by
from sentinode.settings import override
from sentinode.splits.split import Basis
from sentinode.studies.study import FinishedStudy

HARD = {
    "teacher": "teacher", "teacher_sha256": "", "calibration": "none", "confidence": 0.95, "share": None,
    "positive": 400, "negative": 800, "left_out": {},
}  # fmt: skip
TEACHERS = {"hard": HARD, "soft": HARD | {"confidence": None, "share": 1.0}}
TIMM = {"model.architecture": "timm", "model.backbone": "tf_efficientnet_lite0"}
OWN = InitialWeights()
PACKAGE = InitialWeights("package", "tf_efficientnet_lite0")
OWN_NETWORK = InitialWeights("own", "small")
OWN_WEIGHTS = InitialWeights("own", "small", fixed=True)
HUB = InitialWeights("hub", "convnextv2_tiny.fcmae_ft_in22k_in1k")
FROM_SCRATCH = InitialWeights("drawn", "tf_efficientnet_lite0")


@dataclass(frozen=True)
class Case:
    """A study of one kind: its settings over a preset, and what training recorded."""

    name: str
    preset: str = "fair"
    settings: dict[str, Any] = field(default_factory=dict)
    initial: InitialWeights = OWN
    origin: Origin = "competition"
    slides: SlidesKnown = "all"
    basis: Basis = "slide"
    members: bool = False
    epochs: int = 3
    teacher: str = ""
    calibrated: bool = True
    hospitals: bool = False

    @property
    def config(self) -> RunConfig:
        return override(load_preset(self.preset).run_config(), {"ensemble": "none", **self.settings})

    @property
    def head(self) -> bool:
        return self.config.fit.train == "head"

    @property
    def head_first(self) -> bool:
        return isinstance(self.config.fit, FitStages) and self.config.fit.head_first is not None

    @property
    def augmentation(self) -> Augmentation:
        return augmentation_of(self.config)

    @property
    def its_notebook(self) -> bool:
        model = self.config.model
        tried = model.architecture == "notebook" and model.bn_momentum in (0.99, 0.75, 0.5, 0.25)
        return self.origin == "competition" and tried and not self.members


CASES = [
    *(
        Case(
            preset,
            preset,
            initial={"strong": PACKAGE, "strong-gpu": HUB, "brisk": PACKAGE}.get(preset, OWN),
            members=preset == "strong",
            basis="random" if preset == "seed" else "slide",
        )
        for preset in PRESETS
    ),
    Case("p4m", settings={"model.architecture": "p4m"}, slides="none", basis="group"),
    Case("own network", settings={"model.architecture": "own", "model.name": "small"}, initial=OWN_NETWORK),
    Case("own weights", settings={"model.architecture": "own", "model.name": "small"}, initial=OWN_WEIGHTS),
    Case("timm from scratch", settings={**TIMM, "model.pretrained": "none"}, initial=FROM_SCRATCH),
    Case("linear probe", settings={**TIMM, "fit.train": "head"}, initial=PACKAGE),
    Case(
        "linear probe of copies",
        settings={**TIMM, "fit.train": "head", "fit.copies": {"count": 2, "stain_jitter": 0.3}},
        initial=PACKAGE,
    ),
    Case("head first", settings={**TIMM, "fit.train": "stages", "fit.head_first": {}}, initial=PACKAGE),
    Case("last epoch", settings={"fit.keep": "last"}),
    Case("one epoch", epochs=1),
    Case("no augmentation", settings={"fit.augment.symmetries": "none", "fit.augment.stain_jitter": 0.0}),
    Case("normalised stains", settings={"preprocess.stain": "macenko"}, slides="some", basis="group"),
    Case("pseudo-labelled", teacher="hard"),
    Case("distilled", teacher="soft"),
    Case("ensemble", members=True),
    Case("not calibrated", calibrated=False),
    Case("hospitals known", hospitals=True),
    Case("phantom", "seed", origin="phantom"),
    Case("PatchCamelyon", origin="PatchCamelyon"),
    Case("PatchCamelyon, the notebook's way", "seed", origin="PatchCamelyon", basis="random"),
    Case("other patches", "seed", origin="other", slides="none", basis="random"),
    Case("grouped though slides are known", basis="group"),
    Case("by patient", slides="none", basis="patient"),
    Case("slides known for a part", slides="some", basis="slide+group"),
    Case("by a file", slides="none", basis="file"),
]

CLAIMS: dict[str, Callable[[Case], bool]] = {
    # where weights began
    "The network was randomly initialised": lambda c: c.initial == OWN,
    "was randomly initialised under": lambda c: c.initial.source == "drawn",
    "The network small was initialised by its own code": lambda c: c.initial == OWN_NETWORK,
    "The network small came with weights of its own": lambda c: c.initial == OWN_WEIGHTS,
    "was pretrained on ImageNet, another task": lambda c: c.initial.source == "package",
    "timm's hub: convnextv2_tiny": lambda c: c.initial.source == "hub",
    "its head started at zero": lambda c: (
        bool(c.initial.name) and c.initial.source != "own" and not c.head and not c.head_first
    ),
    "its head was fitted to its features": lambda c: c.head or c.head_first,
    # what a seed decides
    "the initial weights": lambda c: not c.initial.pretrained and not c.initial.fixed,
    "the order of batches": lambda c: not c.head,
    "The seed has no effect here": lambda c: c.head and c.initial.pretrained,
    # how it was trained
    "Augmentation in training: none.": lambda c: not c.augmentation.ran,
    "all 8 rotations and flips, ": lambda c: c.augmentation.symmetries == "all",
    "on augmented patches": lambda c: c.augmentation.ran and not c.head and not c.members,
    "A linear probe has no epochs": lambda c: c.head and not c.members,
    "measured while the weights still change": lambda c: not c.head and not c.members,
    "Adam on binary cross-entropy": lambda c: not c.head,
    "features of a frozen backbone": lambda c: c.head,
    "Stains are normalised first": lambda c: c.config.preprocess.stain == "macenko",
    "Zoom can make labels wrong": lambda c: c.augmentation.zoom > 0,
    "The labelled centre is downsampled": lambda c: c.config.preprocess.size_px < c.config.preprocess.crop_px,
    "(pseudo-labels)": lambda c: c.teacher == "hard",
    "(distillation)": lambda c: c.teacher == "soft",
    "An ensemble of 2 convolutional networks": lambda c: c.members,
    "the weighted average of its members' logits": lambda c: c.members,
    # what was selected
    "keeps the epoch with the best": lambda c: c.config.fit.keep == "best" and not c.head,
    "keeps the penalty with the best": lambda c: c.config.fit.keep == "best" and c.head,
    "keeps its last epoch": lambda c: c.config.fit.keep == "last",
    "The last epoch is kept, not the best": lambda c: c.config.fit.keep == "last" and c.epochs > 1,
    "epoch was selected on the validation set": lambda c: c.config.fit.keep == "best" and c.epochs > 1 and not c.head,
    "penalty was selected on the validation set": lambda c: c.config.fit.keep == "best" and c.head,
    "Accuracy decides": lambda c: c.config.fit.metric == "accuracy",
    "which scores the competition": lambda c: c.config.fit.metric == "accuracy" and c.origin == "competition",
    # probabilities
    "not recalibrated": lambda c: not c.calibrated,
    "were recalibrated on the validation set": lambda c: c.calibrated,
    "Neither networks nor probabilities were changed": lambda c: not c.calibrated,
    # data
    "The notebook": lambda c: c.its_notebook,
    "notebook: validation": lambda c: c.its_notebook and c.config.model.bn_momentum == 0.99,
    "The data are synthetic": lambda c: c.origin == "phantom",
    "as their ids say": lambda c: c.origin == "competition",
    "in the form of PatchCamelyon": lambda c: c.origin == "PatchCamelyon",
    "from another source": lambda c: c.origin == "other",
    "its centre square of": lambda c: c.origin != "other",
    "which decides the label": lambda c: c.origin != "other",
    "The white square marks": lambda c: c.origin == "other",
    "Hospitals and scanners are not recorded": lambda c: not c.hospitals and c.origin != "phantom",
    "scores by hospital are reported": lambda c: c.hospitals,
    "no scores by these are reported": lambda c: not c.hospitals,
    # slides and the split
    "known by name.": lambda c: c.slides == "all",
    "for the others the slide is not known": lambda c: c.slides == "some",
    "Which slide a patch comes from is not known.": lambda c: c.slides == "none",
    "Slides are not known": lambda c: c.slides == "none" and c.basis == "group",
    "The split does not go by slide": lambda c: c.slides != "none" and c.basis == "group",
    "no slide has patches in both sets": lambda c: c.basis == "slide",
    "The records say nothing about the patients.": lambda c: c.basis != "patient" and c.origin != "phantom",
    "The patient of each patch is known by name": lambda c: c.basis == "patient",
    "Whether two slides come from one patient is not known": lambda c: c.basis == "slide",
    "no patient has patches in both sets": lambda c: c.basis == "patient",
    "Slides are known for a part of the patches": lambda c: c.basis == "slide+group",
    "slide or patient may be in both sets": lambda c: c.basis in ("group", "random"),
    "The split ignores slides": lambda c: c.basis == "random",
    "The split comes from a file": lambda c: c.basis == "file",
}


def changed(run: Run, case: Case) -> Run:
    """The run as training would have left it."""
    assert run.record.network is not None
    varied = {key: value for key, value in {"model.norm": run.config.model.norm}.items() if case.its_notebook}
    config = override(case.config, {**varied, "fit.seed": run.seed})
    augmentation = augmentation_of(config)
    prepare = config.preprocess
    network = replace(
        run.record.network,
        initial=case.initial,
        augmentation=augmentation,
        seeded=seeded_by(config, case.initial, augmentation),
        preprocessing=replace(
            run.record.network.preprocessing,
            crop_px=prepare.crop_px,
            size_px=prepare.size_px,
            resize=prepare.resize if prepare.size_px < prepare.crop_px else "none",
            stain=prepare.stain,
        ),
    )
    record = RunRecord(case.origin, case.slides, case.basis, training=40, validation=20, network=network)
    joined = {"teacher": TEACHERS[case.teacher]} if case.teacher else {}
    alone = replace(
        run,
        config=config,
        record=record,
        environment=run.environment | joined | {"clusters": "patient" if case.basis == "patient" else "group"},
    )
    vars(alone)["history"] = run.history[: case.epochs]
    if not case.members:
        return alone
    return replace(
        alone,
        record=replace(record, network=None),
        members=(alone, alone),
        blend=Blend("equal", {alone.name: 1.0}, {}, {}),
    )


def study_of(case: Case, study: FinishedStudy) -> FinishedStudy:
    study = with_runs(study, lambda run: changed(run, case))
    decision = study.decision if case.calibrated else replace(study.decision, calibrations={})
    errors = study.errors
    if case.hospitals:
        errors = replace(errors, subgroups=(*errors.subgroups, replace(errors.subgroups[0], by="hospital")))
    record = replace(
        study.record,
        origin=case.origin,
        split_basis=case.basis,
        split_in_words=f"by {case.basis}",
        note="phantom: synthetic tissue" if case.origin == "phantom" else "",
    )
    return replace(study, record=record, decision=decision, errors=errors)


def all_that_is_said(study: FinishedStudy) -> str:
    runs = [run for variant in study.variants for run in variant.runs]
    split = split_caution(runs[0].record)
    remarks = [*cautions(runs), *([split] if split else [])]
    assert study.comparison is not None
    origin = study.record.origin
    return " ".join(
        [
            *(sentence for _, sentences in model_card(study) for sentence in sentences),
            *(item.answer for each in checklists(study) for item in each.items),
            *(part for remark in remarks for part in (f"{remark.title}.", remark.text)),
            *(sentence for answer in answers(study) for sentence in (answer.answer, *answer.sure)),
            notebook.difference(study.comparison) or "",
            *notebook.last_epochs(study.comparison.variants, [], "").head,
            curves_statement(runs),
            centre_square(origin),
            label_rule(origin),
        ]
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_said_is_true_and_what_is_true_is_said(case: Case, fixed_study: FinishedStudy) -> None:
    said = all_that_is_said(study_of(case, fixed_study))
    wrong = {
        claim: "said, but untrue" if claim in said else "true, but not said"
        for claim, holds in CLAIMS.items()
        if (claim in said) != holds(case)
    }
    assert wrong == {}


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_is_true_of_one_case_and_untrue_of_another(claim: str) -> None:
    assert {CLAIMS[claim](case) for case in CASES} == {True, False}
