"""Settings in sections: frozen and checked, TOML in and out, changed by their full names; names of folders."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from sentinode.errors import ConfigError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=Section)


def parse_toml(text: str, kind: type[C], *, where: str | Path) -> C:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not valid TOML: {error}", where=where, remedy="Mend that line.") from error
    return _validated(kind, table, where)


def to_toml(config: Section) -> str:
    """Write a config as TOML that reads back as an equal config; a None is left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def reads_as(text: str, config: Section, *, where: str | Path) -> bool:
    """Whether TOML says what a config does; a setting that it does not name has its default, as in older files."""
    return to_toml(parse_toml(text, type(config), where=where)) == to_toml(config)


def override(config: C, settings: Mapping[str, Any], *, where: str | Path | None = None) -> C:
    """Put settings such as {"model.norm": "after"} over a config; returns a new, checked one.

    The word "none", like None, leaves an optional setting out; to others it is a word like any.
    """
    table = config.model_dump(mode="python", exclude_none=True)
    for key, value in settings.items():
        at = table
        section: type[BaseModel] = type(config)
        *parents, last = key.split(".")
        for part in parents:
            section = _section_at(section, part, key, where)
            at = at.setdefault(part, {})
        if last not in section.model_fields:
            raise _unknown(key, last, section, where)
        optional = type(None) in get_args(section.model_fields[last].annotation)
        at[last] = None if value == "none" and optional else value
    return _validated(type(config), table, where)


def to_flat(config: Section, prefix: str = "") -> dict[str, Any]:
    """Every setting by its full name, such as "fit.epochs"."""
    flat: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        flat |= to_flat(value, f"{prefix}{name}.") if isinstance(value, Section) else {f"{prefix}{name}": value}
    return flat


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `key.path=value` pairs; a value is TOML where it parses as such, else a plain string."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{pair!r} is no setting", where="--set", remedy="Write key.path=value.")
        try:
            value: Any = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        settings[key.strip()] = value
    return settings


def is_folder_name(name: str) -> bool:
    """Whether a name is letters, digits, '.', '_' and '-' only, so that it names a folder and leads nowhere else."""
    return bool(name) and all(c.isalnum() or c in "._-" for c in name) and not name.startswith(".")


def _section_at(model: type[BaseModel], part: str, key: str, where: str | Path | None) -> type[BaseModel]:
    field = model.model_fields.get(part)
    if field is None:
        raise _unknown(key, part, model, where)
    if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
        raise ConfigError(
            f"setting {key!r}: {part!r} is a value, not a section", where=where, remedy=f"Set {part} itself."
        )
    return field.annotation


def _unknown(key: str, part: str, model: type[BaseModel], where: str | Path | None) -> ConfigError:
    names = list(model.model_fields)
    remedy = f"Known here: {', '.join(names)}{suggestion(part, names)}"
    return ConfigError(f"unknown setting {key!r}", where=where, remedy=remedy)


def suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f". Did you mean {close[0]!r}?" if close else "."


def _validated(kind: type[C], table: Mapping[str, Any], where: str | Path | None) -> C:
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        # Of a union's errors our own say most; and a union's tags are no part of the setting's name.
        first = max(error.errors(), key=lambda found: found["type"] == "value_error")
        path = [str(part) for part in first["loc"] if str(part) not in ("Range", "list[union[bool,int,float,str]]")]
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            section: type[BaseModel] = kind
            for part in path[:-1]:
                section = _section_at(section, part, key, where)
            raise _unknown(key, path[-1], section, where) from error
        problem = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict | BaseModel) else f" (given: {first['input']!r})"
        place = f"setting {key!r}: " if key else ""
        raise ConfigError(f"{place}{problem}{given}", where=where, remedy="Mend that setting.") from error
