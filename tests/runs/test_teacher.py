"""Pseudo-labels: who joins training and who does not, what a run keeps of it, and when a teacher may not teach."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import make_patches
from sentinode.audit.audit import audit_patches
from sentinode.config.fit import AugmentConfig, FitAll
from sentinode.config.presets import load_preset
from sentinode.config.run import HardLabels, RunConfig
from sentinode.data.patches import UNLABELLED, PatchSet, PatchTable
from sentinode.errors import ConfigError, RunError
from sentinode.fitting.epochs import FitState, train_step
from sentinode.inference.predictions import Predictions
from sentinode.inputs.preprocess import downsample
from sentinode.models.notebook import notebook_network
from sentinode.report.pages.page import write_run_page
from sentinode.runs import teacher as teachers
from sentinode.runs.ensemble import join_runs
from sentinode.runs.load import classifier_of
from sentinode.runs.material import Material, Unlabelled, gather
from sentinode.runs.run import Run
from sentinode.runs.teacher import barred_patches, choose
from sentinode.runs.train import open_streams, train_run
from sentinode.session import Session
from sentinode.settings import override, to_toml
from sentinode.splits.split import Basis, Split, unite_groups
from sentinode.studies.variants import resolve_variants

CPU = torch.device("cpu")
TEACHER = Path("teacher")
TWIN, MIRRORED, SHIFTED, CHAINED, GIVEN, SLIDE, BLANKED, NAMESAKE = range(8)
TEST_PATCHES = 40


@pytest.fixture(scope="module")
def config() -> RunConfig:
    settings = {"fit.epochs": 3, "fit.batch_size": 16, "predict.views": 1, "split.validation_fraction": 0.5}
    settings |= {"model.bn_momentum": 0.5}
    return override(load_preset("fair").run_config(), settings)


def with_test_part(labelled: PatchSet, config: RunConfig) -> Material:
    """Test patches, easy to label, the first of them each with a reason to stay out of training."""
    split = Material(labelled, labelled.groups).split(config)
    validation = labelled.rows_of(split.validation)
    test = make_patches(TEST_PATCHES, seed=5)
    ids = np.array([f"test{i:04d}" for i in range(TEST_PATCHES)], dtype="<U16")
    slides = np.array([f"t{i % 3}" for i in range(TEST_PATCHES)])
    groups, pixels = np.full(TEST_PATCHES, "", dtype="<U16"), test.pixels.copy()
    pixels[TWIN] = labelled.pixels[validation[0]]
    pixels[MIRRORED] = labelled.pixels[validation[1], :, ::-1]
    pixels[SHIFTED, :64] = labelled.pixels[validation[2], 32:]
    pixels[CHAINED, :32] = pixels[SHIFTED, 64:]  # which the validation patch itself does not show
    pixels[NAMESAKE + 1 :: 5, 32:64, 32:64] = (labelled.pixels[::12, 32:64, 32:64][:7] * 0.75).astype(np.uint8)
    groups[GIVEN] = "patient"
    slides[SLIDE] = labelled.slides[validation[4]]
    ids[NAMESAKE] = split.training[0]
    given = labelled.groups.astype("<U16")
    given[validation[3]] = "patient"
    everything = PatchSet(
        np.append(labelled.ids, ids),
        np.append(labelled.labels, np.full(TEST_PATCHES, UNLABELLED, np.int8)),
        np.append(labelled.slides, slides),
        np.append(given, groups),
        np.concatenate([labelled.pixels, pixels]),
    )
    found = audit_patches(everything, Session(Path(), torch.device("cpu"), workers=1)).groups
    usable = np.arange(TEST_PATCHES) != BLANKED
    first = len(labelled)
    part = everything.part(slice(0, first))
    united = unite_groups(part.groups, np.array([str(found.get(i, "")) for i in part.ids.tolist()], dtype=str))
    return Material(part, united, unlabelled=Unlabelled(everything, first, usable, found))


@pytest.fixture(scope="module")
def material(config: RunConfig) -> Material:
    labelled = make_patches()
    doubtful = labelled.labels.copy()
    doubtful[::9] = 1 - doubtful[::9]  # so that no network is right always, nor should be sure of it
    return with_test_part(replace(labelled, labels=doubtful), config)


@pytest.fixture(scope="module")
def teacher(material: Material, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(material, config, tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def student_config(config: RunConfig, teacher: Run) -> RunConfig:
    return override(config, {"teacher.run": str(teacher.folder), "teacher.confidence": 0.7, "fit.seed": 26})


@pytest.fixture(scope="module")
def student(
    material: Material, student_config: RunConfig, teacher: Run, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return train_run(material, student_config, tmp_path_factory.mktemp("student") / "run")


def test_patches_that_the_validation_side_knows_are_barred(material: Material, config: RunConfig) -> None:
    assert material.unlabelled is not None
    barred = barred_patches(material, material.unlabelled, material.split(config))
    found = {reason: np.flatnonzero(rows).tolist() for reason, rows in barred.items()}
    assert found == {
        "left out by data.leave_out": [BLANKED],
        "are in the training part, too": [NAMESAKE],
        "share tissue with the validation set": [TWIN, MIRRORED, SHIFTED, CHAINED, GIVEN],
        "lie on a slide of the validation set": [SLIDE],
    }


def test_only_what_the_teacher_is_sure_of_joins() -> None:
    probabilities = np.array([0.99, 0.951, 0.949, 0.5, 0.051, 0.049, 0.01, 0.97, 0.02])
    predicted = Predictions(np.array([f"p{i}" for i in range(9)]), np.full(9, 1, np.int8), probabilities)
    barred = {"one reason": np.arange(9) == 0, "another": np.isin(np.arange(9), [0, 3, 6])}
    joined, left_out = choose(predicted, barred, HardLabels(run=TEACHER))
    assert joined.ids.tolist() == ["p1", "p5", "p7", "p8"]
    assert joined.labels.tolist() == [1, 0, 1, 0]
    assert joined.probabilities.tolist() == [0.951, 0.049, 0.97, 0.02]
    assert left_out == {"one reason": 1, "another": 2, "not confident": 2}
    joined, left_out = choose(predicted, barred, HardLabels(run=TEACHER, most=1))
    assert joined.ids.tolist() == ["p7", "p8"]
    assert left_out["beyond teacher.most"] == 2


@pytest.mark.parametrize(
    ("probabilities", "told"),
    [
        ([0.6, 0.4, 0.99], "of no patch of 2 test patches that may join, whose probabilities are 0.400"),
        ([0.96, 0.97, 0.01], r"confident \(0.95\) of only positives \(2\)"),
        ([0.5, 0.01, 0.9], r"confident \(0.95\) of only negatives \(1\)"),
    ],
)
def test_one_class_alone_is_refused(probabilities: list[float], told: str) -> None:
    predicted = Predictions(np.array(["a", "b", "c"]), np.full(3, -1, np.int8), np.array(probabilities))
    with pytest.raises(ConfigError, match=told):
        choose(predicted, {"reason": np.array([False, False, True])}, HardLabels(run=TEACHER))


def test_confident_patches_join_the_training_side_and_no_others(
    material: Material, student: Run, student_config: RunConfig, teacher: Run
) -> None:
    assert material.unlabelled is not None
    patches = material.unlabelled.patches
    raw = classifier_of([teacher], CPU)(patches.pixels)
    predicted = teacher.decision.calibrations["temperature"].apply(raw)
    assert not np.allclose(predicted, raw, atol=1e-3)  # so the test would see it if raw probabilities were taken
    expected = {
        i: (int(p >= 0.7), p)
        for row, (i, p) in enumerate(zip(patches.ids.tolist(), predicted.tolist(), strict=True))
        if row > NAMESAKE and not 0.3 < p < 0.7
    }
    table = pd.read_csv(student.folder / "teacher.csv", index_col="id")
    assert dict(zip(table.index, table["label"], strict=True)) == {i: label for i, (label, _) in expected.items()}
    assert table["probability"].tolist() == pytest.approx([p for _, p in expected.values()], abs=1e-6)
    assert student.history["training_patches"].tolist() == [48 + len(expected)] * 3
    split = material.split(student_config)
    assert student.predictions.ids.tolist() == split.validation.tolist()
    assert pd.read_csv(student.folder / "split.csv")["id"].tolist() == [*split.training, *split.validation]

    streams = open_streams(material, student_config, teachers.read_teacher_predictions(student.folder, student_config))
    rows = patches.rows_of(table.index.to_numpy(dtype=str))
    config = streams.training.prepared.config
    alone = open_streams(material, student_config)
    np.testing.assert_array_equal(streams.training.prepared[slice(48, None)], downsample(patches.pixels[rows], config))
    np.testing.assert_array_equal(streams.training.prepared[slice(0, 48)], alone.training.prepared[slice(0, 48)])
    assert streams.training.labels[48:].tolist() == table["label"].tolist()
    assert torch.equal(streams.validation.labels, alone.validation.labels)


def test_the_run_folder_says_who_joined_and_why_others_did_not(student: Run, teacher: Run, tmp_path: Path) -> None:
    record = student.environment["teacher"]
    table = pd.read_csv(student.folder / "teacher.csv")
    assert record["teacher"] == str(teacher.folder)
    assert (record["confidence"], record["calibration"]) == (0.7, "temperature")
    assert record["positive"] == table["label"].sum()
    assert record["positive"] + record["negative"] == len(table)
    assert record["left_out"]["share tissue with the validation set"] == 5
    assert record["left_out"]["not confident"] > 0
    assert len(table) + sum(record["left_out"].values()) == TEST_PATCHES
    assert [n for n in student.environment["notices"] if "saw the pixels of" in n and "do not show how" in n]
    folder = tmp_path / "run"
    shutil.copytree(student.folder, folder)
    page = write_run_page(Run.open(folder)).read_text(encoding="utf-8")
    assert f"{len(table)} unlabelled patches more" in page
    assert "learned a teacher&#39;s labels" in page
    assert "teacher: left out" in page
    (folder / "teacher.csv").write_text(table.head(3).to_csv(index=False))
    with pytest.raises(RunError, match="has changed since the run was finished"):
        Run.open(folder)


def test_without_a_teacher_nothing_changes(material: Material, config: RunConfig, teacher: Run, tmp_path: Path) -> None:
    plain = Material(material.patches, material.candidates.groups)
    run = train_run(plain, config, tmp_path / "run")
    for name in ("config.toml", "split.csv", "predictions.csv", "model.safetensors", "decision.json", "scores.json"):
        assert (run.folder / name).read_bytes() == (teacher.folder / name).read_bytes(), name
    assert "teacher" not in to_toml(config)
    assert not (teacher.folder / "teacher.csv").exists()
    assert "teacher" not in teacher.environment


class KilledError(Exception):
    """Stands for a process that is killed between two epochs."""


def test_it_resumes_with_its_own_teacher_only(
    material: Material,
    student_config: RunConfig,
    student: Run,
    teacher: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(row: dict[str, object]) -> None:
        raise KilledError

    lent = tmp_path / "teacher"
    shutil.copytree(teacher.folder, lent)
    config = override(student_config, {"teacher.run": str(lent)})
    with pytest.raises(KilledError):
        train_run(material, config, tmp_path / "run", on_epoch=killed)
    other = override(config, {"teacher.run": str(teacher.folder)})
    with pytest.raises(RunError, match="other settings"):
        train_run(material, other, tmp_path / "run", resume=True)

    table = (tmp_path / "run" / "teacher.csv").read_bytes()
    (tmp_path / "run" / "teacher.csv").write_bytes(table.replace(b",1,", b",0,"))
    with pytest.raises(RunError, match=r"teacher\.csv: is not the table that the run was begun with"):
        train_run(material, config, tmp_path / "run", resume=True)
    (tmp_path / "run" / "teacher.csv").write_bytes(table)
    monkeypatch.setattr(teachers, "classifier_of", lambda *_, **__: pytest.fail("predicted again"))
    resumed = train_run(material, config, tmp_path / "run", resume=True)
    for name in ("teacher.csv", "predictions.csv", "model.safetensors"):
        assert (resumed.folder / name).read_bytes() == (student.folder / name).read_bytes(), name

    shutil.rmtree(lent)
    shutil.copytree(student.folder, lent)
    with pytest.raises(RunError, match="was started with another teacher"):
        train_run(material, config, tmp_path / "run", resume=True)


def test_a_teacher_that_knows_the_validation_side_is_refused(
    material: Material, student_config: RunConfig, student: Run, tmp_path: Path
) -> None:
    other = override(student_config, {"split.seed": 3})
    with pytest.raises(RunError, match=r"was trained on \d+ of the 48 patches that are to validate"):
        train_run(material, other, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    # A student may teach in turn, but not where its own teacher may have seen the labels.
    again = override(student_config, {"teacher.run": str(student.folder), "fit.epochs": 1})
    assert train_run(material, again, tmp_path / "second").environment["teacher"]
    shutil.copytree(student.folder, tmp_path / "student")
    found = teachers.Teacher.open(tmp_path / "student")
    with pytest.raises(RunError, match="has teachers that may have been trained on 1 of the 2"):
        found.require_blind_to(validated_on(["elsewhere", student.predictions.ids[0]]), material.candidates)


def validated_on(ids: Sequence[str], basis: Basis = "slide") -> Split:
    return Split(np.array([], dtype=str), np.array(ids), basis)


def test_a_teacher_that_knows_slides_or_tissue_of_the_validation_side_is_refused(
    material: Material, teacher: Run, tmp_path: Path
) -> None:
    found, seen = (
        teachers.Teacher.open(teacher.folder),
        material.patches.rows_of(np.array(sorted(teacher.training_ids))),
    )
    table = PatchTable(
        np.append(material.patches.ids, ["new", "old"]),
        np.append(material.patches.labels, [0, 1]).astype(np.int8),
        np.append(material.patches.slides, ["unseen", material.patches.slides[seen[0]]]),
        np.append(np.where(np.arange(len(material.patches)) == seen[0], "g", ""), ["", "g"]),
    )
    for basis in ("slide", "group"):
        found.require_blind_to(validated_on(["new"], basis), table)
        with pytest.raises(RunError, match="was trained on slides or tissue of 1 of the 2 patches"):
            found.require_blind_to(validated_on(["new", "old"], basis), table)
    found.require_blind_to(validated_on(["new", "old"], "random"), table)  # which keeps nothing together


def test_a_comparison_names_a_variant_after_the_teachers_folder(tmp_path: Path) -> None:
    asked = resolve_variants(["teacher=none", f"teacher.run={tmp_path / 'teacher'}"], load_preset("fair"))
    assert asked == {"teacher-none": {"teacher": "none"}, "run-teacher": {"teacher.run": str(tmp_path / "teacher")}}
    assert override(override(RunConfig(), asked["run-teacher"]), asked["teacher-none"]).teacher is None
    with pytest.raises(ConfigError, match="set teacher to none"):
        override(RunConfig(), {"teacher.run": "none"})


def test_without_a_test_part_or_a_finished_teacher_there_is_one_line(
    material: Material, student_config: RunConfig, tmp_path: Path
) -> None:
    alone = Material(material.patches, material.patches.groups)
    with pytest.raises(ConfigError, match="no test part"):
        train_run(alone, student_config, tmp_path / "run")
    absent = override(student_config, {"teacher.run": str(tmp_path / "absent")})
    with pytest.raises(RunError, match="is not a directory"):
        train_run(material, absent, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_soft_labels_are_the_teachers_probabilities_mixed_with_the_labels(
    material: Material, config: RunConfig, teacher: Run, tmp_path: Path
) -> None:
    settings = {"teacher.labels": "soft", "teacher.run": str(teacher.folder), "teacher.share": 0.75, "fit.seed": 26}
    student = train_run(material, override(config, settings), tmp_path / "run")
    assert material.unlabelled is not None
    split, patches = material.split(config), material.unlabelled.patches
    predicted = [
        teacher.decision.calibrations["temperature"].apply(classifier_of([teacher], CPU)(pixels))
        for pixels in (material.patches.pixels[material.patches.rows_of(split.training)], patches.pixels)
    ]
    joined = np.arange(TEST_PATCHES) > NAMESAKE  # all that may, however sure the teacher is
    streams = open_streams(material, student.config, teachers.read_teacher_predictions(student.folder, student.config))
    labels = streams.training.labels.numpy()
    expected = np.append(0.75 * predicted[0] + 0.25 * labels[:48], predicted[1][joined])
    np.testing.assert_allclose(streams.training.targets.numpy(), expected, atol=1e-6)
    assert labels[:48].tolist() == material.patches.labels[material.patches.rows_of(split.training)].tolist()
    assert labels[48:].tolist() == (predicted[1][joined] >= 0.5).tolist()
    batch = streams.training.batch(1)
    assert torch.equal(batch.targets, streams.training.targets[torch.from_numpy(batch.rows)])
    assert torch.equal(streams.validation.targets, streams.validation.labels)
    assert student.predictions.ids.tolist() == teacher.predictions.ids.tolist()
    assert student.teacher is not None
    assert (student.teacher.share, student.teacher.confidence) == (0.75, None)
    assert (student.teacher.joined, student.teacher.left_out["left out by data.leave_out"]) == (joined.sum(), 1)
    assert student.taught_ids == set(split.training.tolist()) | set(patches.ids[joined].tolist())
    told = next(n for n in student.environment["notices"] if "learned probabilities" in n)
    assert told.startswith("the network learned probabilities that “run” predicted; training saw the pixels of 32")
    page = write_run_page(student).read_text(encoding="utf-8")
    assert "learned a teacher&#39;s probabilities" in page


def test_soft_labels_need_no_test_part_and_move_what_is_learned(
    material: Material, config: RunConfig, teacher: Run, tmp_path: Path
) -> None:
    alone = Material(material.patches, material.candidates.groups)
    soft = override(config, {"teacher.labels": "soft", "teacher.run": str(teacher.folder)})
    student = train_run(alone, soft, tmp_path / "run")
    unasked = train_run(material, override(soft, {"teacher.unlabelled": False}), tmp_path / "unasked")
    assert unasked.weights_digest == student.weights_digest
    assert student.teacher is not None
    assert student.teacher.joined == 0
    assert "test patches" not in " ".join(student.environment["notices"])
    assert student.weights_digest != teacher.weights_digest  # the same seed and patches, other targets


def test_a_step_on_soft_targets_is_that_of_the_mean_over_labels_drawn_from_them() -> None:
    network = notebook_network(norm="before", bn_momentum=0.9, generator=torch.Generator().manual_seed(1))
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0.0, 1.0, 0.25, 0.5, 0.75, 0.9, 0.1, 0.6])
    losses = []
    for labels in (targets, torch.zeros(8), torch.ones(8)):
        state = FitState.start(copy.deepcopy(network), FitAll(augment=AugmentConfig(symmetries="none")))
        _, found = train_step(state, images, labels, AugmentConfig(symmetries="none"), torch.Generator())
        losses.append(found)
    torch.testing.assert_close(losses[0], (1 - targets) * losses[1] + targets * losses[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None], ids=["empty", "cut", "other shape"])
def test_what_is_kept_of_a_teacher_is_asked_anew_where_it_is_damaged(
    material: Material, teacher: Run, tmp_path: Path, damage: bytes | None
) -> None:
    found, session = teachers.Teacher.open(teacher.folder), Session(tmp_path, CPU, workers=1)
    predicted = found.predict(material.patches.part(slice(0, 8)), session)
    (kept,) = (tmp_path / "teachers").iterdir()
    np.save(kept, np.zeros(3)) if damage is None else kept.write_bytes(damage)
    again = found.predict(material.patches.part(slice(0, 8)), session)
    assert again.probabilities.tolist() == predicted.probabilities.tolist()
    assert np.load(kept).shape == (8,)


def test_soft_labels_are_not_for_a_head_on_frozen_features() -> None:
    soft = {"teacher.labels": "soft", "teacher.run": "teacher"}
    head = {"model.architecture": "timm", "model.backbone": "test_efficientnet", "fit.train": "head"}
    with pytest.raises(ConfigError, match=r"belongs to fit\.train = 'all' or 'stages', with soft labels"):
        override(RunConfig(), soft | head)
    with pytest.raises(ConfigError, match=r"belongs to teacher\.labels = 'hard', not 'soft'"):
        override(RunConfig(), soft | {"teacher.confidence": 0.9})


def test_members_share_the_pseudo_labels_and_joined_members_keep_theirs(
    material: Material,
    student_config: RunConfig,
    student: Run,
    teacher: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert material.unlabelled is not None
    asked_of = Session(tmp_path / "cache", CPU, workers=1)
    fresh = Material(material.patches, material.candidates.groups, unlabelled=material.unlabelled, session=asked_of)
    calls, real = [], teachers.classifier_of

    def counted(*given, **options):
        calls.append(1)
        return real(*given, **options)

    monkeypatch.setattr(teachers, "classifier_of", counted)
    members = {"a": {"fit.seed": 1}, "b": {"fit.seed": 2}}
    asked = override(student_config, {"ensemble.members": members, "fit.epochs": 1})
    run = train_run(fresh, asked, tmp_path / "ensemble")
    assert len(calls) == 1
    tables = [(each.folder / "teacher.csv").read_bytes() for each in (run, *run.members, student)]
    assert len(set(tables)) == 1
    assert len([n for n in run.environment["notices"] if "saw the pixels" in n]) == 1

    joined = join_runs([student, teacher], tmp_path / "joined", "equal", Session(device=CPU))
    assert (joined.members[0].folder / "teacher.csv").is_file()
    assert [n for n in joined.environment["notices"] if "saw the pixels" in n]
    assert [own.teacher and own.teacher.run for own in joined.config.members().values()] == [teacher.folder, None]
    with pytest.raises(RunError, match="was trained on"):
        teachers.Teacher.open(joined.folder).require_blind_to(
            validated_on(sorted(teacher.training_ids)), material.candidates
        )


def test_a_head_on_frozen_features_takes_them(
    material: Material, student_config: RunConfig, student: Run, tmp_path: Path
) -> None:
    settings = {
        "model.architecture": "timm",
        "model.backbone": "test_efficientnet",
        "model.pretrained": "none",
        "preprocess.size_px": 96,
        "fit.train": "head",
        "fit.penalties": [0.1],
    }
    material = Material(
        material.patches,
        material.candidates.groups,
        unlabelled=material.unlabelled,
        session=Session(tmp_path / "cache", CPU),
    )
    run = train_run(material, override(student_config, settings), tmp_path / "run")
    joined = student.environment["teacher"]
    assert run.history["training_patches"].tolist() == [48 + joined["positive"] + joined["negative"]]
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


def test_a_data_folder_gives_its_test_part(phantom_folder: Path, session: Session) -> None:
    config = override(RunConfig(), {"data.leave_out": ["blank", "duplicate"]})
    gathered = gather(phantom_folder, config, session)
    part = gathered.material.unlabelled
    assert part is not None
    assert gathered.test is not None
    assert part.patches.ids.tolist() == gathered.test.ids.tolist()
    np.testing.assert_array_equal(part.patches.pixels, gathered.test.pixels)
    audit = gathered.check.audit
    unwanted = {i for ids in audit.blanks.values() for i in ids} | {pair.b for pair in audit.duplicates}
    assert {i for i, usable in zip(part.patches.ids.tolist(), part.usable, strict=True) if not usable} == (
        unwanted & set(part.patches.ids.tolist())
    )
    assert len(part.tissue) == len(part.everything)
    assert json.loads(json.dumps(dict(part.overlaps)))
