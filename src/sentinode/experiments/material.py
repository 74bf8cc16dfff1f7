"""The data of an experiment, ready for runs: patches, the split of each config, prepared pixels."""

from __future__ import annotations

import hashlib
from functools import cache, cached_property

import numpy as np

from sentinode.config import BalanceConfig, PreprocessConfig, RunConfig, SampleConfig, SplitConfig
from sentinode.data.patches import PatchSet, PatchTable
from sentinode.data.preprocess import Prepared, prepare
from sentinode.data.split import Split, make_split


class Material:
    """Labelled patches with their united groups; splits and prepared pixels are made once and shared.

    `groups`: (N,) str, given groups united with found overlaps, "" for a patch that shares no tissue;
    `eligible`: (N,) bool, the patches that runs may use (default: all that are labelled).
    """

    def __init__(
        self, patches: PatchSet, groups: np.ndarray, *, eligible: np.ndarray | None = None, note: str = ""
    ) -> None:
        self.patches, self.note = patches, note
        used = patches.labels >= 0 if eligible is None else (patches.labels >= 0) & eligible
        self.candidates = PatchTable(patches.ids[used], patches.labels[used], patches.slides[used], groups[used])
        self._split = cache(self._make_split)
        self._prepared = cache(self._prepare)

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
    def clusters_by_id(self) -> dict[str, str]:
        """What patches are not independent within: their slide where slides are known, else their group, or ""."""
        table = self.candidates
        names = table.slides if table.slides_known else table.groups
        return dict(zip(table.ids.tolist(), names.tolist(), strict=True))

    def split(self, config: RunConfig) -> Split:
        return self._split(config.balance, config.sample, config.split)

    def prepared(self, config: RunConfig) -> tuple[Prepared, Prepared]:
        """Pixels of the training and of the validation side, in the split's order."""
        return self._prepared(
            config.balance, config.sample, config.split, config.preprocess, config.data.memory_budget_mb
        )

    def _make_split(self, balance: BalanceConfig, sample: SampleConfig, split: SplitConfig) -> Split:
        return make_split(self.candidates, balance, sample, split)

    def _prepare(
        self,
        balance: BalanceConfig,
        sample: SampleConfig,
        split: SplitConfig,
        preprocess: PreprocessConfig,
        budget_mb: int,
    ) -> tuple[Prepared, Prepared]:
        sides = self._split(balance, sample, split)
        rows = [self.patches.rows_of(ids) for ids in (sides.training, sides.validation)]
        share = budget_mb // 2
        training, validation = (prepare(self.patches, side, preprocess, budget_mb=share) for side in rows)
        return training, validation
