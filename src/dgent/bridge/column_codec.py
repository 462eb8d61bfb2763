"""How the values of a column look in JSON, one form for each SQL type: a loss-free round trip, or a refusal.

| column | JSON | | column | JSON |
|---|---|---|---|---|
| text, Enum (its label) | string | | Integer, Float, Boolean | number, true or false |
| Numeric | string of digits: "1.5" | | JSON | the value |
| DateTime, Date, Time | ISO 8601, in UTC with Z | | LargeBinary | base64 |
| Interval | ISO 8601: "PT90.5S" | | Uuid | 36 characters |
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    PickleType,
    SmallInteger,
    String,
    Time,
    TypeDecorator,
    Uuid,
)

from dgent.exceptions import CapabilityMissing, InvalidDatum
from dgent.jsonvalue import canonical_json
from dgent.models.base import UTCDateTime, digits

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.types import TypeEngine

_DURATION: Final = re.compile(
    r"(?P<sign>-?)P(?:(?P<days>\d{1,10})D)?"
    r"(?:T(?:(?P<hours>\d{1,12})H)?(?:(?P<minutes>\d{1,13})M)?(?:(?P<seconds>\d{1,15})(?:\.(?P<micros>\d{1,6}))?S)?)?"
)
T = TypeVar("T")
_EXACT: Final = 1e16
_INT64: Final = 2**63


class Form(NamedTuple):
    """How values of one SQL type look in JSON.

    Attributes:
        dump: from the Python value to JSON; None where that is the value itself.
        load: from JSON to the Python value; it raises ValueError with the reason for what does not fit.
    """

    dump: Callable[[Any], Any] | None
    load: Callable[[Any], Any]


def form_of(kind: TypeEngine[Any], where: str) -> Form:
    """Return the form of a SQL type.

    Raises:
        CapabilityMissing: the type has none; `where` names the column.
    """
    if isinstance(kind, UTCDateTime):
        return Form(None, _load_utc)  # it gives UTC back; others may not
    kind = unwrapped(kind)
    for known, make in _FORMS:
        if isinstance(kind, known):
            return make(kind)
    raise CapabilityMissing(f"{where} has the type {type(kind).__name__}, which has no form in JSON: hide the column")


def unwrapped(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type of SQLAlchemy's own that decorators decorate."""
    while isinstance(kind, TypeDecorator) and not isinstance(kind, Interval | PickleType):
        kind = kind.impl_instance
    return kind


def is_text(kind: TypeEngine[Any]) -> bool:
    """Tell whether values of a type are texts that can be any."""
    return isinstance(unwrapped(kind), String) and not isinstance(unwrapped(kind), Enum)


def _no(wanted: str, value: object) -> NoReturn:
    raise ValueError(f"is {'null' if value is None else type(value).__name__}, not {wanted}")


def _text(kind: String) -> Form:
    return Form(None, partial(_load_text, length=kind.length))


def _load_text(value: Any, length: int | None) -> str:
    if not isinstance(value, str):
        _no("text", value)
    if "\0" in value:
        raise ValueError("holds a NUL character, which PostgreSQL cannot store: remove it or encode it")
    if length is not None and len(value) > length:
        raise ValueError(f"has {len(value):,} characters, the column takes {length:,}")
    return value


def _enum(kind: Enum) -> Form:
    members = [kind.enum_class[name] for name in kind.enum_class.__members__] if kind.enum_class else []
    found = dict(zip(kind.enums, members or kind.enums, strict=False))
    labels = {member: label for label, member in found.items()}

    def load(value: Any) -> Any:
        if not isinstance(value, str) or value not in found:
            raise ValueError(f"is none of {', '.join(found)}")
        return found[value]

    return Form(labels.__getitem__ if members else None, load)


def _boolean(_: Boolean) -> Form:
    return Form(None, lambda value: value if isinstance(value, bool) else _no("true or false", value))


def _integer(kind: Integer) -> Form:
    bits = 16 if isinstance(kind, SmallInteger) else 64 if isinstance(kind, BigInteger) else 32

    def load(value: Any) -> int:
        if type(value) is not int:
            _no("a whole number", value)
        if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
            raise ValueError(f"is a number over the {bits} bits of the column")
        return value

    return Form(None, load)


def _float(_: TypeEngine[Any]) -> Form:
    return Form(_dump_float, _load_float)


def _dump_float(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"holds {value}, which JSON cannot")
    return float(value) + 0.0  # SQLite returns a written 1.0 as 1, and has one zero


def _load_float(value: Any) -> float:
    if type(value) not in {int, float}:
        _no("a number", value)
    if float(value) != value:
        raise ValueError("is a whole number with more digits than a float keeps")
    return float(value) + 0.0


def _numeric(kind: Numeric[Any] | Float[Any]) -> Form:
    if not kind.asdecimal:
        return _float(kind)
    return Form(digits, partial(_load_decimal, precision=kind.precision, scale=getattr(kind, "scale", None)))


