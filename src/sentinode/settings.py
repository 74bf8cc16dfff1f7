"""Settings in sections: frozen and checked, TOML in and out, changed by their full names; names of folders.

A section may be of several kinds, and a setting in it, such as `kind` or `architecture`, names one: each kind has the
settings that do something there and no others. What belongs to another kind is refused where it was asked for; where an
override changed the kind under it, it goes.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from sentinode.errors import ConfigError
from sentinode.files import needs_utf8

_LARGEST_FILE: Final = 2**20  # bytes
_LONGEST_LINE: Final = 10_000  # letters; a longer one is a nest, a key or a number that no reader of TOML copes with
_DEEPEST: Final = 16
_LONGEST_NAME: Final = 80
_SHOWN: Final = 60  # letters of a value or name in a message
_WORD: Final = re.compile(r"[\w.-]+")
_LIST_OF_WORDS: Final = re.compile(rf"\[\s*{_WORD.pattern}(\s*,\s*{_WORD.pattern})*\s*\]")


class Section(BaseModel):
    """Settings that belong together; numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def misplaced(cls, _table: Mapping[str, Any], /) -> dict[str, str]:
        """The settings of a table that do nothing beside its others, by name below the section: what they belong to."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _has_nothing_misplaced(cls, table: Any) -> Any:
        for name, home in cls.misplaced(table).items() if isinstance(table, Mapping) else ():
            raise ValueError(f"{name} belongs to {home}")
        return table

    @field_validator("*")
    @classmethod
    def _can_be_kept(cls, value: Any) -> Any:
        """Settings are kept as TOML, which is UTF-8; a file name need not be."""
        if isinstance(value, str | Path) and not _is_unicode(str(value)):
            if _was_utf8(str(value)):
                raise ValueError(f"cannot be kept: {needs_utf8()}; set PYTHONUTF8=1")
            raise ValueError("is not UTF-8, in which settings are kept; rename the file or its directory")
        return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _was_utf8(text: str) -> bool:
    """Whether it was UTF-8 before the locale of this process made letters of it that stand for bytes."""
    try:
        return bool(os.fsencode(text).decode("utf-8"))
    except UnicodeError:
        return False


C = TypeVar("C", bound=Section)


def read_toml(path: Path, kind: type[C]) -> C:
    """Settings from a file of at most 1 MiB; raises ConfigError for anything that is not one."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError("is not a regular file", where=path, remedy="Give a TOML file.")
        if found.st_size > _LARGEST_FILE:
            told = f"holds {found.st_size:,} bytes; settings take {_LARGEST_FILE:,} at most"
            raise ConfigError(told, where=path, remedy="Give a TOML file of settings.")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read ({error})", where=path, remedy="Give a TOML file.") from error
    return parse_toml(text, kind, where=path)


def parse_toml(text: str, kind: type[C], *, where: str | Path) -> C:
    return _validated(kind, _settled(kind, _parsed(text, where), _Asked(kind, None, where)), where)


def to_toml(config: Section) -> str:
    """Write a config as TOML that reads back as an equal config; a None is left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def override(config: C, settings: Mapping[str, Any], *, where: str | Path | None = None) -> C:
    """Change settings of a config, such as {"model.norm": "after"}; returns a new, checked config.

    A setting that changes the kind of a section keeps what both kinds share, and drops the rest. The word "none", like
    None, removes an optional setting or section; for other settings it is ordinary text.
    """
    table, asked = config.model_dump(mode="python", exclude_none=True), _Asked(type(config), frozenset(settings), where)
    for name, value in settings.items():
        at = table
        *parents, last = name.split(".")
        for part in parents:
            inner = at.get(part)
            at[part] = at = {} if inner is None or inner == "none" else inner
            if not isinstance(at, dict):
                raise asked.no_section(name, part)
        at[last] = value
    return _validated(type(config), _settled(type(config), table, asked), where)


def to_flat(config: Section, prefix: str = "") -> dict[str, Any]:
    """Every setting as a plain value by its full name, such as "fit.epochs"; a section that is left out is None."""
    flat: dict[str, Any] = {}
    plain = config.model_dump(mode="json")
    for name in type(config).model_fields:
        value = getattr(config, name)
        flat |= to_flat(value, f"{prefix}{name}.") if isinstance(value, Section) else {f"{prefix}{name}": plain[name]}
    return flat


def short_name(name: str) -> str:
    """The last part of a setting's full name that says something: "norm" of "model.norm", "average" of its kind."""
    *parents, last = name.split(".")
    return parents[-1] if last == "kind" and parents else last


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `key.path=value` pairs; a value is TOML where it parses as such, else a plain string."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name, text = name.strip(), text.strip()
        if not equals or not name:
            raise ConfigError(f"{_shown(pair)} is not a setting", where="--set", remedy="Write key.path=value.")
        if any(letter < " " for letter in pair.strip()):
            told = f"{_shown(pair)} holds a line break or another control character"
            raise ConfigError(told, where="--set", remedy="Give each setting a --set of its own.")
        settings[name] = _value(text)
    return settings


