"""How things look: for machines as JSON, for people as text that no stored byte can turn into terminal commands."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from rich import box
from rich.console import Group
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from dgent.change_page import ChangePage, ChangeRecord
from dgent.datum import Datum, as_datetime, text_or_base64

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgent.importing.conversation_import import Counts, ImportReport
    from dgent.models.brain import Crystal
    from dgent.page import Damaged
    from dgent.store import Revision

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SMALL = 64 * 2**10  # more than this is not read as JSON only to find a title in it
_TITLES = ("title", "summary", "name", "topic", "content", "text", "description")


def to_json(value: Any) -> bytes:
    """Return any answer of the library as one line of JSON."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    if isinstance(value, Datum):
        times = {"stored_at": value.stored_at, "expires_at": value.expires_at} if value.stored_at else {}
        return {**value.to_dict(), **times}
    if isinstance(value, ChangeRecord):
        return value._asdict()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    return str(value)


def clean(text: str) -> str:
    """Return text with its control characters made visible, so that it cannot steer a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def line(text: str, style: str = "") -> Text:
    """Return text on one line, cut where the line ends."""
    return Text(" ".join(clean(text).split()), style, no_wrap=True, overflow="ellipsis")


def when(seconds: float) -> str:
    """Return Unix seconds as people write a time, in UTC."""
    return f"{as_datetime(seconds):%Y-%m-%d %H:%M}"


def gist(datum: Datum) -> str:
    """Return what a datum is about: its text, or what a person would look at first in its JSON object."""
    if datum.content[:1] == b"{" and len(datum.content) <= _SMALL:
        try:
            record = orjson.loads(datum.content)
        except orjson.JSONDecodeError:
            record = {}
        for name in _TITLES:
            if isinstance(record.get(name), str) and record[name]:
                return str(record[name])[:400]
    if b"\0" in datum.content[:400]:
        return f"{len(datum.content):,} bytes"
    return datum.content[:400].decode("utf-8", "replace")


def grid(*headers: str) -> Table:
    """Return an empty table in the look that all tables share: no boxes, one rule under the headers.

    Its last column alone gives way where the line is too short, since ids are there to be copied.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True, header_style="dim")
    for header in headers:
        table.add_column(header, no_wrap=header != headers[-1])
    return table


def or_none(table: Table, none: str) -> RenderableType:
    """Return the table, or where it has no rows what there is none of."""
    return table if table.row_count else Text(clean(none), "dim")


def about(text: str, tags: Iterable[str]) -> Text:
    """Return what something is about, on one line, with its tags behind."""
    found = line(text)
    for tag in tags:
        found.append(f"  #{clean(tag)}", "green")
    return found


def datums(found: Iterable[Datum], *, times: bool = True, none: str = "no datums") -> RenderableType:
    """Return datums as a table, one on a line."""
    table = grid("id", *(["created (UTC)"] if times else []), "content")
    for each in found:
        created = [Text(when(each.created_at), "dim")] if times else []
        table.add_row(line(each.id, "cyan"), *created, about(gist(each), sorted(each.tags)))
    return or_none(table, none)


def datum(found: Datum) -> RenderableType:
    """Return one datum with everything that is known of it."""
    facts = pairs(
        {
            "id": Text(clean(found.id), "bold cyan"),
            "created": f"{when(found.created_at)} UTC",
            "parent": found.causal_parent or "none",
            "version": f"{found.version} (seq {found.seq})" if found.version else "not stored",
            **({"stored": f"{when(found.stored_at)} UTC"} if found.stored_at else {}),
            **({} if found.expires_at is None else {"expires": f"{when(found.expires_at)} UTC"}),
            "size": f"{len(found.content):,} bytes",
        }
    )
    parts: list[RenderableType] = [facts]
    if found.metadata:
        parts += [Text("metadata", "dim"), document(found.metadata)]
    return Group(*parts, Text("content", "dim"), body(found))


def body(found: Datum) -> RenderableType:
    """Return the content of a datum: JSON in colour, text as it is, bytes as their number."""
    if found.content[:1] in {b"{", b"["}:
        try:
            return document(orjson.loads(found.content))
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # no JSON after all, or too deep to write
            pass
    try:
        return Text(clean(found.content.decode()))
    except UnicodeDecodeError:
        return Text(f"{len(found.content):,} bytes that are no text: --content writes them", "yellow")


def document(value: Any) -> RenderableType:
    """Return a JSON value in colour, indented; a list of plain values stays on its line."""
    text = _indented(orjson.loads(to_json(value)), "")
    return JSONHighlighter()(Text(clean(text)))


