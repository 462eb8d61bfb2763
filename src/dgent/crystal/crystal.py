"""A datum with a versioned schema: the value that its bytes are, and the envelope that says so.

The envelope is part of the metadata, `{"schema": "witness.mark", "schema_version": 3}`, where queries find it by an
index; the content is the value alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import orjson
from pydantic_core import core_schema

from dgent.datum import Datum, as_datetime
from dgent.exceptions import InvalidCrystal, InvalidDatum
from dgent.validation import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from dgent.crystal.schema import Schema

T = TypeVar("T")

SCHEMA: Final = "schema"
VERSION: Final = "schema_version"
LABELS: Final = ("tags", "author")
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Ref(str, Generic[T]):
    """The id of a crystal, in a field of another: `mark: Ref[WitnessMark]`. It is a text, in JSON and in a table."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Tell pydantic that it is a text."""
        text = core_schema.str_schema(min_length=1, max_length=ID_BYTES)
        return core_schema.no_info_after_validator_function(Ref, text)


@dataclass(frozen=True, slots=True)
class CrystalMeta:
    """The envelope of a crystal.

    Attributes:
        schema_name: the schema that its value follows.
        schema_version: the version of that.
        created_at: when its datum was made, in UTC.
        crystallized_from: the id of the datum, if that has an older version and was upgraded on its way; else None.
    """

    schema_name: str
    schema_version: int
    created_at: datetime
    crystallized_from: str | None = None


@dataclass(frozen=True, slots=True)
class Crystal(Generic[T]):
    """A typed, versioned datum: what is stored, the value that it is, and the schema that says so."""

    schema: Schema[T] = field(repr=False)
    datum: Datum
    value: T = field(hash=False)  # a contract may hold a dict

    @classmethod
    def from_datum(cls, datum: Datum, schema: Schema[T]) -> Crystal[T]:
        """Crystallize a datum: its content is upgraded where it is older than the schema, and stays as it is stored.

        A datum without an envelope counts as one of the current version; one that names a schema and no version, as
        of version 1.

        Raises:
            InvalidCrystal: it is of another schema, or does not fit the contract.
            CrystalTooNew: it cannot be upgraded.
            UpgradeGap: it cannot be upgraded.
            UpgradeFailed: it cannot be upgraded.
        """
        name, version = envelope(datum)
        if name is None:
            version = schema.version
        elif name != schema.name:
            raise InvalidCrystal(f"{datum.id!r} is of the schema {name}, not {schema.name}")
        return cls(schema, datum, schema.decode(datum.content, version))

    @classmethod
    def create(
        cls,
        value: T,
        schema: Schema[T],
        *,
        id: str | None = None,
        created_at: float | None = None,
        parent: str | None = None,
        tags: Iterable[str] = (),
        author: str | None = None,
        source: str | None = None,
        metadata: Mapping[str, Any] = _NOTHING,
    ) -> Crystal[T]:
        """Make a crystal of a value; it is not stored yet.

        The id is a UUIDv7 unless it is given, `created_at` is Unix seconds, `parent` the id of what caused it. A
        contract with `tags` or an `author` of its own is found by those.

        Raises:
            InvalidCrystal: the value does not fit the contract, or would not come back as it was; or tags or an author
                are given that contradict it.
            InvalidDatum: an id, a time or metadata that no store takes.
        """
        content = schema.encode(value)
        labels = _labels(value, schema, tags or metadata.get("tags", ()), author or metadata.get("author"))
        datum = Datum.create(
            content,
            id=id,
            created_at=round(time.time(), 6) if created_at is None else created_at,  # a table keeps no finer time
            causal_parent=parent,
            metadata={**metadata, **labels, SCHEMA: schema.name, VERSION: schema.version},
            source=source,
        )
        return cls(schema, datum, value)

    @property
    def meta(self) -> CrystalMeta:
        """The envelope."""
        name, version = envelope(self.datum)
        older = self.datum.id if name is not None and version < self.schema.version else None
        return CrystalMeta(self.schema.name, self.schema.version, as_datetime(self.datum.created_at), older)

    def replace(self, value: T) -> Crystal[T]:
        """Return a crystal of another value in the place of this one: with its id, time, cause and other metadata.

        Store it with `expect=crystal.datum.version`, so that no other change is lost.

        Raises:
            InvalidCrystal: the value does not fit the contract, or would not come back as it was.
        """
        schema, own, before = self.schema, labels_of(value, self.schema), self.datum.data
        # A label that was the value's own follows it, even to nothing; one that was given beside it stays.
        gone = {name for name in LABELS if name in schema.fields and name not in own and before.get(name)}
        kept = {name: label for name, label in self.datum.metadata.items() if name not in gone}
        metadata = {**kept, **own, SCHEMA: schema.name, VERSION: schema.version}
        return Crystal(schema, self.datum.replace(content=schema.encode(value), metadata=metadata), value)

    @property
    def id(self) -> str:
        """The id of the datum."""
        return self.datum.id

    @property
    def ref(self) -> Ref[T]:
        """What another crystal keeps to refer to this one."""
        return Ref(self.datum.id)


