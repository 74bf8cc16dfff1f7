"""Study, run and check folders written by hand: no training, every number known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import blank_figures
from sentinode.audit.appearance import QUANTITIES
from sentinode.audit.audit import AuditRecord, DuplicateIds, OverlapIds, Pairs, SlideBalance
from sentinode.audit.check import CHECK, CheckRecord, Counted
from sentinode.audit.explore import EXPLORED, Explored, Histogram, SlideAppearance
from sentinode.config.run import DecisionConfig, RunConfig, Scalar
from sentinode.config.study import StudyConfig
from sentinode.data.cache import Unreadable
from sentinode.data.listing import Column, Finding, Origin, TableHead
from sentinode.evaluation.metrics import scores
from sentinode.explain.review import review
from sentinode.inference.predictions import Predictions
from sentinode.models.summary import InitialWeights, LayerSummary, Summary
from sentinode.records import write_record
from sentinode.report.pages.page import write_report
from sentinode.runs.decision import DECISION, Decision, decide
from sentinode.runs.environment import write_environment
from sentinode.runs.run import SCORES, Run, Scores, write_manifest
from sentinode.runs.run_record import NetworkRecord, Preprocessing, RunRecord, augmentation_of
from sentinode.runs.study_record import (
    STUDY_CONFIG,
    STUDY_ERRORS,
    STUDY_EVIDENCE,
    STUDY_IDENTITY,
    ClassCounts,
    InputRange,
    StudyIdentity,
    StudyRecord,
    VariantRecord,
)
from sentinode.runs.variant import Variant
from sentinode.settings import override, to_toml
from sentinode.splits.split import Basis
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import weigh
from sentinode.studies.study import EvidenceRecord, FinishedStudy

IDS = np.array([f"{k:040x}" for k in range(20)])
LABELS = np.array([0, 1] * 10, dtype=np.int8)
SPLIT_IN_WORDS = {"slide": "by slide: no slide is in both sets", "random": "random: slides are ignored"}


@dataclass
class FakeStudy:
    """What the written study is about; validation accuracies of the last epoch by variant, one a seed."""

    seeds: tuple[int, ...] = (25, 26, 27)
    note: str = ""
    preset: str = ""
    origin: Origin = "competition"
    basis: Basis = "slide"
    compared: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {"before": (0.70, 0.80, 0.90), "after": (0.60, 0.70, 0.65)}
    )
    settings: dict[str, Any] = field(default_factory=dict)
    trained_patches: int = 40
    slide: str = "slide-1"
    slides_known: bool = True
    notice: str = "sample.per_class 2,000 clipped to 20"


def predictions_of(seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions(IDS, LABELS, np.clip(0.3 + 0.4 * LABELS + rng.normal(0, 0.25, len(LABELS)), 0.01, 0.99))


@cache
def decision_of(seed: int) -> Decision:
    """Every patch stands for itself."""
    return decide(predictions_of(seed), np.full(len(IDS), ""), DecisionConfig(), seed=seed)


def record_of(config: RunConfig, fake: FakeStudy) -> RunRecord:
    """What training would have recorded of a network of two layers."""
    prepare = config.preprocess
    layers = (LayerSummary("conv1", "Conv2d", (32, 30, 30), 896), LayerSummary("output", "Linear", (1,), 129))
    resize = prepare.resize if prepare.size_px < prepare.crop_px else "none"
    network = NetworkRecord(
        Summary(layers, 1025, 0),
        InitialWeights(),
        Preprocessing(prepare.crop_px, prepare.size_px, resize, prepare.stain, 0, None),
        augmentation_of(config),
        ("initial weights", "order of batches"),
    )
    known = "all" if fake.slides_known else "none"
    return RunRecord(fake.origin, known, fake.basis, training=40, validation=20, network=network)


def write_run(folder: Path, config: StudyConfig, fake: FakeStudy, accuracy: float, seed: int) -> None:
    folder.mkdir(parents=True)
    run = override(config.run_config(), {"fit.seed": seed})
    (folder / "config.toml").write_text(to_toml(run))
    pd.DataFrame({"id": IDS, "label": LABELS, "side": ["training"] * 10 + ["validation"] * 10, "cluster": ""}).to_csv(
        folder / "split.csv", index=False
    )
    environment = {
        "sentinode": "0.1.0",
        "libraries": {"torch": "9.8.7"},
        "data_note": fake.note,
        "split": SPLIT_IN_WORDS[fake.basis],
        "clusters": "group",
        "notices": [fake.notice],
        "seed": seed,
    }
    write_environment(folder / "environment.json", environment)
    record_of(run, fake).write(folder)
    epochs = np.array([1, 2, 3])
    history = {"epoch": epochs, "duration_s": 2.0, "patches_per_s": 30.0}
    for side, patches in (("training", fake.trained_patches), ("validation", 20)):
        history |= {
            f"{side}_loss": 1.0 / epochs,
            f"{side}_accuracy": [0.5, 0.55, accuracy],
            f"{side}_auc": [0.5, 0.6, accuracy],
            f"{side}_patches": patches,
        }
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    predictions = predictions_of(seed)
    predictions.write(folder / "predictions.csv")
    write_record(folder / SCORES, Scores(**scores(LABELS, predictions.probabilities)))
    write_record(folder / DECISION, decision_of(seed))
    (folder / "model.safetensors").write_bytes(b"weights")
    write_manifest(folder)


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for k, patch_id in enumerate(IDS.tolist()):
        Image.new("RGB", (96, 96), (10 * k, 80, 120)).save(folder / f"{patch_id}.png")


def write_check(folder: Path, fake: FakeStudy) -> None:
    pair = str(IDS[0]), str(IDS[1])
    nothing = Pairs[Any](0, ())
    check = CheckRecord(
        kind="competition",
        origin=fake.origin,
        note=fake.note,
        parts={"training": 60, "test": 5},
        table=(
            Counted("identical duplicates", 1, "pixel for pixel", "warning", "keep one of each"),
            Counted("unusable images", 1, "truncated", "error", "replace them"),
            Counted("flat patches", 0, "", "", ""),
        ),
        brightness_auc=0.25,
        findings=(Finding("missing", "rows without an image", 3, ("<b>x</b>",)),),
        unreadable=(Unreadable(0, "bad", "truncated"),),
        audit=AuditRecord(
            labels={"negative": 30, "positive": 30, "unlabelled": 5},
            slides=(SlideBalance(fake.slide, 60, 60, 30, 0.5),),
            duplicates=Pairs(1, (DuplicateIds(*pair, 0),)),
            label_conflicts=nothing,
            overlaps=Pairs(1, (OverlapIds(*pair, 48, 0, 4608),)),
            groups={},
            blanks={"white": [str(IDS[2])], "black": [], "flat": []},
            id_mismatches=(),
        ),
    )
    histogram = Histogram(np.linspace(0, 255, 5).tolist(), [1, 2, 3, 4], [4, 3, 2, 1], 0.25)
    slide = SlideAppearance(fake.slide, 60, 0.5, dict.fromkeys(QUANTITIES, 120.0))
    write_record(folder / CHECK, check)
    explored = Explored(60, dict.fromkeys(QUANTITIES[:2], histogram), (slide,))  # each quantity is two figures
    write_record(folder / EXPLORED, explored)


def write_evidence(folder: Path, config: StudyConfig, asked: dict[str, list[VariantRecord]]) -> None:
    """As the pipeline does, with few replicates; every patch stands for itself."""
    quick = override(config, {"compare.replicates": 200})
    evidence = {}
    for question, records in asked.items():
        variants = [
            Variant(entry.name, entry.settings, tuple(Run.open(folder / "runs" / name) for name in entry.runs))
            for entry in records
        ]
        evidence[question] = weigh(Comparison(tuple(variants)), {}, "group", quick.compare)
    write_record(folder / STUDY_EVIDENCE, EvidenceRecord(**evidence))


def write_fake(folder: Path, fake: FakeStudy) -> Path:
    config = override(
        StudyConfig(seeds=fake.seeds),
        {"fit.epochs": 3, "tune.search": {"model.bn_momentum": [0.99]}, **fake.settings},
    )
    write_pictures(folder / "pictures")
    write_check(folder, fake)
    (folder / STUDY_CONFIG).write_text(to_toml(config))
    write_record(folder / STUDY_IDENTITY, StudyIdentity({}, [], []))
    variants = []
    for name, accuracies in fake.compared.items():
        of_notebook = config.model.architecture == "notebook"
        norm: dict[str, Scalar] = {"model.norm": "after" if name == "after" else "before"} if of_notebook else {}
        for seed, accuracy in zip(fake.seeds, accuracies, strict=False):
            write_run(folder / "runs" / f"{name}-seed{seed}", override(config, norm), fake, accuracy, seed)
        variants.append(VariantRecord(name, norm, [f"{name}-seed{seed}" for seed in fake.seeds]))
    momenta = [VariantRecord("bn_momentum 0.99", {"model.bn_momentum": 0.99}, variants[0].runs)]
    write_evidence(folder, config, {"compare": variants, "tune": momenta})
    write_record(folder / DECISION, decision_of(fake.seeds[0]))
    chosen = Variant("before", {}, tuple(Run.open(folder / "runs" / name) for name in variants[0].runs))
    write_record(folder / STUDY_ERRORS, review(chosen, None, {}))
    counts = ClassCounts(30, 30)
    StudyRecord(
        note=fake.note,
        data_kind="competition",
        origin=fake.origin,
        preset=fake.preset,
        patches={"training": 60, "test": 5},
        classes={
            "all": counts,
            "balanced": counts,
            "sampled": counts,
            "training": ClassCounts(20, 20),
            "validation": ClassCounts(10, 10),
        },
        split_basis=fake.basis,
        split_in_words=SPLIT_IN_WORDS[fake.basis],
        left_out={"sample: not selected": 17},
        notices=[fake.notice],
        asked={"compare": variants, "tune": momenta},
        tune_pruned=0,
        chosen=variants[0].name,
        submission_rows=5,
        tables=[TableHead("train_labels.csv", 60, (Column("id", "text", 0),), (("a",),))],
        inputs=[InputRange(str(IDS[0]), 0.1, 0.9)],
        examples={"negative": IDS[:2].tolist(), "positive": IDS[2:4].tolist()},
    ).write(folder)
    return folder


@pytest.fixture(scope="session")
def fixed_study(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """The plain fake study, opened: for tests that take copies with other records and write nothing."""
    return FinishedStudy.open(write_fake(tmp_path_factory.mktemp("fixed") / "study", FakeStudy()))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run's folder, the test's own."""
    write_run(tmp_path / "run", StudyConfig(), FakeStudy(), 0.8, 25)
    return tmp_path / "run"


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Takes the fields of FakeStudy; the folder is the test's own."""
    return lambda **fields: write_fake(tmp_path / "study", FakeStudy(**fields))


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Takes the fields of FakeStudy; a study folder with its pages written, shared by tests that only read.

    drawn: whether the charts are; not for tests that read the text alone.
    """
    folders: dict[str, Path] = {}

    def render(*, drawn: bool = True, **fields: Any) -> Path:
        key = repr((drawn, fields))
        if key not in folders:
            folder = write_fake(tmp_path_factory.mktemp("rendered") / "study", FakeStudy(**fields))
            with nullcontext() if drawn else blank_figures():
                write_report(folder)
                write_report(folder / "runs" / "before-seed25")
            folders[key] = folder
        return folders[key]

    return render