def _indented(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        parts = [f"{inner}{_word(name)}: {_indented(item, inner)}" for name, item in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(inner + _indented(item, inner) for item in value) + f"\n{indent}]"
    if isinstance(value, list):
        return f"[{', '.join(map(_word, value))}]"
    return _word(value)


def _word(value: Any) -> str:
    return orjson.dumps(value).decode()


def pairs(facts: Mapping[str, Any]) -> RenderableType:
    """Return names and values, one pair on a line; a mapping as a value is set below its name."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _flat(facts, ""):
        table.add_row(clean(name), value if isinstance(value, Text) else Text(_said(value)))
    return table


def _flat(facts: Mapping[str, Any], indent: str) -> Iterable[tuple[str, Any]]:
    for name, value in facts.items():
        deep = len(indent) > 2  # where names are those of tables
        label = indent + (str(name) if deep else str(name).replace("_", " "))
        if isinstance(value, Mapping) and value:
            yield label, ""
            yield from _flat(value, f"{indent}  ")
        else:
            yield label, value


def _said(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_said(each) for each in value) or "none"
    return clean(str(value))


def chain(found: Sequence[Datum]) -> RenderableType:
    """Return a causal chain, oldest first, each below its cause."""
    table = Table.grid(padding=(0, 2))
    for wraps in (False, False, False, True):
        table.add_column(no_wrap=not wraps)
    for mark, each in zip(["●", *["├" for _ in found[2:]], "└"], found, strict=False):
        table.add_row(
            Text(mark, "dim"), Text(when(each.created_at), "dim"), line(each.author, "cyan"), line(gist(each))
        )
    return table


def revisions(found: Iterable[Revision]) -> RenderableType:
    """Return the history of an id as a table, oldest first; also when it expires, and who deleted it and why."""
    listed = list(found)
    expiring = any(_until(each) is not None for each in listed)
    table = grid("v", "seq", "stored (UTC)", *(["expires (UTC)"] if expiring else []), "what", "content")
    for each in listed:
        until = _until(each)
        expires = [Text("" if until is None else when(until))] if expiring else []
        table.add_row(str(each.version), str(each.seq), Text(when(each.stored_at), "dim"), *expires, *_what(each))
    return or_none(table, "no versions")


def changes(found: Iterable[ChangeRecord], *, none: str = "no changes") -> RenderableType:
    """Return what changed as a table, in the order of the commits."""
    table = grid("seq", "id", "v", "stored (UTC)", "what", "content")
    for each in found:
        stored = Text(when(each.stored_at), "dim")
        table.add_row(str(each.seq), line(each.id, "cyan"), str(each.version), stored, *_what(each))
    return or_none(table, none)


def _until(version: Revision) -> float | None:
    return None if version.datum is None else version.datum.expires_at


def _what(version: Revision | ChangeRecord) -> tuple[Text, Text]:
    """Return what a version is, and its content; of a deletion by whom it was, and why."""
    if version.datum is not None:
        return Text("put", "green"), about(gist(version.datum), sorted(version.datum.tags))
    told = [f"by {version.author}" if version.author else "", version.reason or ""]
    return Text("deleted", "red"), line(": ".join(filter(None, told)), "dim")


def crystal_record(crystal: Crystal) -> dict[str, Any]:
    """Return the row of a crystal as a JSON object."""
    return {column.key: getattr(crystal, column.key) for column in type(crystal).__table__.columns}


def crystals(found: Iterable[Crystal]) -> RenderableType:
    """Return the rows of crystals as a table, one on a line."""
    table = grid("id", "created (UTC)", "summary")
    for each in found:
        created = Text(when(each.created_at.timestamp()), "dim")
        table.add_row(line(each.id, "cyan"), created, about(each.summary, each.tags))
    return or_none(table, "no crystals")


def imported(done: ImportReport, name: str) -> str:
    """Return what an import did, in one sentence."""
    if not any(done.new):
        return f"{name}: all {_listed(done.known)} were there already"
    before = f"; {_listed(done.known)} were there already" if any(done.known) else ""
    return f"{name}: {_listed(done.new)}{before}"


def _listed(counts: Counts) -> str:
    return ", ".join(counted(number, what) for what, number in counts._asdict().items())


def counted(number: int, what: str) -> str:
    """Return how many there are of something that is named in the plural: "2 datums", "1 datum"."""
    return f"{number:,} {what.removesuffix('s') if number == 1 else what}"


def damaged_records(found: Iterable[Damaged]) -> list[dict[str, Any]]:
    """Return what was left out of a page as JSON objects, with the bytes that are left of it."""
    return [
        {"id": id, "version": version, "reason": reason, **text_or_base64(content)}
        for id, version, reason, content in found
    ]


def damaged(found: Iterable[Damaged]) -> list[RenderableType]:
    """Return what was left out of a page, a line for each, and where its bytes are."""
    told = [Text(clean(f"DAMAGED: version {each.version} of {each.id}: {each.reason}"), "red") for each in found]
    return [*told, Text("--json has what is left of their bytes", "dim")] if told else []


def next_page(cursor: str | None, option: str = "--cursor=") -> list[RenderableType]:
    """Return how to go on, or nothing at the end; on one line, to be copied."""
    if cursor is None:
        return []
    return [Text(f"more: the same again with {option}{cursor}", "dim", no_wrap=True, overflow="ignore")]


def behind(page: ChangePage) -> list[RenderableType]:
    """Return how to go on behind a page of changes, if something comes behind it already."""
    return next_page(str(page.seq) if page.more else None, "--after-seq=")


def answer(value: Any) -> RenderableType:
    """Return any answer of an agent path as people read it."""
    if isinstance(value, Datum):
        return datum(value)
    if isinstance(value, list) and value and all(isinstance(each, Datum) for each in value):
        return datums(value)
    if isinstance(value, Mapping) and all(isinstance(each, Datum) for each in value.values()):
        return datums(value.values())
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return Text("\n".join(clean(each) for each in value))
    if isinstance(value, ChangePage):
        return Group(changes(value), *damaged(value.damaged), *behind(value))
    if isinstance(value, list) and value:
        return revisions(value)
    return Text("nothing" if value is None or value == [] else _said(value))
