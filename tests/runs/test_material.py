"""What runs of one data set share: clusters where slides are known for a part, and an identity for resuming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_patches
from sentinode.config.run import RunConfig
from sentinode.data.patches import PatchSet
from sentinode.errors import RunError
from sentinode.runs.material import Material, require_same
from sentinode.runs.train import train_run
from sentinode.settings import override

CPU = torch.device("cpu")


def partly_known(every: int) -> PatchSet:
    """96 patches; of each `every`-th the slide is not known."""
    patches = make_patches()
    return replace(patches, slides=np.where(np.arange(len(patches)) % every, patches.slides, ""))


@pytest.mark.parametrize("every", [2, 3, 10, 40])
def test_intervals_draw_known_slides_and_clusters_of_stain_for_the_rest(every: int) -> None:
    patches = partly_known(every)
    material = Material(patches, patches.groups)
    assert material.cluster_kind == "slide+stain"
    clusters = material.clusters_by_id(RunConfig())
    known = patches.slides != ""
    named = np.array([clusters[i] for i in patches.ids.tolist()])
    assert named[known].tolist() == patches.slides[known].tolist()
    assert not set(named[~known].tolist()) & set(patches.slides.tolist()) - {""}
    few = (~known).sum() < 4
    assert all(name == "" if few else name.startswith("stain") for name in named[~known].tolist())
    slides, rest = int(known.sum()), int((~known).sum())
    assert material.notices == [
        f"intervals draw slides where they are known ({slides} patches of 6 slides) and clusters of stain for the rest "
        f"({rest} patches)"
    ]


def test_a_patch_that_shares_tissue_with_a_known_slide_is_drawn_with_it() -> None:
    patches = partly_known(10)
    groups = np.full(len(patches), "", dtype="<U2")
    groups[[10, 11]] = "a"
    clusters = Material(patches, groups).clusters_by_id(RunConfig())
    assert clusters[patches.ids[10]] == patches.slides[11]


def test_coarse_groups_stand_in_for_the_slides_that_are_not_known() -> None:
    patches = partly_known(2)
    groups = np.where(patches.slides == "", np.array([f"block{k % 5}" for k in range(len(patches))]), "")
    material = Material(patches, groups)
    assert material.cluster_kind == "slide+group"
    assert set(material.clusters_by_id(RunConfig()).values()) == set(patches.slides.tolist() + groups.tolist()) - {""}


def test_patients_keep_their_names_and_hold_their_slides_together() -> None:
    patches = make_patches()
    patients = np.array([f"P{int(slide[1:]) // 2}" for slide in patches.slides.tolist()])
    material = Material(replace(patches, groups=patients), patients, patients_known=True)
    assert material.cluster_kind == "patient"
    assert set(material.clusters_by_id(RunConfig()).values()) == {"P0", "P1", "P2"}
    assert material.split(RunConfig()).basis == "patient"


def other_labels(patches: PatchSet) -> PatchSet:
    return replace(patches, labels=patches.labels[::-1].copy())


def other_pixels(patches: PatchSet) -> PatchSet:
    pixels = patches.pixels.copy()
    pixels[5, 50, 50, 1] ^= 1
    return replace(patches, pixels=pixels)


def other_slides(patches: PatchSet) -> PatchSet:
    return replace(patches, slides=np.where(np.arange(len(patches)) == 3, "", patches.slides))


def other_groups(patches: PatchSet) -> PatchSet:
    return replace(patches, groups=np.where(np.arange(len(patches)) < 2, "together", ""))


CHANGES = [
    (lambda patches: patches.part(slice(80)), "other patches"),
    (other_labels, "other labels"),
    (other_pixels, "other pixels under the same names"),
    (other_slides, r"other slides \(slides.csv or --slides\)"),
    (other_groups, r"other groups \(groups.csv or --groups\)"),
    (lambda patches: other_slides(other_labels(patches)), r"other labels and other slides \(slides.csv or --slides\)"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_run_is_not_resumed_on_data_that_changed(
    run_config: RunConfig, tmp_path: Path, change: Callable[[PatchSet], PatchSet], said: str
) -> None:
    patches = make_patches()

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Material(patches, patches.groups), run_config, tmp_path / "run", on_epoch=stop)
    before = (tmp_path / "run" / "checkpoint" / "last.safetensors").read_bytes()
    changed = change(patches)
    with pytest.raises(RunError, match=f"was started with {said}. Give the same data"):
        train_run(Material(changed, changed.groups), run_config, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "checkpoint" / "last.safetensors").read_bytes() == before


def test_what_is_checked_is_the_data_and_not_where_they_lie(run_config: RunConfig) -> None:
    patches, again = make_patches(), make_patches()
    identity = Material(patches, patches.groups).identity(run_config)
    require_same(identity, Material(again, again.groups).identity(run_config), where=Path("run"))
    with pytest.raises(RunError, match="was started with another split of the same patches"):
        require_same(
            identity,
            Material(again, again.groups).identity(override(run_config, {"split.by": "random"})),
            where=Path("run"),
        )
    with pytest.raises(RunError, match="was started with other overlaps between patches"):
        require_same(identity, Material(again, other_groups(again).groups).identity(run_config), where=Path("run"))