def is_folder_name(name: str) -> bool:
    """Whether a name is letters, digits, '.', '_' and '-' only, so that it names a folder and leads nowhere else."""
    return 0 < len(name) <= _LONGEST_NAME and all(c.isalnum() or c in "._-" for c in name) and not name.startswith(".")


def folder_name(words: str) -> str:
    """A folder's name that tells the words; where it cannot hold them all, their digest keeps it apart."""
    safe = "".join(c if is_folder_name(f"a{c}") else "_" for c in words).lstrip(".")
    if safe == words and len(words) <= _LONGEST_NAME:
        return words
    return f"{safe[: _LONGEST_NAME - 9]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:_SHOWN], list(known), n=1)
    return f". Did you mean {close[0]!r}?" if close else "."


def kinds(field: FieldInfo) -> list[type[Section]]:
    """The kinds of section that a setting can be; none for a plain value."""
    return list(_sections(field.annotation))


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType):
        for inner in get_args(annotation):
            yield from _sections(inner)


def kind_names(section: type[Section], field: FieldInfo) -> tuple[str, ...]:
    """What the setting that tells a section's kinds apart says of this one."""
    return get_args(section.model_fields[str(field.discriminator)].annotation)


def _parsed(text: str, where: str | Path) -> dict[str, Any]:
    longest = max(map(len, text.splitlines()), default=0)
    if longest > _LONGEST_LINE:
        raise ConfigError(
            f"has a line of {longest:,} letters; settings take {_LONGEST_LINE:,} at most",
            where=where,
            remedy="Break this line.",
        )
    try:
        table = tomllib.loads(text)
        _require_modest(table, 0)
    except RecursionError as error:
        raise ConfigError("is nested too deeply", where=where, remedy="Give plain settings.") from error
    except ValueError as error:
        raise ConfigError(f"is not valid TOML: {error}", where=where, remedy="Correct this line.") from error
    return table


def _require_modest(value: Any, depth: int) -> None:
    """Raise ValueError for what TOML allows a reader to refuse, or for nests in which no setting lies."""
    if depth > _DEEPEST:
        raise ValueError(f"values are nested more than {_DEEPEST} deep")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("an integer has more than 64 bits")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _require_modest(inner, depth + 1)


def _value(text: str) -> Any:
    """One TOML value, or the text itself; inside a list, too, so that no comment or comma drops a part of it.

    A list of plain words is one of texts: a shell takes the quotes of ['blank'].
    """
    try:
        alone, listed = _parsed(f"value = {text}", "--set"), _parsed(f"value = [{text}]", "--set")
    except ConfigError:
        return _WORD.findall(text) if _LIST_OF_WORDS.fullmatch(text) else text
    return alone["value"] if listed["value"] == [alone["value"]] or alone["value"] != alone["value"] else text


@dataclass(frozen=True)
class _Asked:
    """What was asked for: of which settings, by which full names (None: by all of a table), and where."""

    root: type[Section]
    given: frozenset[str] | None
    where: str | Path | None

    def as_given(self, name: str) -> str | None:
        """The name under which a setting was asked for, itself or by a part of it; None where it was not."""
        if self.given is None or any(f"{name}.".startswith(f"{each}.") for each in self.given):
            return name
        return next((each for each in self.given if each.startswith(f"{name}.")), None)

    def belongs(self, name: str, home: str) -> ConfigError:
        told = f"setting {name!r} belongs to {home}"
        return ConfigError(told, where=self.where, remedy="Leave it out, or set that too.")

    def no_section(self, name: str, part: str) -> ConfigError:
        told = f"setting {_shown(name)}: {_shown(part)} is a value, not a section"
        return ConfigError(told, where=self.where, remedy=f"Set {_shown(part)} itself.")

    def unknown(self, prefix: str, name: str, section: type[Section]) -> ConfigError:
        """With the names that there are, and the likeliest: the same name elsewhere, a like one here, or elsewhere."""
        here = list(section.model_fields)
        everywhere = {full.rpartition(".")[2]: full for full in reversed(list(_names(self.root)))}
        meant = suggestion(name, here)
        if name in everywhere:
            meant = f". Did you mean {everywhere[name]!r}?"
        elif meant == "." and (close := difflib.get_close_matches(name[:_SHOWN], everywhere, n=1)):
            meant = f". Did you mean {everywhere[close[0]]!r}?"
        told = f"unknown setting {_shown(prefix + name)}"
        return ConfigError(told, where=self.where, remedy=f"Known here: {', '.join(here)}{meant}")


