"""Records: dataclasses that are kept as JSON, all written and read in one way.

A file has the fields of its type and the `version` of all records. A number that is not finite, for which JSON has no
word, is null: where a field can hold one, its type says `Number` or `Numbers`, and null is read as NaN. What does not
fit its type, exactly, is refused in one line that names the file and the place in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import numpy as np
from pydantic import BeforeValidator, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from sentinode.artefacts import write_json
from sentinode.errors import RunError
from sentinode.files import read_bytes

VERSION: Final = 1
"""Of all records; a change that makes older ones mean something else raises it."""
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that may be undefined or unknown."""
_Record = TypeVar("_Record")
_LARGEST_MB: Final = 256  # a hundred times the largest of a study of all patches
_REMEDY: Final = "Restore it, or give the command that wrote it again."


_adapter: Callable[[Any], Any] = cache(TypeAdapter)


class Numbers:
    """Makes a field that is annotated as an array, of whole numbers or of others, a list in the file.

    digits: so many are kept behind the point.
    """

    def __init__(self, *, digits: int | None = None) -> None:
        self.digits = digits

    def __get_pydantic_core_schema__(self, source: Any, _: GetCoreSchemaHandler) -> CoreSchema:
        whole = "int64" in source.dtypes
        kind = np.int64 if whole else np.float64
        return core_schema.no_info_after_validator_function(
            lambda values: np.array(values, kind),
            core_schema.list_schema(core_schema.int_schema() if whole else TypeAdapter(Number).core_schema),
            serialization=core_schema.plain_serializer_function_ser_schema(self._listed),
        )

    def _listed(self, array: np.ndarray) -> list[Any]:
        listed: list[Any] = (array if self.digits is None else np.round(array, self.digits)).tolist()
        return listed


def write_record(path: Path, record: Any) -> None:
    """Save a dataclass, or a model of pydantic's; raises StorageError."""
    write_json(path, {"version": VERSION, **plain(record)})


def plain(record: Any) -> dict[str, Any]:
    """The fields of a record in the types of JSON, but for numbers that are not finite."""
    fields: dict[str, Any] = _adapter(type(record)).dump_python(record, mode="json", warnings="error")
    return fields


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """The record that `write_record` saved; raises RunError for any other file, and for a record of another version."""
    return parse_record(read_bytes(path, limit_mb=_LARGEST_MB, remedy=_REMEDY, kind=RunError), kind, path)


def parse_record(content: bytes, kind: type[_Record], path: Path) -> _Record:
    """The record in the content of a file; raises as `read_record`."""
    try:
        version = _adapter(_Versioned).validate_json(content, strict=True).version
        if version == VERSION:
            record: _Record = _adapter(kind).validate_json(content, strict=True)
            return record
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RunError(
            f"is not a record of this version ({f'{place}: ' if place else ''}{first['msg']})",
            where=path,
            remedy=_REMEDY,
        ) from error
    raise RunError(
        f"is a record of version {version}, where version {VERSION} is read",
        where=path,
        remedy="Read it with the sentinode that wrote it, or give the command that wrote it again.",
    )


@dataclass(frozen=True)
class _Versioned:
    version: int
