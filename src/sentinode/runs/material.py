"""The data of an experiment, checked and packed: patches, the split of each config, prepared pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from sentinode.artefacts import write_text
from sentinode.audit.audit import pixel_digests
from sentinode.audit.check import Check, check_folder
from sentinode.config.run import DataConfig, RunConfig
from sentinode.data.folder import open_folder, pack_folder, require_readable
from sentinode.data.listing import Origin
from sentinode.data.patches import PatchSet, PatchTable
from sentinode.errors import RunError
from sentinode.evaluation.clusters import ClusterKind
from sentinode.inputs.preprocess import Prepared, prepare
from sentinode.progress import of_step
from sentinode.session import Session
from sentinode.splits.split import Split, make_split, reached_slides, unite_groups
from sentinode.splits.stain_clusters import stain_clusters, stain_statistics, uncut_clusters, usual_count

_STAND_INS: Final = {"group": "groups of patches", "stain": "clusters of stain"}
_FEWEST_TO_CLUSTER: Final = 4  # patches: two clusters of two


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """The test part of a material's data folder, whose labels, if it has any, are not looked at.

    `everything` are the material's patches in their order, then, from row `first` on, the test part's; `usable`: (M,)
    bool, which of these the options do not leave out; `overlaps` names the group of each id that shares tissue;
    `pixel_digests`: (M,) SHA-1 of each patch's pixels, where they are known already.
    """

    everything: PatchSet
    first: int
    usable: np.ndarray
    overlaps: Mapping[str, int]
    pixel_digests: np.ndarray | None = None

    @cached_property
    def patches(self) -> PatchSet:
        return self.everything.part(slice(self.first, None))

    @cached_property
    def tissue(self) -> np.ndarray:
        """(N + M,) str: the group of patches of both parts that share tissue, given or found; "" for none."""
        found = np.array([str(self.overlaps.get(i, "")) for i in self.everything.ids.tolist()], dtype=str)
        return unite_groups(self.everything.groups, found)


class Material:
    """Labelled patches with their united groups; splits and prepared pixels are made once and shared.

    `groups`: (N,) str, given groups united with found overlaps, "" for a patch that shares no tissue;
    `patients_known`: whether the given groups name the patient of every patch;
    `eligible`: (N,) bool, the patches that runs may use (default: all that are labelled); `unlabelled`: what
    a teacher may label; `pixel_digests`: (N,) SHA-1 of each patch's pixels, where they are known already;
    `notices`: what is to be said of the data on every page; `origin`: whose patches they are; `session`: where and
    with what all runs on them are computed; `stain_clusters`: (n,) str, those of the candidates that are known already,
    by the number asked for.
    """

    def __init__(
        self,
        patches: PatchSet,
        groups: np.ndarray,
        *,
        patients_known: bool = False,
        eligible: np.ndarray | None = None,
        unlabelled: Unlabelled | None = None,
        pixel_digests: np.ndarray | None = None,
        notices: tuple[str, ...] = (),
        note: str = "",
        origin: Origin = "other",
        session: Session | None = None,
        stain_clusters: Mapping[int | None, np.ndarray] | None = None,
    ) -> None:
        self.patches, self.note, self.session = patches, note, session or Session()
        self.origin: Origin = origin
        self.unlabelled, self.patients_known, self.given_groups = unlabelled, patients_known, groups
        if patients_known:
            groups = _patients(patches, groups)
        self.pixel_digests, self._tissue, self.own_notices = pixel_digests, groups, notices
        used = patches.labels >= 0 if eligible is None else (patches.labels >= 0) & eligible
        self.candidates = PatchTable(patches.ids[used], patches.labels[used], patches.slides[used], groups[used])
        self.used = used
        self._splits: dict[Any, Split] = {}
        self._prepared: tuple[Any, tuple[Prepared, Prepared]] | None = None
        self._stain_statistics = cache(self._describe_stain)
        self.stain_clusters = dict(stain_clusters or {})

    @cached_property
    def labels_by_id(self) -> dict[str, int]:
        return dict(zip(self.patches.ids.tolist(), self.patches.labels.tolist(), strict=True))

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of all patches: their ids, labels and pixels."""
        return _sha256(*(self._digests[name] for name in ("patches", "labels", "pixels")))

    @cached_property
    def _digests(self) -> dict[str, str]:
        patches = self.patches
        return {
            "patches": _sha256(*patches.ids.tolist()),
            "labels": _sha256(patches.labels.astype(np.int8).tobytes()),
            "pixels": _sha256_of_pixels(patches, self.pixel_digests),
            "slides": _sha256(*patches.slides.tolist()),
            "groups": _sha256(*patches.groups.tolist()),
            "shared tissue": _sha256(*self._tissue.tolist()),
        }

    def identity(self, config: RunConfig) -> dict[str, str]:
        """SHA-256 of everything that a run of this config depends on, by what it is.

        "split" is that of the table which `write_split` saves; "test patches" are there where the config names a
        teacher. Nothing depends on where the data lie.
        """
        identity = {**self._digests, "split": _sha256(self.split_table(config).encode())}
        if config.teacher is not None and self.unlabelled is not None:
            test = self.unlabelled.patches
            identity["test patches"] = _sha256(
                *test.ids.tolist(), _sha256_of_pixels(test, self.unlabelled.pixel_digests)
            )
        return identity

    @cached_property
    def cluster_kind(self) -> ClusterKind:
        """What patches are taken to be dependent within.

        Patients or slides where they are known. For the rest, groups where those given are coarse; else clusters of
        stain, for patches that share tissue are far too small a part of those that share a slide.
        """
        table = self.candidates
        if self.patients_known:
            return "patient"
        if table.slides_known:
            return "slide"
        rest = table.groups[self._on_slide == ""]
        units = len(np.unique(rest[rest != ""])) + int((rest == "").sum())
        stand_in: Literal["group", "stain"] = "group" if units <= len(rest) / 2 else "stain"
        if len(rest) == len(table):
            return stand_in
        return "slide+group" if stand_in == "group" else "slide+stain"

    @cached_property
    def _on_slide(self) -> np.ndarray:
        """(n,) str: each candidate's slide, as far as it is known or reached by shared tissue, else ""."""
        return reached_slides(self.candidates.slides, self.candidates.groups)

    def clusters_by_id(self, config: RunConfig) -> dict[str, str]:
        """Each candidate's cluster of that kind; "" for a patch on its own."""
        match self.cluster_kind:
            case "slide":
                names = self.candidates.slides
            case "patient" | "group":
                names = self.candidates.groups
            case "slide+group":
                names = np.where(self._on_slide != "", self._on_slide, self.candidates.groups)
            case ("stain" | "slide+stain") as kind:
                asked = config.data.stain_clusters
                if asked not in self.stain_clusters:
                    make = self._cluster_by_stain if kind == "stain" else self._cluster_rest_by_stain
                    self.stain_clusters[asked] = make(asked)
                names = self.stain_clusters[asked]
        return dict(zip(self.candidates.ids.tolist(), names.tolist(), strict=True))

    @property
    def notices(self) -> list[str]:
        """What is to be said of the data, and of clusters that are slides for a part of the patches."""
        if self.cluster_kind not in ("slide+group", "slide+stain"):
            return [*self.own_notices]
        known, rest = self._on_slide != "", self.cluster_kind.removeprefix("slide+")
        return [
            *self.own_notices,
            f"intervals draw slides where they are known ({int(known.sum()):,} patches of "
            f"{len(np.unique(self._on_slide[known])):,} slides) and {_STAND_INS[rest]} for the rest "
            f"({int((~known).sum()):,} patches)",
        ]

    def split(self, config: RunConfig) -> Split:
        """Drawn once for all configs that ask for the same."""
        asked = (config.balance, config.sample, config.split)
        if asked not in self._splits:
            self._splits[asked] = make_split(self.candidates, *asked, patients_known=self.patients_known)
        return self._splits[asked]

    def write_split(self, config: RunConfig, path: Path) -> Split:
        """Save the split of a config as a table id,label,side,cluster, and return it."""
        write_text(path, self.split_table(config))
        return self.split(config)

    def split_table(self, config: RunConfig) -> str:
        return self.split(config).to_csv(labels=self.labels_by_id, clusters=self.clusters_by_id(config))

    def prepared(self, config: RunConfig, joined: tuple[str, ...] = ()) -> tuple[Prepared, Prepared]:
        """Pixels of the training and of the validation set, in the split's order; those of one split are held.

        The training set ends with those of the unlabelled patches that `joined` names.
        """
        preprocess, budget_mb = config.preprocess, config.running.memory_budget_mb
        asked = (config.balance, config.sample, config.split, preprocess, budget_mb, joined)
        if self._prepared and self._prepared[0] == asked:
            return self._prepared[1]
        self._prepared = None  # let go of first: the budget is that of one split
        split, source = self.split(config), self.patches
        rows = [source.rows_of(ids) for ids in (split.training, split.validation)]
        if joined:
            assert self.unlabelled is not None
            source = self.unlabelled.everything
            rows[0] = np.append(rows[0], self.unlabelled.first + self.unlabelled.patches.rows_of(np.array(joined)))
        tell = self.session.progress
        training, validation = (
            prepare(
                source,
                own,
                preprocess,
                budget_mb=budget_mb // 2,
                scratch=self.session.cache_root,
                # Cropping and downsampling are over at once; normalising stains takes about a millisecond a patch.
                on_progress=None if preprocess.stain == "none" else of_step(tell, f"normalise stains, {name}"),
            )
            for name, own in zip(("training", "validation"), rows, strict=True)
        )
        self._prepared = asked, (training, validation)
        return training, validation

    def _cluster_by_stain(self, count: int | None) -> np.ndarray:
        """(n,) str: each candidate's cluster of stain, which is the same for every split and seed."""
        asked = count or usual_count(len(self.candidates))
        clusters = stain_clusters(self._stain_statistics(of_rest=False), asked, np.random.default_rng(0))
        return uncut_clusters(clusters, self.candidates.groups)

    def _cluster_rest_by_stain(self, count: int | None) -> np.ndarray:
        """(n,) str: each candidate's slide, and clusters of stain of those without one.

        Of the clusters that are asked for the rest has its share.
        """
        rest = self._on_slide == ""
        names = self._on_slide.astype(object)
        patches = int(rest.sum())
        asked = usual_count(patches) if count is None else max(2, round(count * patches / len(rest)))
        if patches < _FEWEST_TO_CLUSTER:
            return self._on_slide
        clusters = stain_clusters(self._stain_statistics(of_rest=True), asked, np.random.default_rng(0))
        names[rest] = uncut_clusters(clusters, self.candidates.groups[rest])
        return names.astype(str)

    def _describe_stain(self, *, of_rest: bool) -> np.ndarray:
        """(k, 19) float32: the stain statistics of all candidates, or of those without a slide."""
        rows = np.flatnonzero(self.used)
        if of_rest:
            rows = rows[self._on_slide == ""]
        return stain_statistics(self.patches.pixels, of_step(self.session.progress, "stain"), rows=rows)


