"""The atom of agent memory: one immutable, schema-free record with an id, a cause and metadata."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import orjson

from dgent.datum_id import content_address, uuid7
from dgent.exceptions import InvalidDatum
from dgent.jsonvalue import canonical_json, canonical_metadata
from dgent.validation import check_content, check_id, check_mapping, check_time

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


def _field(at: int) -> Any:
    return property(lambda datum: datum._fields[at])


class Datum:
    """One immutable record.

    Equality and hash go by value: id, content, created_at, causal_parent and metadata. `created_at` is Unix seconds in
    UTC: a claim for people to read, never used to decide who wins. What follows is what a store that keeps versions
    assigned; it is neither part of equality nor, but for the first two, of the JSON form.

    Attributes:
        version: 1, 2 and so on of its id; 0 before it was stored.
        seq: its place in the order of the commits; 0 before.
        stored_at: when it was stored, Unix seconds by the store; 0.0 before.
        expires_at: from when it counts as absent, the same; None where it stays.

    Raises:
        InvalidDatum: the id, content, time, parent or metadata is not one that every store can take.
    """

    # One tuple in one slot: a store builds a datum in a third of the time that seven slots take.
    __slots__ = ("_fields",)

    _fields: tuple[str, bytes, float, str | None, str, int, int, float, float | None]

    id: str = _field(0)
    content: bytes = _field(1)
    created_at: float = _field(2)
    causal_parent: str | None = _field(3)
    metadata_json: str = _field(4)
    version: int = _field(5)
    seq: int = _field(6)
    stored_at: float = _field(7)
    expires_at: float | None = _field(8)

    def __init__(
        self,
        id: str,
        content: bytes,
        created_at: float,
        causal_parent: str | None = None,
        metadata: Mapping[str, Any] = _EMPTY,
    ) -> None:
        id = check_id(id)
        if causal_parent is not None:
            causal_parent = check_id(causal_parent, "causal_parent")
        content = check_content(content)
        created = check_time(created_at)
        metadata_json = "{}" if metadata is _EMPTY else canonical_metadata(metadata)
        _set_fields(self, (id, content, created, causal_parent, metadata_json, 0, 0, 0.0, None))

    @classmethod
    def create(
        cls,
        content: bytes | str | None = None,
        *,
        data: Any = None,
        id: str | None = None,
        created_at: float | None = None,
        causal_parent: str | None = None,
        metadata: Mapping[str, Any] = _EMPTY,
        tags: Iterable[str] = (),
        author: str | None = None,
        source: str | None = None,
        schema: str | None = None,
        addressed: bool = False,
    ) -> Datum:
        """Make a datum, filling in what was left out.

        Give either `content` (text is encoded as UTF-8) or `data` (any JSON value). Without an `id` it gets a UUIDv7,
        which sorts by time; with `addressed` it gets the BLAKE3 address of content, parent and metadata, so that equal
        datums have equal ids.

        `tags`, `author`, `source` and `schema` are text, and stand in the metadata under these names; one text as
        `tags` is one tag. `metadata` itself is free: what it holds under these names may be any JSON value, and no
        query by tag or author finds one that is not so.

        Raises:
            InvalidDatum: as for `Datum`, when both or neither of `content` and `data` are given, or when what is text
                is something else.
        """
        if tags != () or author is not None or source is not None or schema is not None:
            metadata = _merged(metadata, tags, {"author": author, "source": source, "schema": schema})
        body = _content_of(content, data)
        if id is None:
            id = content_address(body, causal_parent, metadata) if addressed else uuid7()
        return cls(id, body, time.time() if created_at is None else created_at, causal_parent, metadata)

    def replace(self, **changes: Any) -> Datum:
        """Return a copy with some of id, content, created_at, causal_parent and metadata changed."""
        fields = ("id", "content", "created_at", "causal_parent", "metadata")
        if unknown := changes.keys() - set(fields):
            raise InvalidDatum(f"a datum has no {sorted(unknown)}; its fields are {', '.join(fields)}")
        return Datum(**{name: changes[name] if name in changes else getattr(self, name) for name in fields})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Datum is immutable: use datum.replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Datum is immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return load_datum, self._fields

    def __eq__(self, other: object) -> bool:
        return self._fields[:5] == other._fields[:5] if isinstance(other, Datum) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields[:5])

    def __repr__(self) -> str:
        shown = self.content if len(self.content) <= 40 else self.content[:37] + b"..."
        at = f", version={self.version}, seq={self.seq}" if self.version else ""
        return f"Datum(id={self.id!r}, content={shown!r}, causal_parent={self.causal_parent!r}{at})"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata, decoded anew at each access: changing what you got changes nothing here."""
        return MappingProxyType(orjson.loads(self.metadata_json))

    @property
    def data(self) -> Any:
        """The content decoded from JSON.

        Raises:
            InvalidDatum: the content is not JSON.
        """
        try:
            return orjson.loads(self.content)
        except orjson.JSONDecodeError as error:
            raise InvalidDatum(f"the content of {self.id!r} is not JSON ({error}): read .content instead") from None

    @property
    def text(self) -> str:
        """The content decoded from UTF-8; what does not decode is shown as U+FFFD."""
        return self.content.decode("utf-8", "replace")

    @property
    def tags(self) -> frozenset[str]:
        """The strings of the list `metadata["tags"]`."""
        tags = self.metadata.get("tags")
        return frozenset(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else frozenset()

    @property
    def author(self) -> str:
        """Who made it: `metadata["author"]`, or "system"."""
        author = self.metadata.get("author")
        return author if isinstance(author, str) else "system"

    @property
    def source(self) -> str | None:
        """Where it came from: `metadata["source"]`."""
        source = self.metadata.get("source")
        return source if isinstance(source, str) else None

    @property
    def schema(self) -> str | None:
        """The name of the contract that its data follows: `metadata["schema"]`."""
        schema = self.metadata.get("schema")
        return schema if isinstance(schema, str) else None

    @property
    def parent_id(self) -> str | None:
        """`causal_parent` under the name that crystals use."""
        return self.causal_parent

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object: content as `text` where it is UTF-8, else as `base64`."""
        return {
            "id": self.id,
            **text_or_base64(self.content),
            "created_at": self.created_at,
            "causal_parent": self.causal_parent,
            "metadata": dict(self.metadata),
            "version": self.version,
            "seq": self.seq,
        }

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return orjson.dumps(self.to_dict()).decode()

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Datum:
        """Make the datum that `to_dict` described; `stored_at` and `expires_at` may stand beside it.

        Raises:
            InvalidDatum: a field is missing, unknown or of the wrong type; the message names it.
        """
        if not isinstance(record, Mapping):
            raise InvalidDatum(f"a datum is a JSON object, not {type(record).__name__}")
        if unknown := record.keys() - _RECORD_FIELDS:
            raise InvalidDatum(f"unknown field {min(map(str, unknown))!r} in a datum record")
        datum = cls(
            record.get("id"),  # type: ignore[arg-type]
            _body_of(record),
            record.get("created_at"),  # type: ignore[arg-type]
            record.get("causal_parent"),
            record.get("metadata", _EMPTY),
        )
        version, seq = record.get("version", 0), record.get("seq", 0)
        if not all(type(number) is int and 0 <= number < 2**63 for number in (version, seq)):
            raise InvalidDatum("version and seq are whole numbers from 0 to 2**63 - 1")
        stored_at, expires_at = record.get("stored_at", 0.0), record.get("expires_at")
        if not all(type(each) in {int, float} for each in (stored_at, 0 if expires_at is None else expires_at)):
            raise InvalidDatum("stored_at and expires_at are Unix seconds")
        return stamped(datum, version, seq, float(stored_at), None if expires_at is None else float(expires_at))

    @classmethod
    def from_json(cls, line: str | bytes) -> Datum:
        """Make the datum that `to_json` wrote.

        Raises:
            InvalidDatum: the line is not JSON, or not a datum.
        """
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidDatum(f"not a datum: {error}") from None
        return cls.from_dict(record)


_RECORD_FIELDS: Final = {
    *("id", "text", "base64", "created_at", "causal_parent", "metadata", "version", "seq", "stored_at", "expires_at")
}
_new = object.__new__
_set_fields = Datum._fields.__set__  # type: ignore[attr-defined, misc]  # the slot, hidden by its annotation


def load_datum(
    id: str,
    content: bytes,
    created_at: float,
    parent: str | None,
    metadata_json: str,
    version: int,
    seq: int,
    stored_at: float = 0.0,
    expires_at: float | None = None,
) -> Datum:
    """Build a datum from what a store holds, unchecked: it was checked on its way in and its digest on its way out."""
    datum = _new(Datum)
    _set_fields(datum, (id, content, created_at, parent, metadata_json, version, seq, stored_at, expires_at))
    return datum


def stamped(datum: Datum, version: int, seq: int, stored_at: float = 0.0, expires_at: float | None = None) -> Datum:
    """Return the same datum with what a store assigned."""
    return load_datum(*datum._fields[:5], version, seq, stored_at, expires_at)


def _merged(metadata: Mapping[str, Any], tags: Iterable[str], named: Mapping[str, str | None]) -> Mapping[str, Any]:
    if not isinstance(tags, Iterable):
        raise InvalidDatum(f"tags are {type(tags).__name__}, not texts")
    listed = [tags] if isinstance(tags, str) else list(tags)
    extra: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    for name, value in [*extra.items(), *(("a tag", tag) for tag in listed)]:
        if not isinstance(value, str):
            raise InvalidDatum(f"{name} is {type(value).__name__}, not text: no query would find it")
    if listed:
        extra["tags"] = listed
    return {**check_mapping(metadata), **extra} if extra else metadata


def _content_of(content: bytes | str | None, data: Any) -> bytes:
    if (content is None) == (data is None):
        raise InvalidDatum("give either content (bytes or text) or data (a JSON value)")
    if content is None:
        return canonical_json(data, "data").encode()
    if not isinstance(content, str):
        return check_content(content)
    try:
        return content.encode()
    except UnicodeEncodeError:
        raise InvalidDatum("content holds a lone surrogate, which is not Unicode text: pass bytes") from None


def text_or_base64(content: bytes) -> dict[str, str]:
    """Return bytes as a field of a JSON object: `text` where they are UTF-8, else `base64`."""
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def _body_of(record: Mapping[str, Any]) -> bytes:
    match record.get("text"), record.get("base64"):
        case str(text), None:
            return _content_of(text, None)
        case None, str(encoded):
            try:
                return base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                raise InvalidDatum("the field 'base64' is not base64") from None
    raise InvalidDatum("a datum record has either the field 'text' or the field 'base64', a string")


def as_datetime(seconds: float) -> datetime:
    """Return Unix seconds as an aware datetime in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