def _load_decimal(value: Any, precision: int | None, scale: int | None) -> Decimal:
    if type(value) not in {int, float, str}:
        _no('a number as text, like "1.5"', value)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise ValueError("is no decimal number")
    number = Decimal(digits(number))
    if scale is not None and -int(number.as_tuple().exponent) > scale:
        raise ValueError(f"has more than {scale} digits after the point")
    if precision is not None and number and number.adjusted() >= precision - (scale or 0):
        raise ValueError(f"has more than {precision - (scale or 0)} digits before the point")
    return number


def _binary(_: LargeBinary) -> Form:
    return Form(lambda value: base64.b64encode(value).decode(), _load_binary)


def _load_binary(value: Any) -> bytes:
    if not isinstance(value, str):
        _no("base64 text", value)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None


def _uuid(kind: Uuid[Any]) -> Form:
    return Form(str, partial(_load_uuid, native=kind.as_uuid))


def _load_uuid(value: Any, native: bool) -> UUID | str:
    if not isinstance(value, str):
        _no("a UUID", value)
    try:
        found = UUID(value)
    except ValueError:
        raise ValueError("is not a UUID") from None
    return found if native else str(found)


def _moment(kind: DateTime) -> Form:
    return Form(_dump_utc, _load_utc) if kind.timezone else Form(None, _load_local)


def _dump_utc(value: datetime) -> datetime:
    if value.tzinfo is UTC:
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _load_utc(value: Any) -> datetime:
    found = _iso(datetime.fromisoformat, value, "a time in ISO 8601")
    if found.utcoffset() is None:
        raise ValueError("has no time zone: write 2026-01-31T08:15:00Z")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError("is not between the years 1 and 9999 in UTC") from None


def _load_local(value: Any) -> datetime:
    found = _iso(datetime.fromisoformat, value, "a time in ISO 8601")
    if found.tzinfo is not None:
        raise ValueError("has a time zone, and the column keeps none")
    return found


def _date(_: Date) -> Form:
    return Form(None, lambda value: _iso(date.fromisoformat, value, "a date in ISO 8601"))


def _time(kind: Time) -> Form:
    if kind.timezone:
        raise CapabilityMissing(
            "a time of day with a zone has no form in JSON that both databases keep: hide the column"
        )
    return Form(time.isoformat, _load_time)  # orjson drops a zero of 10 milliseconds


def _load_time(value: Any) -> time:
    found = _iso(time.fromisoformat, value, "a time of day in ISO 8601")
    if found.tzinfo is not None:
        raise ValueError("has a time zone, and the column keeps none")
    return found


def _iso(parse: Callable[[str], T], value: Any, wanted: str) -> T:
    if not isinstance(value, str):
        _no(wanted, value)
    try:
        return parse(value)
    except ValueError:
        raise ValueError(f"is not {wanted}") from None


def _interval(_: Interval) -> Form:
    return Form(_dump_interval, _load_interval)


def _dump_interval(value: timedelta) -> str:
    seconds, micros = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    fraction = f".{micros:06}".rstrip("0") if micros else ""
    return f"{'-' if value < timedelta() else ''}PT{seconds}{fraction}S"


def _load_interval(value: Any) -> timedelta:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('is not a duration in ISO 8601, like "PT90.5S"')
    units = {name: int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds")}
    try:
        length = timedelta(**units, microseconds=int((found["micros"] or "").ljust(6, "0")))
    except OverflowError:
        raise ValueError("is longer than a duration can be") from None
    return -length if found["sign"] else length


def _json(_: JSON) -> Form:
    return Form(settled, _load_json)


def _load_json(value: Any) -> Any:
    try:
        canonical_json(value, "it")
    except InvalidDatum as error:
        raise ValueError(str(error)) from None
    return settled(value)


def settled(value: Any) -> Any:
    """Return a JSON value with the numbers that both databases give back.

    JSONB has one kind of number: it gives large floats back as integers, and knows no negative zero.
    """
    kind = type(value)
    if kind is str:
        return value
    if kind is list:
        return [settled(item) for item in value]
    if kind is dict:
        return {key: settled(item) for key, item in value.items()}
    if kind is float and (abs(value) >= _EXACT or value == 0):
        return int(value) if value and abs(value) < _INT64 else value or 0.0
    if kind is int and not -_INT64 <= value < _INT64:
        return float(value)
    return value


_FORMS: Final[list[tuple[type[Any], Callable[[Any], Form]]]] = [
    (Enum, _enum),  # before String, which it is
    (String, _text),
    (Boolean, _boolean),
    (Integer, _integer),
    (Numeric, _numeric),
    (Float, _numeric),
    (DateTime, _moment),
    (Date, _date),
    (Time, _time),
    (Interval, _interval),
    (LargeBinary, _binary),
    (Uuid, _uuid),
    (JSON, _json),
]
