"""Settings of a study from a file, and the presets that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError
from sentinode.settings import parse_toml, read_toml, suggestion

PRESETS = ("quick", "seed", "fair", "strong", "strong-gpu", "brisk", "swift")


def load_preset(name: str) -> StudyConfig:
    """Read one of the presets that come with the package, one of `PRESETS`."""
    if name not in PRESETS:
        raise ConfigError(
            f"unknown preset {name!r}",
            remedy=f"Choose one of {', '.join(PRESETS)}{suggestion(name, PRESETS)}",
        )
    text = resources.files("sentinode").joinpath(f"presets/{name}.toml").read_text(encoding="utf-8")
    return parse_toml(text, StudyConfig, where=f"preset {name}")


def load_config(path: Path) -> StudyConfig:
    """Read the settings of a run or study from a TOML file; settings that are left out have their defaults."""
    return read_toml(path, StudyConfig)
