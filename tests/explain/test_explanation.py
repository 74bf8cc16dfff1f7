"""What a study says of its choice: of backbones by class activation maps alone, of few patches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import make_patches
from sentinode.config.run import RunConfig
from sentinode.explain import explanation
from sentinode.explain.explanation import explain_chosen
from sentinode.report.sections.explanation import look_part
from sentinode.runs.material import Material
from sentinode.runs.train import train_run
from sentinode.runs.variant import Variant
from sentinode.session import Session
from sentinode.settings import override

BACKBONE = {
    "model.architecture": "timm",
    "model.backbone": "test_efficientnet",
    "model.pretrained": "none",
    "model.features.kind": "stages",
    "preprocess.size_px": 96,
    "fit.train": "head",
    "predict.views": 8,
}


@pytest.mark.filterwarnings("ignore:.*views")
def test_of_a_chosen_backbone_class_activation_maps_alone_are_examined(
    run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "EXAMINED", 24)
    patches, session = make_patches(), Session(tmp_path, torch.device("cpu"))
    material = Material(patches, patches.groups, session=session)
    settings = {**BACKBONE, "split.validation_fraction": 0.4}
    run = train_run(material, override(run_config, settings), tmp_path / "run")
    chosen, clusters = Variant("backbone", {}, (run,)), dict(zip(patches.ids, patches.slides, strict=True))
    show = [str(run.predictions.ids[0]), "of no validation set"]
    found = explain_chosen(chosen, patches, clusters, show, tmp_path / "explanation", session)
    assert found is not None
    assert [exam.method for exam in found.exam.methods] == ["cam", "constant", "edges"]
    assert (found.views, found.patches) == (1, len(run.predictions.ids))
    assert [patch.id for patch in found.shown] == show[:1]
    shown = look_part(found)
    assert shown.of == f"{found.patches} validation patches, as they lie"
    assert shown.more == "integrated gradients, occlusion and other patches"

    monkeypatch.setattr(explanation, "EXAMINED", len(run.predictions.ids) + 1)
    assert explain_chosen(chosen, patches, clusters, show, tmp_path / "explanation", session) is None
