"""Every setting in one document, docs/settings.md, made from the settings themselves.

python docs/reference.py > docs/settings.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from sentinode.config.run import RunConfig
from sentinode.config.study import StudyConfig
from sentinode.settings import Section, kind_names, kinds

_HEAD: Final = """# Settings

Every setting there is; `python docs/reference.py` writes this page. A file has them in TOML;
`--set NAME=VALUE` and variants have them by their full names, such as `fit.augment.stain_jitter`. A section that
comes in kinds has only the settings of the kind that it names. What belongs to another kind is refused, and so is what
is misspelt. `none` leaves out what can be left out. Numbers are finite.
"""
_BOUNDS: Final = {"ge": "{} or more", "gt": "above {}", "le": "up to {}", "lt": "below {}"}
_WORDS: Final = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "file", Any: "any"}


def reference() -> str:
    """The document, in Markdown."""
    of_study = {name: field for name, field in StudyConfig.model_fields.items() if name not in RunConfig.model_fields}
    lines = [_HEAD, "## A run\n", *_fields("", RunConfig.model_fields)]
    lines += ["## A study\n", "A run's settings, and:\n", *_fields("", of_study)]
    return "\n".join(lines).rstrip() + "\n"


def _fields(prefix: str, fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    """A table of the plain settings, then the sections, each with its own."""
    plain = {name: field for name, field in fields.items() if not kinds(field)}
    if plain:
        yield from _table([(f"{prefix}{name}", field, "") for name, field in plain.items()])
    for name, field in fields.items():
        if kinds(field):
            yield from _section(f"{prefix}{name}", field)


def _section(name: str, field: FieldInfo) -> Iterator[str]:
    sections = kinds(field)
    left_out = f" Left out: {(field.description or '').removeprefix('default: ')}." if field.default is None else ""
    yield f"### `{name}`\n"
    if len(sections) == 1:
        yield f"{_said(sections[0])}{left_out}\n"
        yield from _fields(f"{name}.", sections[0].model_fields)
        return
    tag = str(field.discriminator)
    names = {section: " or ".join(f'`"{kind}"`' for kind in kind_names(section, field)) for section in sections}
    for section, told in names.items():
        usual = sections[0] if field.default is None else type(field.default)
        default = f" (default: `{json.dumps(section.model_fields[tag].default)}`)" if section is usual else ""
        note = section.model_fields[tag].description
        yield f"- `{tag}` = {told}{default}: {_said(section)}{f' {note}.' if note else ''}"
    yield f"\n{left_out.strip()}\n" if left_out else ""
    every: dict[str, FieldInfo] = {}
    for section in sections:
        every |= {inner: of for inner, of in section.model_fields.items() if inner not in every}
    rows = []
    for inner, of in every.items():
        having, others = ([names[s] for s in sections if (inner in s.model_fields) == has] for has in (True, False))
        of_kinds = min(" or ".join(having), f"not {' or '.join(others)}", key=len) if others else ""
        if inner != tag and not kinds(of):
            rows.append((f"{name}.{inner}", of, of_kinds))
    yield from _table(rows, tag)
    for inner, of in every.items():
        if kinds(of):
            yield from _section(f"{name}.{inner}", of)


def _table(rows: list[tuple[str, FieldInfo, str]], tag: str = "") -> Iterator[str]:
    """The rows' names, kinds where a section has several, defaults, values and descriptions."""
    if not rows:
        return
    head = ["setting", *([f"with `{tag}`"] if tag else []), "default", "values", ""]
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for name, field, of_kinds in rows:
        cells = [f"`{name}`", *([of_kinds] if tag else []), _default(field), _values(field), field.description or ""]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _said(section: type[Section]) -> str:
    return (section.__doc__ or "").partition("\n\n")[0].strip().replace("\n    ", " ")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    return "" if field.default is None else f"`{json.dumps(field.default)}`"


def _values(field: FieldInfo) -> str:
    return f"{_type(field.annotation)}{_bounds(field.metadata)}"


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), [each for each in get_args(annotation) if each is not NoneType]
    if origin is Annotated:
        return f"{_type(inner[0])}{_bounds(inner[1].metadata if isinstance(inner[1], FieldInfo) else inner[1:])}"
    if origin is Literal:
        return ", ".join(f"`{json.dumps(each)}`" for each in inner)
    if origin in (Union, UnionType) and dict[str, Any] in inner:
        return "value"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_type, inner)))
    if origin in (list, tuple):
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"table of {_type(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"{{{', '.join(annotation.model_fields)}}}"
    return _WORDS[annotation]


def _bounds(metadata: Any) -> str:
    told = [
        text.format(_number(value))
        for each in metadata
        for bound, text in _BOUNDS.items()
        if (value := getattr(each, bound, None)) is not None
    ]
    return f", {', '.join(told)}" if told else ""


def _number(value: float) -> str:
    if isinstance(value, int) and value >= 2**16 and value.bit_count() == 1:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


if __name__ == "__main__":
    sys.stdout.write(reference())