@dataclass(frozen=True, eq=False)
class Gathered:
    """A data folder after its check: material of the training part, and the test part's patches."""

    check: Check
    material: Material
    test: PatchSet | None
    sample_ids: np.ndarray
    left_out: dict[str, int]
    """Patches that options left out, by the options' names."""


def gather(root: Path, config: RunConfig, session: Session) -> Gathered:
    """Open, pack and check a data folder; raises DataError on what no option leaves out."""
    folder, left_out = open_folder(root, config.data)
    if folder.layout:
        session.notify(folder.layout)
    packed = pack_folder(folder, session)
    left_out |= require_readable(packed, config.data)
    check = check_folder(folder, packed, session)
    groups = unite_groups(packed.training.groups, check.groups())
    dropped = _to_drop_of_training(check, config.data)
    left_out |= {option: int(rows.sum()) for option, rows in dropped.items()}
    eligible = ~np.any([np.zeros(len(packed.training), dtype=bool), *dropped.values()], axis=0)
    unlabelled = None
    if packed.test is not None:
        usable = ~_to_drop_of_test(check, config.data)
        unlabelled = Unlabelled(
            packed.everything,
            len(packed.training),
            usable,
            check.audit.groups,
            check.audit.rows.pixel_digests[len(packed.training) :],
        )
    material = Material(
        packed.training,
        groups,
        patients_known=folder.groups_are_patients and bool(np.all(packed.training.groups != "")),
        eligible=eligible,
        unlabelled=unlabelled,
        pixel_digests=check.audit.rows.pixel_digests[: len(packed.training)],
        notices=_contradictions(check) if "duplicate" in config.data.leave_out else (),
        note=folder.note,
        origin=check.origin,
        session=session,
    )
    return Gathered(check, material, packed.test, folder.sample_ids, left_out)


