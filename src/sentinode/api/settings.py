"""What a user can ask of a study's settings, before anything is read or trained."""

from __future__ import annotations

from collections.abc import Iterable

from sentinode.config import StudyConfig
from sentinode.experiments.variants import resolve_variants
from sentinode.settings import override


def with_variants(config: StudyConfig, names: Iterable[str]) -> StudyConfig:
    """The config with other variants to compare, named as on the command line; ConfigError for what are none."""
    asked = override(config, {"compare.variants": resolve_variants(names, config)})
    asked.variants()
    return asked


def with_seeds(config: StudyConfig, seeds: int) -> StudyConfig:
    """The config with so many seeds, from its first on."""
    first = config.seeds[0]
    return override(config, {"seeds": list(range(first, first + seeds))})
