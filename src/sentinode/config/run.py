"""Settings of a run: of one network, or of several that are blended."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from sentinode.config.images import AugmentConfig, PreprocessConfig
from sentinode.config.network import DecisionConfig, FitConfig, ModelConfig, PredictConfig
from sentinode.config.patches import BalanceConfig, DataConfig, SampleConfig, SplitConfig
from sentinode.config.values import Scalar
from sentinode.settings import Section, is_folder_name, override

Weighting = Literal["fitted", "equal"]
Members = dict[str, dict[str, Scalar | list[Scalar]]]


class EnsembleConfig(Section):
    """Networks whose blend is the run's model: each the run's own settings with a few put over them."""

    members: Members = Field({}, description="settings of each by its name, put over the run's own (default: none)")
    weights: Weighting = Field("fitted", description="of the blend: of least log loss on the validation side, or equal")

    @field_validator("members")
    @classmethod
    def _several_runs_in_folders_of_their_own(cls, members: Members) -> Members:
        for name, settings in members.items():
            if not is_folder_name(name):
                raise ValueError(f"member name {name!r} may hold letters, digits, '.', '_' and '-' only")
            if any(key.split(".")[0] == "ensemble" for key in settings):
                raise ValueError(f"the member {name!r} is to be an ensemble itself; members are runs of one network")
        if len(members) == 1:
            raise ValueError("one member alone is no ensemble")
        return members


class PseudoConfig(Section):
    """Unlabelled patches of the test part that join training under the labels that a finished run gives them."""

    run: Path | None = Field(None, description="the teacher: a finished run, ensemble or study (default: none)")
    confidence: float = Field(
        0.95, gt=0.5, lt=1.0, description="least probability of the label, by the teacher's calibration"
    )
    most: int | None = Field(None, ge=1, description="most patches of each class, the surest first (default: all)")


class RunConfig(Section):
    """All that one run depends on, besides the data."""

    data: DataConfig = DataConfig()
    balance: BalanceConfig = BalanceConfig()
    sample: SampleConfig = SampleConfig()
    split: SplitConfig = SplitConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    predict: PredictConfig = PredictConfig()
    decision: DecisionConfig = DecisionConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    pseudo: PseudoConfig = PseudoConfig()

    @model_serializer(mode="wrap")
    def _without_a_teacher_as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings that ask for no pseudo-labels are written as they were before there were any."""
        table: dict[str, Any] = serialize(self)
        if self.pseudo == PseudoConfig():
            table.pop("pseudo", None)
        return table

    @model_validator(mode="after")
    def _members_name_settings_of_a_run(self) -> Self:
        self.members()
        return self

    def members(self) -> dict[str, RunConfig]:
        """The settings of each member's own run; none for a run of one network."""
        shared = {name: getattr(self, name) for name in RunConfig.model_fields if name != "ensemble"}
        return {name: override(RunConfig(**shared), own) for name, own in self.ensemble.members.items()}

    @model_validator(mode="after")
    def _what_is_for_backbones_goes_with_timm(self) -> Self:
        if self.model.architecture == "timm":
            return self
        for name, asked, unused in (
            ("fit.train", self.fit.train, "all"),
            ("fit.head_first", self.fit.head_first, False),
            ("fit.frozen_stages", self.fit.frozen_stages, 0),
            ("fit.layer_decay", self.fit.layer_decay, 1.0),
        ):
            if asked != unused:
                raise ValueError(f"{name} = {asked!r} is for backbones: set model.architecture = 'timm'")
        return self

    @model_validator(mode="after")
    def _the_network_takes_the_size(self) -> Self:
        size_px = self.preprocess.size_px
        if self.model.architecture == "residual" and (size_px < 48 or size_px % 16):
            raise ValueError(f"model.architecture 'residual' needs preprocess.size_px 48, 64, 80 or 96, not {size_px}")
        return self
