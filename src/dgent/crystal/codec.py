"""How a value of a contract becomes JSON, and comes back as it was or is refused."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from typing_extensions import TypeAliasType

from dgent.checks import wrong_at
from dgent.exceptions import InvalidCrystal, InvalidSchema

T = TypeVar("T")

_CONFIG: Final = ConfigDict(
    strict=True,
    extra="forbid",  # a field that the contract does not know would be lost without a word
    ser_json_bytes="base64",
    val_json_bytes="base64",
)
_NOT_JSON: Final = (PydanticSerializationError, UnicodeError, ValueError, TypeError, RecursionError)


class Codec(Generic[T]):
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
        except PydanticUserError as error:
            raise InvalidSchema(
                f"{name}: {contract.__name__} has a field with no form in JSON: {error.message}"
            ) from None
        except NameError as error:
            raise InvalidSchema(f"{name}: {contract.__name__} names {error.name}, which is not defined") from None
        self._has_times = "'type': 'datetime'" in repr(self._adapter.core_schema)

    def encode(self, value: T) -> bytes:
        """Return the JSON of a value.

        Raises:
            InvalidCrystal: it is of another type, or would not come back as it was; the message names the field.
        """
        if not isinstance(value, self._contract):
            raise InvalidCrystal(f"{self._name} takes {self._contract.__name__}, not {type(value).__name__}")
        plain = comparable(value) if self._has_times else None  # refuses times without a zone
        try:
            content = self._adapter.dump_json(value, by_alias=True, round_trip=True, warnings=False)
            back = self._adapter.validate_json(content)
        except ValidationError as error:
            raise InvalidCrystal(f"{self._name}: the value {wrong_at(error)}") from None
        except _NOT_JSON as error:
            raise InvalidCrystal(f"{self._name}: the value has no form in JSON ({type(error).__name__})") from None
        if back != value and comparable(back) != (plain or comparable(value)):
            raise InvalidCrystal(
                f"{self._name}: the value would come back as another: it holds a tuple, a set or NaN where the "
                "contract does not say so"
            )
        return content

    def decode(self, content: bytes) -> T:
        """Return the value that JSON describes.

        Raises:
            InvalidCrystal: it does not fit the contract; the message names the field.
        """
        try:
            return self._adapter.validate_json(content)
        except ValidationError as error:
            raise InvalidCrystal(f"{self._name}: the data {wrong_at(error)}") from None


def comparable(value: Any) -> Any:
    """Return a value with which equality means what it says.

    Two times of different zones, of which one lies in a repeated hour, are never equal (PEP 495), and a class may have
    no equality of its own.

    Raises:
        InvalidCrystal: it holds a time without a zone.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidCrystal(f"{value} has no time zone: write datetime.now(UTC), or value.replace(tzinfo=...)")
        return value.astimezone(UTC)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(comparable(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, BaseModel):
        return type(value), comparable(dict(value))
    if isinstance(value, dict):
        return {comparable(key): comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), tuple(map(comparable, value))
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(comparable, value))
    return value
