"""The data of an experiment, ready for runs: patches, the split of each config, prepared pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np

from sentinode.config import BalanceConfig, PreprocessConfig, RunConfig, SampleConfig, SplitConfig
from sentinode.data.listing import Origin
from sentinode.data.patches import PatchSet, PatchTable
from sentinode.data.preprocess import Prepared, prepare
from sentinode.data.split import Split, make_split, unite_groups
from sentinode.data.stain_groups import stain_clusters, stain_statistics, uncut_clusters, usual_count
from sentinode.evaluation.clusters import ClusterKind
from sentinode.inference.probabilities import Predictions
from sentinode.progress import Progress, of_step, silent

_SPLITS_HELD = 1  # of prepared pixels: the budget is that of one split


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """The test part of a material's data folder, whose labels, if it has any, are not looked at.

    `everything` are the material's patches in their order, then, from row `first` on, the test part's; `usable`: (M,)
    bool, which of these the options do not leave out; `overlaps` names the group of each id that shares tissue.
    """

    everything: PatchSet
    first: int
    usable: np.ndarray
    overlaps: Mapping[str, int]
    said: dict[str, Predictions] = field(default_factory=dict)
    """What teachers said of the part, by their digests: predicted once for all runs."""

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
    `eligible`: (N,) bool, the patches that runs may use (default: all that are labelled); `unlabelled`: what
    pseudo-labels may be given to; `origin`: whose patches they are; `cache_root`: where features are kept.
    """

    def __init__(
        self,
        patches: PatchSet,
        groups: np.ndarray,
        *,
        eligible: np.ndarray | None = None,
        unlabelled: Unlabelled | None = None,
        note: str = "",
        origin: Origin = "other",
        cache_root: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        self.patches, self.note, self.cache_root, self.progress = patches, note, cache_root, progress
        self.origin: Origin = origin
        self.unlabelled = unlabelled
        used = patches.labels >= 0 if eligible is None else (patches.labels >= 0) & eligible
        self.candidates = PatchTable(patches.ids[used], patches.labels[used], patches.slides[used], groups[used])
        self._used = used
        self._split = cache(self._make_split)
        self._prepared = lru_cache(maxsize=_SPLITS_HELD)(self._prepare)
        self._by_stain = cache(self._cluster_by_stain)

    @cached_property
    def labels_by_id(self) -> dict[str, int]:
        return dict(zip(self.patches.ids.tolist(), self.patches.labels.tolist(), strict=True))

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of all ids (themselves digests of pixels in the competition) and labels."""
        digest = hashlib.sha256("\n".join(self.patches.ids.tolist()).encode())
        digest.update(self.patches.labels.astype(np.int8).tobytes())
        return digest.hexdigest()

    @cached_property
    def cluster_kind(self) -> ClusterKind:
        """What patches are taken to be dependent within.

        Slides where they are known; groups where those given are coarse; else clusters of stain, for patches that
        share tissue are far too small a part of those that share a slide.
        """
        table = self.candidates
        if table.slides_known:
            return "slide"
        units = len(np.unique(table.groups[table.groups != ""])) + int((table.groups == "").sum())
        return "group" if units <= len(table) / 2 else "stain"

    def clusters_by_id(self, config: RunConfig) -> dict[str, str]:
        """Each candidate's cluster of that kind; "" for a patch on its own."""
        match self.cluster_kind:
            case "slide":
                names = self.candidates.slides
            case "group":
                names = self.candidates.groups
            case "stain":
                names = self._by_stain(config.data.stain_clusters).groups
        return dict(zip(self.candidates.ids.tolist(), names.tolist(), strict=True))

    def split(self, config: RunConfig) -> Split:
        return self._split(config.balance, config.sample, config.split, config.data.stain_clusters)

    def write_split(self, config: RunConfig, path: Path) -> Split:
        """Save the split of a config as a table id,label,side,cluster, and return it."""
        split = self.split(config)
        split.write(path, labels=self.labels_by_id, clusters=self.clusters_by_id(config))
        return split

    def prepared(self, config: RunConfig, joined: tuple[str, ...] = ()) -> tuple[Prepared, Prepared]:
        """Pixels of the training and of the validation side, in the split's order.

        The training side ends with those of the unlabelled patches that `joined` names.
        """
        return self._prepared(
            config.balance,
            config.sample,
            config.split,
            config.data.stain_clusters,
            config.preprocess,
            config.running.memory_budget_mb,
            joined,
        )

    def _make_split(
        self, balance: BalanceConfig | None, sample: SampleConfig | None, split: SplitConfig, stain_clusters: int | None
    ) -> Split:
        table = self._by_stain(stain_clusters) if split.by == "stain" else self.candidates
        return make_split(table, balance, sample, split)

    def _cluster_by_stain(self, count: int | None) -> PatchTable:
        """The candidates, their groups swelled to clusters of stain, which are the same for every split and seed."""
        table = self.candidates
        asked = count or usual_count(len(table))
        clusters = stain_clusters(self._stain_statistics[self._used], asked, np.random.default_rng(0))
        return replace(table, groups=uncut_clusters(clusters, table.groups))

    @cached_property
    def _stain_statistics(self) -> np.ndarray:
        return stain_statistics(self.patches.pixels, of_step(self.progress, "stain"))

    def _prepare(
        self,
        balance: BalanceConfig | None,
        sample: SampleConfig | None,
        split: SplitConfig,
        stain_clusters: int | None,
        preprocess: PreprocessConfig,
        budget_mb: int,
        joined: tuple[str, ...],
    ) -> tuple[Prepared, Prepared]:
        sides, source = self._split(balance, sample, split, stain_clusters), self.patches
        rows = [self.patches.rows_of(ids) for ids in (sides.training, sides.validation)]
        if joined:
            assert self.unlabelled is not None
            source = self.unlabelled.everything
            rows[0] = np.append(rows[0], self.unlabelled.first + self.unlabelled.patches.rows_of(np.array(joined)))
        share = budget_mb // 2
        # Cropping and shrinking are over at once; normalising stains takes about a millisecond a patch.
        training, validation = (
            prepare(
                source,
                side,
                preprocess,
                budget_mb=share,
                scratch=self.cache_root,
                on_progress=of_step(self.progress, f"normalise stains, {name}") if preprocess.stain != "none" else None,
            )
            for name, side in zip(("training", "validation"), rows, strict=True)
        )
        return training, validation