def _to_drop_of_training(check: Check, config: DataConfig) -> dict[str, np.ndarray]:
    """Which rows of the training part each option leaves out, as the check found them.

    Of patches that equal each other one stays, whatever stands in the test part: the first that has a label.
    """
    count, labels = len(check.packed.training), check.packed.training.labels
    first_copies, blank = check.audit.rows.first_copies[:count], check.audit.rows.blank[:count]
    dropped: dict[str, np.ndarray] = {}
    if "blank" in config.leave_out:
        dropped["blank"] = blank
    if "duplicate" in config.leave_out:
        labelled_first = np.lexsort((labels < 0, first_copies))
        _, kept = np.unique(first_copies[labelled_first], return_index=True)
        dropped["duplicate"] = ~np.isin(np.arange(count), labelled_first[kept])
    return dropped


def _to_drop_of_test(check: Check, config: DataConfig) -> np.ndarray:
    """Which rows of the test part the options leave out: duplicates are those that equal any earlier patch."""
    rows, first = check.audit.rows, len(check.packed.training)
    copied = rows.first_copies < np.arange(len(rows.first_copies))
    dropped = (rows.blank & ("blank" in config.leave_out)) | (copied & ("duplicate" in config.leave_out))
    return np.asarray(dropped[first:])


def _contradictions(check: Check) -> tuple[str, ...]:
    """What is to be said where copies that are left out have another label than the one that stays."""
    training = check.packed.training
    copies = check.audit.rows.first_copies[: len(training)]
    negative, positive = (set(copies[training.labels == label].tolist()) for label in (0, 1))
    count = len(negative & positive)
    if not count:
        return ()
    sets = "set of duplicates has" if count == 1 else "sets of duplicates have"
    return (f"{count:,} {sets} both labels: the first labelled copy stays, with its own label",)


