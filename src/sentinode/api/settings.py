"""What a user can ask of a study's settings, before anything is read or trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from sentinode.config.run import OwnModel, RunConfig
from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError
from sentinode.models.own import Recipes
from sentinode.settings import override
from sentinode.studies.variants import resolve_variants

_Settings = TypeVar("_Settings", RunConfig, StudyConfig)


def with_variants(config: StudyConfig, names: Iterable[str], *, beside: int = 0) -> StudyConfig:
    """The config with other variants to compare, named as on the command line; ConfigError for unknown ones.

    `beside` is the number of the user's own networks that are compared too.
    """
    asked = override(config, {"compare.variants": resolve_variants(names, config, beside=beside)})
    asked.variants()
    return asked


def with_own_network(config: _Settings, own: Recipes) -> _Settings:
    """The config with the network of the user's own that was given; of several, with those that it names."""
    match own.known:
        case []:
            return config
        case [only]:
            return override(config, only.settings)
        case _ if isinstance(config.model, OwnModel) and (named := own.called(config.model.name)):
            return override(config, named.settings)
        case _:
            raise ConfigError(
                f"{len(own.known)} networks were given, and model.name names none of them",
                where="network",
                remedy="Give one; compare takes several, each as a variant.",
            )


def with_own_variants(config: StudyConfig, own: Recipes) -> StudyConfig:
    """The config with each network of the user's own as one more variant, under its name."""
    variants = dict(config.compare.variants)
    for recipe in own.known:
        if variants.get(recipe.name, recipe.settings) != recipe.settings:
            raise ConfigError(
                f"a variant is called {recipe.name!r} already", where="network", remedy="Give it another name."
            )
        variants[recipe.name] = dict(recipe.settings)
    return override(config, {"compare.variants": variants}) if own.known else config


def with_seeds(config: StudyConfig, seeds: int) -> StudyConfig:
    """The config with this many consecutive seeds, beginning with its first."""
    first = config.seeds[0]
    return override(config, {"seeds": list(range(first, first + seeds))})