def envelope(datum: Datum) -> tuple[str | None, int]:
    """Return the schema and the version that a datum names: (None, 0) where it names none.

    Raises:
        InvalidCrystal: the version is no whole number from 1.
    """
    name, version = names_in(datum.metadata_json)
    if version < 0:
        given = datum.metadata[VERSION]
        raise InvalidCrystal(f"{datum.id!r} names {name} version {given!r:.80}: a version is a whole number from 1")
    return name, version


@lru_cache(maxsize=4096)  # many crystals have the same metadata
def names_in(metadata_json: str) -> tuple[str | None, int]:
    """Return the schema and the version that metadata name: 0 for no schema, -1 for a version that is none."""
    metadata = orjson.loads(metadata_json)
    name, version = metadata.get(SCHEMA), metadata.get(VERSION, 1)
    if not isinstance(name, str):
        return None, 0
    return name, version if type(version) is int and version > 0 else -1


def upgraded(datum: Datum, schema: Schema[T]) -> Crystal[T]:
    """Return the crystal of a datum rewritten as the current version of its schema has it; the rest of it stays.

    Raises:
        InvalidCrystal: as for `Crystal.from_datum`.
        CrystalTooNew: as for `Crystal.from_datum`.
        UpgradeGap: as for `Crystal.from_datum`.
        UpgradeFailed: as for `Crystal.from_datum`.
    """
    crystal = Crystal.from_datum(datum, schema)
    return crystal.replace(crystal.value)


def _labels(value: Any, schema: Schema[Any], tags: Iterable[str], author: str | None) -> dict[str, Any]:
    """Return the tags and the author by which a value is found: its own, else those given."""
    own = labels_of(value, schema)
    if not isinstance(tags, Iterable):
        raise InvalidDatum(f"tags are {type(tags).__name__}, not texts")
    asked = {"tags": [tags] if isinstance(tags, str) else list(tags), "author": author}
    given = {name: label for name, label in asked.items() if label}
    for name, label in given.items():
        if name in own and own[name] != label:
            raise InvalidCrystal(f"{schema.name} has a field {name!r} of its own: set it in the value")
    return {**given, **own}


def labels_of(value: Any, schema: Schema[Any]) -> dict[str, Any]:
    """Return those of tags and author that the contract has as fields, as metadata; none where they are empty."""
    found: dict[str, Any] = {}
    tags = getattr(value, "tags", None) if "tags" in schema.fields else None
    if isinstance(tags, tuple | list | set | frozenset) and tags and all(isinstance(tag, str) for tag in tags):
        found["tags"] = sorted(tags) if isinstance(tags, set | frozenset) else list(tags)
    author = getattr(value, "author", None) if "author" in schema.fields else None
    if isinstance(author, str) and author:
        found["author"] = author
    return found