def require_same(noted: Mapping[str, str], identity: Mapping[str, str], *, where: Path) -> None:
    """Raise RunError, which names what changed, where `identity` is not the one that was noted at the start."""
    changed = [name for name in _CAUSES if noted.get(name) != identity.get(name)]
    followed = {effect for name in changed for effect in _CAUSES[name].effects}
    told = [_CAUSES[name].in_words for name in changed if name not in followed]
    if told:
        raise RunError(
            f"was started with {' and '.join(told)}",
            where=where,
            remedy="Give the same data and tables as before, or another folder.",
        )


class _Cause(NamedTuple):
    in_words: str
    effects: tuple[str, ...]
    """What changes with it."""


_CAUSES: Final = {
    "patches": _Cause(
        "other patches", ("labels", "pixels", "slides", "groups", "shared tissue", "split", "test patches")
    ),
    "labels": _Cause("other labels", ("split",)),
    "pixels": _Cause("other pixels under the same names", ("shared tissue", "split")),
    "slides": _Cause("other slides (slides.csv or --slides)", ("split",)),
    "groups": _Cause("other groups (groups.csv or --groups)", ("shared tissue", "split")),
    "shared tissue": _Cause("other overlaps between patches", ("split",)),
    "split": _Cause("another split of the same patches", ()),
    "test patches": _Cause("other test patches, which join training under a teacher's labels", ()),
}


def _sha256(*parts: str | bytes) -> str:
    """Of the parts and of where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        own = part.encode() if isinstance(part, str) else part
        digest.update(len(own).to_bytes(8, "little"))
        digest.update(own)
    return digest.hexdigest()


def _sha256_of_pixels(patches: PatchSet, digests: np.ndarray | None) -> str:
    found = pixel_digests(patches.pixels) if digests is None else digests
    return hashlib.sha256(found.tobytes()).hexdigest()


def _patients(patches: PatchSet, groups: np.ndarray) -> np.ndarray:
    """(N,) str: the given groups, which are patients, united where they share slides or tissue, by their own names."""
    united = unite_groups(groups, patches.slides)
    _, first, member = np.unique(united, return_index=True, return_inverse=True)
    return np.asarray(patches.groups[first][member])
