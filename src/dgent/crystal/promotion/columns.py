"""From the fields of a contract to the columns of a table: the form of a value in JSON decides, as crystals have it.

| in the contract | in the model | | in the contract | in the model |
|---|---|---|---|---|
| str, Ref | Text | | Enum, Literal of texts | Enum, with a check |
| int, Enum or Literal of numbers | BigInteger | | list, tuple, set, Sequence | JSONList |
| bool, float, date, time, timedelta, UUID, bytes | the type of that name | | dict, dataclass, model | JSONDict |
| Decimal, datetime | ExactDecimal, UTCDateTime | | what can be more than one of these | JSON |
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin, is_typeddict
from uuid import UUID

from pydantic import BaseModel, RootModel
from typing_extensions import TypeAliasType

from dgent.crystal.crystal import Ref
from dgent.exceptions import InvalidSchema

if TYPE_CHECKING:
    from dgent.crystal.schema import Schema

_NOTHING: Final = object()
_INT64: Final = range(-(2**63), 2**63)
_EMPTY: Final = (list, dict, set, tuple, frozenset)
TAGS: Final = "tags"


class Kind(NamedTuple):
    """What a column is made of, as source text.

    Attributes:
        annotation: the Python type of its values.
        model: its type in the model, empty where the annotation says it.
        revision: its type in the revision, where TEXT, TIME, JSON and EXACT are names.
        labels: the texts that it takes, where it takes no others.
    """

    annotation: str
    model: str
    revision: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One field as a column.

    Attributes:
        default: the source text of what a new row has; empty for nothing.
        least: how short an indexed text may be.
    """

    name: str
    kind: Kind
    nullable: bool
    default: str = ""
    least: int = 0


TEXT: Final = Kind("str", "", "TEXT")
BIG: Final = Kind("int", "BigInteger", "sa.BigInteger()")
BOOL: Final = Kind("bool", "", "sa.Boolean()")
REAL: Final = Kind("float", "", "sa.Double()")
BYTES: Final = Kind("bytes", "", "sa.LargeBinary()")
ANY: Final = Kind("Any", "JSON()", "JSON")
DICT: Final = Kind("dict[str, Any]", "JSONDict", "JSON")
_SCALARS: Final[dict[Any, Kind]] = {
    str: TEXT,
    int: BIG,
    bool: BOOL,
    float: REAL,
    bytes: BYTES,
    Decimal: Kind("Decimal", "ExactDecimal()", "EXACT"),
    datetime: Kind("datetime", "", "TIME"),
    date: Kind("date", "", "sa.Date()"),
    time: Kind("time", "", "sa.Time()"),
    timedelta: Kind("timedelta", "", "sa.Interval()"),
    UUID: Kind("UUID", "", "sa.Uuid()"),
}
_ITEMS: Final = (str, int, bool, float)
"""What looks in a JSON list as it does in Python."""


def columns_of(schema: Schema[Any]) -> list[Column]:
    """Return the columns that the fields of a contract become, in their order; `tags` is one of the mixin.

    Raises:
        InvalidSchema: `tags` are no texts, or a text that a field can be is one that no database keeps.
    """
    found = []
    defaults = _defaults(schema.contract)
    for name, annotation in schema.fields.items():
        if name == TAGS:
            _check_tags(schema, annotation)
            continue
        types = _alternatives(annotation)
        some = types - {NoneType}
        kind = _kind(next(iter(some))) if len(some) == 1 else ANY
        _check_labels(schema, name, kind)
        nullable = NoneType in types or not some or any(_can_be_none(each) for each in some)
        least = int(any(get_origin(each) is Ref or each is Ref for each in some))
        found.append(Column(name, kind, nullable, _default(defaults.get(name, _NOTHING), kind), least))
    return found