def _names(section: type[Section], prefix: str = "") -> Iterator[str]:
    """The full names of all settings and sections of every kind."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        for inner in kinds(field):
            yield from _names(inner, f"{prefix}{name}.")


def _settled(kind: type[Section], table: Mapping[str, Any], asked: _Asked, prefix: str = "") -> dict[str, Any]:
    """The table without what has no place in a section of this kind; raises ConfigError where that was asked for."""
    settled = {name: value for name, value in table.items() if not _is_left_out(kind.model_fields.get(name), value)}
    for name, home in kind.misplaced(settled).items():
        if told := asked.as_given(prefix + name):
            raise asked.belongs(told, home)
        *parents, last = name.split(".")
        at = settled
        for part in parents:
            at[part] = at = dict(at[part])
        at.pop(last, None)
    for name, value in settled.items():
        field = kind.model_fields.get(name)
        if field is None:
            raise asked.unknown(prefix, name, kind)
        full, sections = prefix + name, kinds(field)
        if not sections:
            if deeper := [each for each in asked.given or () if each.startswith(f"{full}.")]:
                raise asked.no_section(deeper[0], name)
        elif isinstance(value, Mapping):
            settled[name] = _section(field, sections, dict(value), asked, full)
        elif not isinstance(value, Section):
            one = f"{full}.{field.discriminator or next(iter(sections[0].model_fields))}"
            raise ConfigError(
                f"setting {full!r} is a section, not a value (given: {_shown(value)})",
                where=asked.where,
                remedy=f"Set {one}, say.",
            )
    return settled


def _section(
    field: FieldInfo, sections: list[type[Section]], table: dict[str, Any], asked: _Asked, full: str
) -> dict[str, Any]:
    """The table of a section in the kind that it names, or in the default's; without what belongs to other kinds."""
    if len(sections) == 1:
        return _settled(sections[0], table, asked, f"{full}.")
    tag = str(field.discriminator)
    usual = sections[0] if field.default is None else type(field.default)
    named = table.setdefault(tag, usual.model_fields[tag].default)
    names = {name: section for section in sections for name in kind_names(section, field)}
    if not isinstance(named, str) or named not in names:
        *others, last = map(repr, names)
        raise ConfigError(
            f"setting '{full}.{tag}': should be {', '.join(others)} or {last} (given: {_shown(named)})",
            where=asked.where,
            remedy=f"Choose one of them{suggestion(str(named), names)}",
        )
    chosen = names[named]
    for name in [name for name in table if name not in chosen.model_fields]:
        homes = [repr(each) for each, section in names.items() if name in section.model_fields]
        if homes and (told := asked.as_given(f"{full}.{name}")):
            raise asked.belongs(told, f"{full}.{tag} = {' or '.join(homes)}, not {named!r}")
        if homes:
            del table[name]
    return _settled(chosen, table, asked, f"{full}.")


def _is_left_out(field: FieldInfo | None, value: Any) -> bool:
    if field is None or type(None) not in get_args(field.annotation):
        return False
    return value is None or (isinstance(value, str) and value == "none")


def _shown(value: Any) -> str:
    """A value as it is told in a message: on one line, and not at any length."""
    told = repr(value)
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}…"


def _validated(kind: type[C], table: Mapping[str, Any], where: str | Path | None) -> C:
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        # Of a union's errors our own say most.
        first = max(error.errors(), key=lambda found: found["type"] == "value_error")
        name = _name_of(kind, first["loc"])
        problem = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        is_table = isinstance(first["input"], dict | BaseModel)
        given = "" if is_table else f" (given: {_shown(first['input'])})"
        place = f"setting {name!r}: " if name else ""
        raise ConfigError(f"{place}{problem}{given}", where=where, remedy="Change this setting.") from error


def _name_of(kind: type[Section], location: Iterable[str | int]) -> str:
    """A setting's full name from the place of pydantic's error, which also names kinds of sections and of values."""
    name: list[str] = []
    fields: Mapping[str, FieldInfo] = kind.model_fields
    names: dict[str, type[Section]] = {}
    keyed = False
    for part in location:
        if part in names:
            fields, names = names[str(part)].model_fields, {}
        elif part in fields:
            name.append(str(part))
            field = fields[str(part)]
            sections = kinds(field)
            fields = sections[0].model_fields if len(sections) == 1 else {}
            names = {each: s for s in sections for each in kind_names(s, field)} if len(sections) > 1 else {}
            keyed = not sections
        elif isinstance(part, int) or keyed:
            name.append(str(part))
            keyed = False
    return ".".join(name)
