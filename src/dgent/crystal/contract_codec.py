"""How a value of a contract becomes JSON, and comes back as it was or is refused."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from typing_extensions import TypeAliasType

from dgent.error_messages import wrong_at
from dgent.exceptions import InvalidCrystal, InvalidSchema

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_CONFIG: Final = ConfigDict(
    strict=True,
    extra="forbid",  # a field that the contract does not know would be lost without a word
    allow_inf_nan=False,
    ser_json_bytes="base64",
    val_json_bytes="base64",
)
NOT_JSON: Final = (PydanticSerializationError, UnicodeError, ValueError, TypeError, RecursionError)
_PLAIN: Final = frozenset({str, int, NoneType, bytes, UUID, date, timedelta})
"""Types that equal nothing of another type, but for those that `comparable` marks."""
_FIRST: Final = datetime.min  # noqa: DTZ901  # what is left of a datetime without its zone


class ContractCodec(Generic[T]):
    """Values of one contract as JSON. pydantic models follow their own config, all else is strict and loses nothing.

    Args:
        contract: a frozen dataclass or a pydantic model. name: how messages call it.

    Raises:
        InvalidSchema: a field has a type that pydantic does not know.
    """

    def __init__(self, contract: type[T], name: str) -> None:
        self._contract, self._name = contract, name
        try:
            # pydantic gives no config to a dataclass from outside; behind an alias it does, to nested ones as well.
            alias = TypeAliasType("alias", contract)  # type: ignore[valid-type]
            self._adapter: TypeAdapter[T] = TypeAdapter(alias, config=_CONFIG)
            if not self._adapter.pydantic_complete:  # a name that is not defined yet is otherwise an error at first use
                self._adapter.rebuild(raise_errors=True)
        except PydanticUserError as error:
            raise InvalidSchema(
                f"{name}: {contract.__name__} has a field with no form in JSON: {error.message}"
            ) from None
        except NameError as error:
            raise InvalidSchema(f"{name}: {contract.__name__} names {error.name}, which is not defined") from None
        # Past a wrapper that costs a fifth of it.
        self._validate: Callable[[bytes], T] = self._adapter.validator.validate_json
        kinds = repr(self._adapter.core_schema)
        # What JSON takes and `encode` would refuse: a time without a zone, and NaN where anything goes.
        self._is_lax = "'type': 'datetime'" in kinds or "'type': 'any'" in kinds

    def encode(self, value: T) -> bytes:
        """Return the JSON of a value.

        Raises:
            InvalidCrystal: it is of another type, or would not come back as it was; the message names the field.
        """
        if not isinstance(value, self._contract):
            raise InvalidCrystal(f"{self._name} takes {self._contract.__name__}, not {type(value).__name__}")
        try:
            plain = comparable(value)
            content = self._adapter.dump_json(value, by_alias=True, round_trip=True, warnings=False)
            back = self._validate(content)
            if comparable(back) != plain:
                _refuse(value, back)
        except _Refused as error:
            raise InvalidCrystal(f"{self._name}: the value {error}") from None
        except ValidationError as error:
            raise InvalidCrystal(f"{self._name}: the value {wrong_at(error)}") from None
        except NOT_JSON as error:
            raise InvalidCrystal(f"{self._name}: the value has no form in JSON ({type(error).__name__})") from None
        return content

    def decode(self, content: bytes) -> T:
        """Return the value that JSON describes.

        Raises:
            InvalidCrystal: it does not fit the contract; the message names the field.
        """
        try:
            value = self._validate(content)
            if self._is_lax:
                comparable(value)
        except ValidationError as error:
            raise InvalidCrystal(f"{self._name}: the data {wrong_at(error)}") from None
        except _Refused as error:
            raise InvalidCrystal(f"{self._name}: the data {error}") from None
        return value


def fields_of(contract: type[Any]) -> list[str]:
    """Return the names of the fields of a contract."""
    if issubclass(contract, BaseModel):
        return list(contract.model_fields)
    return [each.name for each in fields(contract)]


class _Refused(InvalidCrystal):
    """What a value holds that no crystal can."""


def _refuse(value: Any, back: Any) -> NoReturn:
    """Say in which field they differ, or that the class does."""
    names = fields_of(type(back))
    changed = (name for name in names if comparable(getattr(value, name)) != comparable(getattr(back, name)))
    raise _Refused(
        f"would come back as another at {next(changed, type(value).__name__)}: let the contract say what is there, be "
        "it a tuple, a set, a bool or a subclass"
    )


def comparable(value: Any) -> Any:
    """Return a hashable value with which equality means what it says, type and all; only 1 and 1.0 are the same.

    Two times of different zones, of which one lies in a repeated hour, are never equal (PEP 495), True equals 1, and a
    class may have no equality of its own, or one that leaves fields out.

    Raises:
        InvalidCrystal: it holds a time without a zone, or a float that is no number.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple or kind is list:
        return kind, tuple([comparable(item) for item in value])
    if is_dataclass(kind):
        return kind, tuple([comparable(getattr(value, each.name)) for each in fields(value)])
    if kind is dict:
        return kind, frozenset([(comparable(key), comparable(item)) for key, item in value.items()])
    return _of_class(kind, value)


def _of_class(kind: type[Any], value: Any) -> Any:
    if isinstance(value, float):
        if not isfinite(value):
            raise _Refused("holds NaN or an infinity, which JSON does not know")
        return value
    if isinstance(value, datetime | time):
        return _moment(value)
    if isinstance(value, bool | Enum | Decimal | bytearray):
        return kind, value
    if isinstance(value, BaseModel):
        return kind, comparable(dict(iter(value)))  # it may have a field that is called "keys"
    if isinstance(value, set | frozenset):
        return kind, frozenset(map(comparable, value))
    if isinstance(value, list | tuple):
        return kind, tuple(map(comparable, value))
    return comparable(dict(value)) if isinstance(value, dict) else value


def _moment(value: datetime | time) -> tuple[type, object]:
    offset = value.utcoffset()
    if isinstance(value, datetime):
        if offset is None:
            raise _Refused("holds a datetime without a zone: write datetime.now(UTC), or value.replace(tzinfo=...)")
        return datetime, value.replace(tzinfo=None) - _FIRST - offset  # astimezone(UTC) ends at the years 1 and 9999
    if value.tzinfo is not None and offset is None:
        raise _Refused("holds a time in a zone whose offset depends on the day: give it a fixed one")
    return time, value
