"""What a user names as a variant -> the few settings that it puts over the base."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Final

from sentinode.config.presets import PRESETS, load_config, load_preset
from sentinode.config.run import SHARED, RunConfig, Value
from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError
from sentinode.settings import folder_name, override, parse_settings, short_name, to_flat

# Variants are compared on the same patches, so what chooses patches is always the base's.
_OF_THE_BASE: Final = (*SHARED, "balance", "sample", "split")


def resolve_variants(names: Iterable[str], base: StudyConfig, *, beside: int = 0) -> dict[str, dict[str, Value]]:
    """Settings by variant name.

    A name is one of the base's own variants ("before"), a preset, a TOML file, or settings such as
    "model.norm=after,fit.epochs=5". Of a preset or a file only what differs from the base counts,
    what chooses patches and what all variants share left aside. Raises ConfigError for anything else, and for fewer
    than two together with those that there will be `beside` them.
    """
    variants: dict[str, dict[str, Value]] = {}
    for name in names:
        if name in base.compare.variants:
            label, settings = name, dict(base.compare.variants[name])
        elif name in PRESETS:
            label, settings = name, differences(base.run_config(), load_preset(name).run_config())
        elif name.endswith(".toml"):
            other = load_config(Path(name)).run_config()
            label, settings = Path(name).stem, differences(base.run_config(), other)
        elif "=" in name:
            settings = parse_settings(_parted(name))
            override(base.run_config(), settings, where="--variants")
            # Of a path its last part, for a variant's name is a folder's.
            label = folder_name("-".join(f"{short_name(k)}-{PurePath(str(v)).name or v}" for k, v in settings.items()))
        else:
            known = ", ".join([*base.compare.variants, *PRESETS])
            raise ConfigError(
                f"unknown variant {name!r}",
                where="--variants",
                remedy=f"Give one of {known}, a TOML file, or settings such as model.norm=after.",
            )
        if label in variants:
            raise ConfigError(f"two variants are called {label!r}", where="--variants", remedy="Rename one of them.")
        variants[label] = settings
    if len(variants) + beside < 2:
        raise ConfigError("one variant alone cannot be compared", where="--variants", remedy="Give two or more.")
    return variants


def _parted(settings: str) -> list[str]:
    """Settings such as "a=1,b=[2,3]" at the commas that are inside no list and no table."""
    parts, depth = [""], 0
    for letter in settings:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def differences(base: RunConfig, other: RunConfig) -> dict[str, Value]:
    """The settings, such as "fit.epochs", in which `other` differs from `base`; "none" for what is left out."""
    before, absent = to_flat(base), object()
    return {
        key: "none" if value is None else value
        for key, value in to_flat(other).items()
        if before.get(key, absent) != value and key.split(".")[0] not in _OF_THE_BASE
    }
