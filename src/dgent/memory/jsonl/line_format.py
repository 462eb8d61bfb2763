"""What a line of the JSONL file is: a JSON object that starts with the checksum of the rest of it.

    {"b3":"<checksum>","dgent":"jsonl","format":1,"store":"...","generation":1,"entries":0,"heads":{}}
    {"b3":"<checksum>","line":2,"ops":[{"ns":"default","id":"a","version":1,"seq":1,"text":"...", ...}]}
    {"b3":"<checksum>","line":3,"ops":[{"ns":"default","id":"a","version":1,"touch":1764547200.0}]}

The first line is the header. Each further line is one flush: what was written and synced together, so that a crash can
damage no line but the last. It knows its number, so that none is lost or comes twice unseen. A rewrite (purge, compact,
erase) puts a file of the next generation in the place of the old one: its first `entries` lines are a snapshot, and
`heads` keeps the last seq and time of each namespace, and under `MARK` the highest seq of those that were erased whole.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from blake3 import blake3

from dgent.datum import load_datum
from dgent.exceptions import Corrupt, SchemaTooNew
from dgent.memory.inmemory.namespace_state import StoredVersion

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = 1
"""Of a file without touches, which every D-gent reads."""
TOUCHES: Final = 2
"""Of one in which there may be some: a program that knows format 1 alone would take a touch for a delete."""
MARK: Final = ""
"""Stands in place of a namespace, which is never empty."""
_CONTEXT: Final = "dgent 2026-11 jsonl v1"
_BEGIN: Final = b'{"b3":"'
_BODY: Final = len(_BEGIN) + 32 + len(b'",')


def seal(record: dict[str, Any]) -> bytes:
    """Return a record as a line."""
    body = orjson.dumps(record)[1:]
    return b"%b%b\n" % (_opening(body), body)


def unseal(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None if the line is not what was written."""
    body = memoryview(line)[_BODY:-1]
    if not line.endswith(b"}\n") or line[:_BODY] != _opening(body):
        return None
    record: dict[str, Any] = orjson.loads(b"{" + body)
    return record


def _opening(body: bytes | memoryview) -> bytes:
    return b'%b%b",' % (_BEGIN, blake3(body, derive_key_context=_CONTEXT).hexdigest(16).encode())


class Header(NamedTuple):
    """The first line: which store this is, how often it was rewritten, and what the snapshot does not say."""

    store: str
    generation: int
    entries: int
    heads: dict[str, tuple[int, float]]
    format: int = FORMAT

    def line(self) -> bytes:
        """Return it as a line."""
        return seal({"dgent": "jsonl", "format": self.format, **self._asdict()})

    @staticmethod
    def is_torn(line: bytes) -> bool:
        """Tell whether the first line of a file is the beginning of a header that was never finished."""
        return not line.endswith(b"\n") and line[: len(_BEGIN)] == _BEGIN[: len(line)]

    @classmethod
    def read(cls, record: dict[str, Any] | None, where: object) -> Header:
        """Return the header in a record.

        Raises:
            Corrupt: it is none.
            SchemaTooNew: a newer D-gent wrote it.
        """
        if record is None or record.get("dgent") != "jsonl":
            raise Corrupt(
                f"{where}, line 1 is not the header of a JSONL store: restore a backup, or move the file away"
            )
        if record["format"] not in {FORMAT, TOUCHES}:
            raise SchemaTooNew(f"{where} has format {record['format']}, this D-gent knows {TOUCHES}: upgrade D-gent")
        heads = {name: (seq, at) for name, (seq, at) in record["heads"].items()}
        return cls(record["store"], record["generation"], record["entries"], heads, record["format"])


class Touched(NamedTuple):
    """A version that got another moment of expiry."""

    id: str
    version: int
    expires_at: float | None


def flush_line(
    number: int, pending: Iterable[tuple[str, StoredVersion]], touched: Iterable[tuple[str, StoredVersion]] = ()
) -> bytes:
    """Return what is written together as the line of this number; what is touched is so before the rest comes."""
    touches = [
        {"ns": namespace, "id": stored.id, "version": stored.version, "touch": stored.expires_at}
        for namespace, stored in touched
    ]
    return seal({"line": number, "ops": touches + [_entry(namespace, stored) for namespace, stored in pending]})


def flushed(record: dict[str, Any]) -> list[tuple[str, StoredVersion | Touched]]:
    """Return what `flush_line` wrote."""
    return [(entry["ns"], _touched(entry) if "touch" in entry else _stored(entry)) for entry in record["ops"]]


def _touched(entry: dict[str, Any]) -> Touched:
    return Touched(entry["id"], entry["version"], entry["touch"])


def _entry(namespace: str, stored: StoredVersion) -> dict[str, Any]:
    entry: dict[str, Any] = {"ns": namespace, "id": stored.id, "version": stored.version, "seq": stored.seq}
    entry["stored_at"] = stored.stored_at
    if stored.expires_at is not None:
        entry["expires_at"] = stored.expires_at
    datum = stored.datum
    if datum is not None:
        entry["created_at"] = datum.created_at
        entry["causal_parent"] = datum.causal_parent
        entry["metadata"] = orjson.Fragment(datum.metadata_json)
        try:
            entry["text"] = datum.content.decode()
        except UnicodeDecodeError:
            entry["base64"] = base64.b64encode(datum.content).decode()
    elif stored.note != "{}":
        entry["metadata"] = orjson.Fragment(stored.note)
    return entry


def _stored(entry: dict[str, Any]) -> StoredVersion:
    id, version, seq, expires_at = entry["id"], entry["version"], entry["seq"], entry.get("expires_at")
    metadata = orjson.dumps(entry.get("metadata", {}), option=orjson.OPT_SORT_KEYS).decode()
    if "created_at" not in entry:
        return StoredVersion(id, version, seq, entry["stored_at"], expires_at, None, metadata)
    content = entry["text"].encode() if "text" in entry else base64.b64decode(entry["base64"])
    times = entry["stored_at"], expires_at
    datum = load_datum(id, content, entry["created_at"], entry["causal_parent"], metadata, version, seq, *times)
    return StoredVersion(id, version, seq, *times, datum)
