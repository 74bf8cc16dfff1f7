"""The check finds what the phantom planted, in both parts, and drops nothing."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sentinode.audit import check as check_module
from sentinode.audit.appearance import appearance
from sentinode.audit.check import Check, CheckRecord, check_folder
from sentinode.audit.explore import baseline, explore
from sentinode.config.run import RunConfig
from sentinode.data.folder import pack_folder, read_folder
from sentinode.records import plain, read_record, write_record
from sentinode.session import Session
from sentinode.settings import override, parse_settings


@pytest.fixture(scope="module")
def truth(phantom_folder: Path) -> pd.DataFrame:
    return pd.read_csv(phantom_folder / "truth.csv", keep_default_na=False)


@pytest.fixture
def check(phantom_folder: Path, session: Session) -> Check:
    folder = read_folder(phantom_folder)
    return check_folder(folder, pack_folder(folder, session), session)


def test_every_planted_defect_is_found(check: Check, truth: pd.DataFrame) -> None:
    planted = {kind: set(truth.loc[truth["defect"] == kind, "id"]) for kind in truth["defect"].unique()}
    audit = check.audit
    assert planted["black"] <= set(audit.blanks["black"])
    assert planted["white"] <= set(audit.blanks["white"])
    assert planted["duplicate"] <= {i for pair in audit.duplicates for i in (pair.a, pair.b)}
    overlapping = {i for pair in audit.overlaps for i in (pair.a, pair.b)}
    shared = truth[truth["defect"] == "overlap"].merge(truth, left_on="of", right_on="id", suffixes=("", "_of"))
    wide = (shared["x"] - shared["x_of"]).abs().le(72) & (shared["y"] - shared["y_of"]).abs().le(72)
    assert set(shared.loc[wide, "id"]) <= overlapping


def test_the_record_reads_back_and_counts_both_parts(check: Check, tmp_path: Path) -> None:
    write_record(tmp_path / "check.json", check.record())
    record = read_record(tmp_path / "check.json", CheckRecord)
    assert json.dumps(plain(record)) == json.dumps(plain(check.record()))  # in which NaN equals NaN
    assert record.parts["training"] + record.parts["test"] == 240
    assert record.note == "phantom: synthetic tissue"
    assert check.across_parts() == 0
    assert {row.what for row in record.table} >= {"patches", "overlapping patches", "unusable images"}


def origin(check: Check, **changed: Any) -> str:
    """Of the phantom's patches, under another mark or layout, or with so many strange ids."""
    strange = changed.pop("strange", len(check.audit.id_mismatches))
    audit = replace(check.audit, id_mismatches=["x"] * strange)
    return Check(replace(check.folder, **changed), check.packed, audit).origin


def test_whose_patches_they_are_is_known_by_mark_layout_and_ids(check: Check) -> None:
    assert check.origin == "phantom"
    assert origin(check, note="", strange=2) == "competition"
    assert origin(check, note="", strange=3) == "other"
    assert origin(check, note="", kind="PatchCamelyon") == "PatchCamelyon"


def test_groups_are_given_for_the_training_patches_in_their_order(check: Check) -> None:
    groups = dict(zip(check.packed.training.ids.tolist(), check.groups().tolist(), strict=True))
    for pair in check.audit.overlaps:
        if pair.a in groups:
            assert groups[pair.a] == groups[pair.b] != ""


def test_patches_shown_are_of_this_folder(check: Check) -> None:
    shown = check.ids_to_show()
    assert shown
    assert set(shown) <= set(check.packed.everything.ids.tolist())


def test_exploration_counts_every_labelled_patch_once(check: Check) -> None:
    training = check.packed.training
    found = explore(training, seed=0)
    for quantity in found.quantities.values():
        assert sum(quantity.negative) == (training.labels == 0).sum()
        assert sum(quantity.positive) == (training.labels == 1).sum()
        assert len(quantity.edges) == len(quantity.negative) + 1
    assert sum(slide.patches for slide in found.slides) == len(training)


def test_everything_that_was_counted_has_its_severity_and_what_needs_care_a_next_step(check: Check) -> None:
    rows = {row.what: row for row in check.table()}
    for row in rows.values():
        assert (row.severity == "") == (row.count == 0)
        assert row.next_step or row.severity in ("note", "")
    assert rows["identical duplicates"].severity == "warning"
    assert rows["unusable images"].severity == ""
    assert rows["slides"].severity == "note"


def test_patches_that_name_no_slide_are_a_warning(check: Check) -> None:
    everything = check.packed.everything
    nameless = replace(everything, slides=np.full(len(everything), ""))
    unknown = replace(check, packed=replace(check.packed, everything=nameless))
    (row,) = (row for row in unknown.table() if row.what == "slides")
    assert row.severity == "warning"
    assert "--slides" in row.next_step


def test_brightness_alone_is_the_baseline(check: Check) -> None:
    training = check.packed.training
    rows = np.flatnonzero(training.labels >= 0)
    brightness = appearance(training.pixels, rows)["brightness"]
    expected = roc_auc_score(training.labels[rows], brightness)
    assert check.brightness_auc == pytest.approx(expected)
    assert explore(training, seed=0).quantities["brightness"].auc == pytest.approx(expected)


@pytest.mark.parametrize(
    ("auc", "said"),
    [(0.3, "AUC is 0.70: positive patches are darker"), (0.7, "lighter"), (0.53, "hardly"), (None, "no baseline")],
)
def test_the_baseline_is_told_in_words(auc: float | None, said: str) -> None:
    assert said in baseline(auc)


def test_a_setting_that_is_advised_can_be_pasted_into_a_shell() -> None:
    told = [
        step for _, step in (*check_module._ADVICE.values(), *check_module._OF_FINDINGS.values()) if "--set" in step
    ]
    assert len(told) >= 6
    for step in told:
        pasted = shlex.split(step)
        value = pasted[pasted.index("--set") + 1]
        assert override(RunConfig(), parse_settings([value]), where="--set").data.leave_out
        assert not set("[]'") & set(step.replace(f'"{value}"', ""))  # no shell looks for files of that pattern
