"""Settings of a study: of its runs, and of the questions that are asked with them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sentinode.config.run import RunConfig
from sentinode.config.values import Scalar, Seed
from sentinode.settings import Section, is_folder_name, override


class Range(Section):
    """An interval to search: whole numbers where both ends are whole numbers."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0, not {self.low}")
        return self


class CompareConfig(Section):
    """The variants under comparison, each a few settings put over the run's own."""

    variants: dict[str, dict[str, Scalar]] = Field(
        {"before": {"model.norm": "before"}, "after": {"model.norm": "after"}},
        description="settings of each variant by its name, put over the run's own",
    )
    smallest_effect: float = Field(0.005, gt=0.0, description="smallest difference that matters, in the metric")
    replicates: int = Field(2000, ge=100, description="bootstrap replicates behind every interval")
    patches: Literal["all", "resampled"] = Field(
        "all", description="of a drawn slide: all its patches, or as many drawn anew (wider intervals)"
    )

    @field_validator("variants")
    @classmethod
    def _names_are_folder_names(cls, variants: dict[str, dict[str, Scalar]]) -> dict[str, dict[str, Scalar]]:
        for name in variants:
            if not is_folder_name(name):
                raise ValueError(f"variant name {name!r} may hold letters, digits, '.', '_' and '-' only")
        return variants


class TuneConfig(Section):
    base: dict[str, Scalar] = Field(default_factory=dict, description="settings common to all trials")
    search: dict[str, list[Scalar] | Range] = Field(
        {"model.bn_momentum": [0.99, 0.75, 0.50, 0.25]},
        description="any setting of a run: a list of values, or {low, high, log}",
    )
    sampler: Literal["grid", "tpe", "random"] = "grid"
    pruner: Literal["none", "median", "halving"] = "none"
    trials: int | None = Field(None, ge=1, description="trials in all (default: the grid's size, else 20)")
    seed: Seed = 25

    @model_validator(mode="after")
    def _grid_needs_lists(self) -> Self:
        ranges = [key for key, space in self.search.items() if isinstance(space, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"tune.sampler 'grid' needs a list of values for {ranges[0]}; or use 'tpe'")
        if any(isinstance(space, list) and not space for space in self.search.values()):
            raise ValueError("tune.search: a list of values is empty")
        return self


class StudyConfig(RunConfig):
    """A run's settings, and the questions that are asked with them."""

    seeds: tuple[Seed, ...] = Field((25,), min_length=1, description="one run for each, per variant")
    compare: CompareConfig = CompareConfig()
    tune: TuneConfig = TuneConfig()

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds {list(seeds)} are not all different")
        return seeds

    @model_validator(mode="after")
    def _overrides_name_settings_of_a_run(self) -> Self:
        run = self.run_config()
        for overrides in [*self.compare.variants.values(), self.tune.base]:
            override(run, overrides)
        for key, space in self.tune.search.items():
            for value in space if isinstance(space, list) else [space.low, space.high]:
                override(run, {key: value})
        return self

    def run_config(self) -> RunConfig:
        return RunConfig(**{name: getattr(self, name) for name in RunConfig.model_fields})