def _alternatives(annotation: Any) -> set[Any]:
    """Return what a value can be: the members of a union, seen through aliases and `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if isinstance(annotation, TypeAliasType):
        return _alternatives(annotation.__value__)
    if hasattr(annotation, "__supertype__"):
        return _alternatives(annotation.__supertype__)
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _alternatives(annotation.model_fields["root"].annotation)
    if origin in {Union, UnionType}:
        return set().union(*(_alternatives(each) for each in get_args(annotation)))
    if origin is Literal and None in get_args(annotation):
        rest = tuple(each for each in get_args(annotation) if each is not None)
        return {NoneType, Literal[rest]} if rest else {NoneType}
    return {annotation}


def _kind(annotation: Any) -> Kind:
    origin = get_origin(annotation)
    if origin is Literal:
        return _labelled([each.value if isinstance(each, enum.Enum) else each for each in get_args(annotation)])
    plain = origin or annotation
    if plain in _SCALARS:
        return _SCALARS[plain]
    if not isinstance(plain, type):
        return ANY
    if issubclass(plain, enum.Enum):
        return _labelled([each.value for each in plain])
    if issubclass(plain, str):
        return TEXT
    if is_typeddict(plain) or is_dataclass(plain) or issubclass(plain, BaseModel | Mapping):
        return DICT
    if issubclass(plain, Sequence | Set) and plain is not bytearray:
        return Kind(f"list[{_item(get_args(annotation))}]", "JSONList", "JSON")
    return ANY


def _labelled(values: list[Any]) -> Kind:
    """Return the kind of a column that takes these values alone."""
    kinds = {type(each) for each in values}
    if kinds == {str} and any(values):
        return Kind("str", "Enum", "sa.Enum", tuple(dict.fromkeys(values)))
    return _SCALARS[kinds.pop()] if kinds in ({int}, {bool}, {str}) else ANY


def _item(arguments: tuple[Any, ...]) -> str:
    """Return the source of the type of the items of a list."""
    items = {each for each in arguments if each is not Ellipsis}
    only = items.pop() if len(items) == 1 else None
    return only.__name__ if only in _ITEMS else "Any"


def _can_be_none(annotation: Any) -> bool:
    """Tell whether a value may be None though nothing says so."""
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return any(each.value is None for each in annotation)
    return _kind(annotation) is ANY and get_origin(annotation) is not Literal


def _defaults(contract: type[Any]) -> dict[str, Any]:
    """Return what the contract says for a field that is left out."""
    is_model = issubclass(contract, BaseModel)
    known: Any = contract.model_fields if is_model else {each.name: each for each in fields(contract)}
    return {
        name: each.default_factory() if any(each.default_factory is empty for empty in _EMPTY) else each.default
        for name, each in known.items()
    }


def _default(value: Any, kind: Kind) -> str:
    """Return the source of a default that a row has as well: a plain value, or an empty list or dict."""
    if isinstance(value, enum.Enum):
        value = value.value
    if kind.model in {"JSONList", "JSONDict"}:
        return kind.annotation.partition("[")[0] if isinstance(value, Collection) and not value else ""
    if kind is REAL and type(value) is int:
        value = float(value)
    fits = {"str": str, "int": int, "bool": bool, "float": float}.get(kind.annotation)
    if fits is None or type(value) is not fits or not _storable(value, kind):
        return ""
    return quoted(value) if isinstance(value, str) else repr(value)


def _storable(value: Any, kind: Kind) -> bool:
    if isinstance(value, str):
        return value in kind.labels if kind.labels else _is_text(value)
    return math.isfinite(value) if isinstance(value, float) else value in _INT64


def _check_tags(schema: Schema[Any], annotation: Any) -> None:
    types = _alternatives(annotation)
    if not types <= {tuple[str, ...], list[str], set[str], frozenset[str]}:
        raise InvalidSchema(
            f"{schema.name}: the tags of a row are texts, tuple[str, ...]: rename the field, "
            f"with a migration to version {schema.version + 1}"
        )


def _check_labels(schema: Schema[Any], name: str, kind: Kind) -> None:
    if not all(_is_text(label) for label in kind.labels):
        raise InvalidSchema(
            f"{schema.name}: {name} can be a text with NUL or a lone surrogate, which no column keeps: "
            f"change the text, with a migration to version {schema.version + 1}"
        )


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


def quoted(text: str) -> str:
    """Return the source of a text, in double quotes where it holds neither kind."""
    source = repr(text)
    return source if '"' in source or "'" in source[1:-1] else f'"{source[1:-1]}"'
