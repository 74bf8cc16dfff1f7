"""Settings of which patches take part, and on which side."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sentinode.config.values import Fraction, Seed
from sentinode.settings import Section

SplitBy = Literal["auto", "slide", "group", "stain", "random", "file"]
Omission = Literal["missing", "unlabelled", "unreadable", "blank", "duplicate"]


class DataConfig(Section):
    """Which patches take part; nothing is left out unless it is named here."""

    slides: Path | None = Field(None, description="table id,slide (default: slides.csv in the data folder)")
    groups: Path | None = Field(None, description="table id,group (default: groups.csv in the data folder)")
    attributes: Path | None = Field(
        None,
        description="table id,... of further properties of patches, for scores by subgroup "
        "(default: attributes.csv in the data folder)",
    )
    leave_out: tuple[Omission, ...] = Field((), description="kinds of patches to leave out, counted")
    memory_budget_mb: int = Field(2048, ge=1, description="most memory that prepared pixels may take, MB")


class BalanceConfig(Section):
    drop_negative_fraction: Fraction = Field(0.0, description="share of the negative patches dropped")
    seed: Seed = 25


class SampleConfig(Section):
    per_class: int | None = Field(None, ge=1, description="patches drawn of each class (default: all)")
    training_per_class: int | None = Field(
        None, ge=2, description="labels of each class that training may use, drawn after the split (default: all)"
    )
    seed: Seed = 25


class SplitConfig(Section):
    by: SplitBy = Field("auto", description="auto: by slide where slides are known, else by groups and overlaps")
    file: Path | None = Field(None, description="with by = file: a table id,side (training or validation)")
    validation_fraction: float = Field(0.3, gt=0.0, lt=1.0, description="without folds: share of the validation side")
    folds: int | None = Field(None, ge=2, le=20, description="cross-validate: equal parts, each validated on once")
    fold: int | None = Field(None, ge=1, description="which of the folds validates; a comparison runs them all")
    stain_clusters: int | None = Field(None, ge=2, description="with by = stain: how many stand in for slides")
    seed: Seed = 25

    @model_validator(mode="after")
    def _file_goes_with_by_file(self) -> Self:
        if (self.by == "file") != (self.file is not None):
            raise ValueError("split.file is given exactly when split.by is 'file'")
        return self

    @model_validator(mode="after")
    def _a_fold_is_one_of_the_folds(self) -> Self:
        if self.folds is not None and self.by == "file":
            raise ValueError("split.folds needs a split that is drawn; a file gives a single one")
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            raise ValueError(f"split.fold {self.fold} is none of split.folds {self.folds or 'none'}")
        return self

    @property
    def validation_share(self) -> float:
        return self.validation_fraction if self.folds is None else 1 / self.folds
