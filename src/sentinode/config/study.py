"""Settings of a study: of its runs, and of the questions that are asked with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from math import prod
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from sentinode.config.fit import Seed
from sentinode.config.run import RunConfig, Scalar, Value, require_names, require_own
from sentinode.errors import ConfigError
from sentinode.settings import Section, override

_MOST_TRIALS: Final = 10_000
_MOST_VALUES: Final = 1000  # of one setting in a search
_MOST_VARIANTS: Final = 100
_MOST_SEEDS: Final = 1000
_OF_REPEATS: Final = ("fit.seed", "split.seed", "split.fold")

Variants = dict[str, dict[str, Value]]


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

    variants: Variants = Field(
        {},
        max_length=_MOST_VARIANTS,
        description="settings of each variant by its name, changed from the run's own (default: one variant)",
    )
    smallest_effect: float = Field(0.005, gt=0.0, description="smallest difference that matters, in the metric")
    replicates: int = Field(2000, ge=100, le=100_000, description="bootstrap replicates behind every interval")

    @field_validator("variants")
    @classmethod
    def _names_are_folder_names(cls, variants: Variants) -> Variants:
        require_names(variants, "variant")
        for name, settings in variants.items():
            _require_of_a_variant(settings, f"the variant {name!r}")
        return variants


class TuneConfig(Section):
    """A search over any settings of a run."""

    base: dict[str, Value] = Field({}, description="settings common to all trials")
    search: dict[str, Annotated[list[Scalar], Field(min_length=1, max_length=_MOST_VALUES)] | Range] = Field(
        min_length=1, max_length=100, description="any setting of a run: a list of values, or {low, high, log}"
    )
    sampler: Literal["grid", "tpe", "random"] = Field("grid", description="grid: lists only, every point once")
    pruner: Literal["none", "median", "halving"] = Field("none", description="stops hopeless trials early")
    trials: int | None = Field(
        None, ge=1, le=_MOST_TRIALS, description="trials in all (default: the grid's size, else 20)"
    )
    seed: int = Field(25, ge=0, lt=2**32, description="of the sampler")

    @model_validator(mode="after")
    def _a_grid_has_its_points(self) -> Self:
        ranges = [key for key, space in self.search.items() if isinstance(space, Range)]
        if self.sampler != "grid":
            return self
        if ranges:
            raise ValueError(f"tune.sampler 'grid' needs a list of values for {ranges[0]}; or use 'tpe'")
        points = prod(len(space) for space in self.search.values() if isinstance(space, list))
        if points > _MOST_TRIALS:
            raise ValueError(f"a grid of {points:,} points; {_MOST_TRIALS:,} at most, or use 'tpe' with tune.trials")
        return self

    @model_validator(mode="after")
    def _searches_what_a_run_has_of_its_own(self) -> Self:
        _require_of_a_variant({**self.base, **self.search}, "the search")
        return self


class StudyConfig(RunConfig):
    """A run's settings, and the questions to ask."""

    seeds: tuple[Seed, ...] = Field(
        (25,), min_length=1, max_length=_MOST_SEEDS, description="one run for each, per variant"
    )
    compare: CompareConfig = CompareConfig()
    tune: TuneConfig | None = Field(None, description="default: no search")

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds {list(seeds)} are not all different")
        return seeds

    def digest(self) -> str:
        """SHA-256 of the canonical settings of its runs, and of the questions."""
        questions = self.model_dump(mode="json", include={"seeds", "compare", "tune"})
        return hashlib.sha256(f"{super().digest()} {json.dumps(questions)}".encode()).hexdigest()

    def run_config(self) -> RunConfig:
        """The settings of a run, without the questions."""
        return RunConfig(**{name: getattr(self, name) for name in RunConfig.model_fields})

    def require_askable(self, questions: Collection[str]) -> None:
        """Raise ConfigError where the settings do not have what a comparison or a search needs."""
        if "compare" in questions:
            self.variants()
        if "tune" in questions:
            self.trials()

    def variants(self) -> dict[str, RunConfig]:
        """The settings of each variant; raises ConfigError where one has none of a run's, or two would be one run."""
        base, found = self.run_config(), dict[str, RunConfig]()
        names: dict[str, str] = {}
        for name, own in self.compare.variants.items():
            found[name] = override(base, own, where=f"compare.variants.{name}")
            twin = names.setdefault(found[name].digest(), name)
            if twin != name:
                raise ConfigError(
                    f"the variants {twin!r} and {name!r} have the same settings",
                    where="compare.variants",
                    remedy="Leave one of them out.",
                )
        return found

    @property
    def own_sources(self) -> dict[str, str]:
        """The digests of the sources of the networks of one's own that it or its variants name, by their names."""
        found = dict[str, str](super().own_sources)
        for config in self.variants().values():
            found |= config.own_sources
        return found

    @property
    def search(self) -> TuneConfig:
        """The search; raises ConfigError where the settings have none."""
        if self.tune is None:
            remedy = """Give one, such as --set 'tune.search={"fit.epochs"=[10, 20]}'."""
            raise ConfigError("the settings have no search", where="tune", remedy=remedy)
        return self.tune

    def trials_base(self) -> RunConfig:
        """The settings that all trials of the search share."""
        return override(self.run_config(), self.search.base, where="tune.base")

    def trials(self) -> dict[str, RunConfig]:
        """Each value of the search beside the first of the others, named such as "fit.epochs = 3"; of a range the ends.

        Raises ConfigError where one cannot be set, or where two come to the same run, also beside the others' last:
        such things are not to be learned after hours.
        """
        base, found = self.trials_base(), dict[str, RunConfig]()
        choices = {
            key: space if isinstance(space, list) else [space.low, space.high]
            for key, space in self.search.search.items()
        }
        firsts, lasts = ({key: values[at] for key, values in choices.items()} for at in (0, -1))
        for key, values in choices.items():
            seen: dict[tuple[str, ...], str] = {}
            for value in values:
                name = f"{key} = {value!r}"
                beside = [override(base, {**others, key: value}, where="tune.search") for others in (firsts, lasts)]
                found[name] = beside[0]
                if (twin := seen.setdefault(tuple(config.digest() for config in beside), name)) is not name:
                    raise ConfigError(
                        f"{twin} and {name} give the same settings",
                        where="tune.search",
                        remedy="Leave one of them out.",
                    )
        return found


def _require_of_a_variant(settings: Mapping[str, Any], whose: str) -> None:
    """Raise ValueError for settings that all variants share, or that number the repeats of each."""
    require_own(settings, whose)
    for name in settings:
        if name in _OF_REPEATS:
            raise ValueError(f"{whose} sets {name!r}, but every variant is repeated under the same `seeds` and folds")
