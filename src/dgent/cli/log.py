"""`kg log`: logs that nobody can edit unseen."""

from __future__ import annotations

from pathlib import Path  # typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgent.cli.command import Kg, command, misused, refuse_damaged
from dgent.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgent.causal import AsyncLog, Checkpoint, Entry, Fingerprint
    from dgent.page import Damaged

app = typer.Typer(help="Logs that nobody can edit unseen: chains of entries.", no_args_is_help=True)
Stream = Annotated[str, typer.Argument(help="The stream.")]
AnyStream = Annotated[str | None, typer.Argument(help="The stream; all of them if there is none.")]
Writer = Annotated[str | None, typer.Option(help="Only this writer.")]
Format = Annotated[str, typer.Option(help="How entries are chained: dgent/1, or agent-store/1.")]
File = Annotated[Path | None, typer.Option(help="A file with the JSON of a checkpoint.")]
OWN = "dgent/1"


@app.command()
@command
async def append(
    kg: Kg,
    stream: Stream,
    payload: Annotated[str, typer.Argument(help="The text, @file, or - for stdin.")],
    *,
    writer: Annotated[str | None, typer.Option(help="Who writes.")] = None,
    key: Annotated[Path | None, typer.Option(help="Or the key of who writes: its fingerprint is the name.")] = None,
    expect_head: Annotated[str | None, typer.Option(help="Only if the log ends at this SEQ, or SEQ:HASH.")] = None,
    format: Format = OWN,
) -> None:
    """Add an entry, and show where it landed."""
    from dgent.causal import Head
    from dgent.cli import arguments

    head = None if expect_head is None else Head.parse(expect_head)
    name = _writer(writer, key)
    body = arguments.content(payload, kg.settings.max_content)
    async with kg.storage(anew=True) as storage:
        entry = await storage.log.within(format).append(stream, name, body, expect_head=head)
    kg.answer(_record(entry), f"{entry.stream}  {entry.writer}  {entry.seq}  {entry.content_hash.hex()}")


@app.command()
@command
async def show(
    kg: Kg,
    stream: AnyStream = None,
    *,
    writer: Writer = None,
    after: Annotated[int, typer.Option(help="Behind which seq to begin.")] = 0,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    format: Format = OWN,
) -> None:
    """Show the entries of a stream, or which streams there are. Exit 7 and name what is damaged."""
    from dgent.cli import arguments
    from dgent.cli.output import damaged

    limit = arguments.page(limit, kg.settings.max_page, "--after")
    async with kg.storage() as storage:
        log = storage.log.within(format)
        if stream is None:
            kg.answer(*_heads([{**place, **await _head(log, **place)} for place in await _places(log, None, writer)]))
            return
        if writer is None:
            writers = await log.writers(stream)
            entries = await log.merged(stream, after=dict.fromkeys(writers, after), limit=limit)
        else:
            entries = await log.entries(stream, writer, after=after, limit=limit)
        if not entries and not entries.damaged:
            await _existing(log, stream, writer)
    found = [_record(entry) for entry in entries] + [_damaged_record(stream, each) for each in entries.damaged]
    kg.answer(found, _entries(entries), *damaged(entries.damaged))
    refuse_damaged(entries.damaged)


@app.command()
@command
async def verify(
    kg: Kg,
    stream: AnyStream = None,
    *,
    writer: Writer = None,
    against: File = None,
    since: File = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(help="Whose checkpoints count: a fingerprint or a .pub file."),
    ] = None,
    format: Format = OWN,
) -> None:
    """Recompute chains, and compare them with what was signed. Exit 7 and name the first bad seq; 3 if there is no log.

    A log is compared with the last checkpoint that is kept here, if its signer counts: who writes under a fingerprint
    signs for himself, for others say --trust. --against names one that was kept elsewhere.
    """
    from dgent.cli.progress import progress

    whom = [_fingerprint(each) for each in trust or ()]
    named = (against or since) is not None
    if named and (stream is None or writer is None):
        misused("--against and --since are of one log: name its stream and --writer")
    async with kg.storage() as storage:
        log = storage.log.within(format)
        one: list[dict[str, Any]] = [{"stream": stream, "writer": writer}]
        places = one if named else await _existing(log, stream, writer)
        total = sum([(await log.head(**place)).seq for place in places])
        found = []
        with progress("verifying", total) as advance:
            for place in places:
                kept = _checkpoint(against) if named else await _kept(log, whom, **place)
                since_ = _checkpoint(since)
                found.append(await _verified(log, place, kept, since_, whom, advance))
    kg.answer(*_verdicts(found))
    if not all(each["ok"] for each in found):
        raise typer.Exit(ExitCode.CORRUPT)


@app.command()
@command
async def follow(
    kg: Kg,
    stream: Stream,
    *,
    writer: Writer = None,
    after: Annotated[
        str, typer.Option(help="Behind which seq of each writer to begin; SEQ:HASH of one --writer sees a fork.")
    ] = "0",
    limit: Annotated[int | None, typer.Option(help="End after so many.")] = None,
    format: Format = OWN,
) -> None:
    """Show what is in a stream and then what comes. It ends when it is interrupted; exit 7 where the log went back."""
    from contextlib import aclosing

    from dgent.causal import Head
    from dgent.exceptions import InvalidQuery

    try:
        count, seen = 0, Head.parse(after)
    except InvalidQuery:
        misused(
            "--after is SEQ, or SEQ:HASH with the content_hash of that entry, 64 hexadecimal digits: "
            "`kg --json log show STREAM` has it"
        )
    if seen.hash is not None and writer is None:
        misused("SEQ:HASH is where one log stands: name its --writer")
    async with kg.storage() as storage:
        log = storage.log.within(format)
        position: Any = seen if writer is not None else dict.fromkeys(await log.writers(stream), seen)
        async with aclosing(log.follow(stream, writer=writer, after=position)) as entries:
            while count != limit:
                entry = await anext(entries)
                kg.answer(_record(entry), f"{entry.writer}  {entry.seq}  {_gist(entry)}")
                count += 1


@app.command()
@command
async def checkpoint(
    kg: Kg,
    stream: Stream,
    *,
    key: Annotated[Path, typer.Option(help="The key to sign with, of `kg log keygen`.")],
    writer: Annotated[str | None, typer.Option(help="Whose log; that of the key itself if there is none.")] = None,
    against: File = None,
    since: File = None,
    out: Annotated[Path | None, typer.Option(help="A new file for its JSON, to keep elsewhere; - is stdout.")] = None,
    format: Format = OWN,
) -> None:
    """Verify a log, sign where it ends, and keep that.

    --against names the last one that was kept elsewhere: what contradicts it is not signed.
    """
    from dgent.causal import keys
    from dgent.cli.progress import progress

    if out is not None and out.exists():
        misused(f"{out} is there already, and a checkpoint is not overwritten")
    signing = keys.load(key)
    name = writer or str(signing.fingerprint)
    async with kg.storage() as storage:
        log = storage.log.within(format)
        with progress("verifying", (await log.head(stream, name)).seq) as advance:
            told, begun = _checkpoint(against), _checkpoint(since)
            made = await log.sign(stream, name, signing, against=told, since=begun, progress=advance)
    if str(out) == "-":
        kg.raw(made.to_json().encode() + b"\n")
        return
    if out is not None:
        _write(out, made)
    where = f"in {out}" if out else "here; --out writes it to a file that you can keep elsewhere"
    kg.answer(made.to_dict(), f"{stream}  {name}  signed up to seq {made.seq} by {made.signer}; it is {where}")


@app.command()
@command
async def keygen(kg: Kg, file: Annotated[Path, typer.Argument(help="A file that is not there yet.")]) -> None:
    """Make a key to sign with. It is a private file, with the public key beside it."""
    from dgent.causal import keys

    made = keys.generate(file)
    public = keys.public_path(file)
    facts = {"key": str(file), "public": str(public), "fingerprint": str(made.fingerprint)}
    kg.answer(facts, f"{made.fingerprint}", f"the key is in {file}, which only you can read; give away {public}")


def _writer(writer: str | None, key: Path | None) -> str:
    from dgent.causal import keys

    if (writer is None) == (key is None):
        misused("say who writes: --writer NAME or --key FILE")
    return str(keys.load(key).fingerprint) if key is not None else str(writer)


def _fingerprint(word: str) -> Fingerprint:
    from pathlib import Path

    from dgent.causal import Fingerprint, keys

    return Fingerprint.from_hex(word) or keys.load_public(Path(word))


def _checkpoint(file: Path | None) -> Checkpoint | None:
    from dgent.causal import Checkpoint
    from dgent.exceptions import NotFound

    if file is None:
        return None
    try:
        return Checkpoint.from_json(file.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{file}: there is no such file") from None


def _write(file: Path, made: Checkpoint) -> None:
    from dgent.exceptions import InvalidInput

    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(made.to_json() + "\n")
    except FileExistsError:
        raise InvalidInput(
            f"{file} is there now, and is not overwritten; the checkpoint is kept in the database"
        ) from None


async def _places(log: AsyncLog, stream: str | None, writer: str | None) -> list[dict[str, str]]:
    """Return the logs that are meant: those that have entries, and those that were signed, so that none is missed."""
    streams = await log.streams() if stream is None else [stream]
    found = {(each, one) for each in streams for one in await log.writers(each)}
    found |= {place for place in await log.signed_places() if stream in {None, place[0]}}
    return [{"stream": each, "writer": one} for each, one in sorted(found) if writer in {None, one}]


async def _existing(log: AsyncLog, stream: str | None, writer: str | None) -> list[dict[str, str]]:
    """Return the logs that are meant.

    Raises:
        NotFound: there is none, so that nothing would be looked at.
    """
    from dgent.error_messages import nearest
    from dgent.exceptions import NotFound

    if found := await _places(log, stream, writer):
        return found
    others = await _places(log, None, None)
    writers = {each["writer"] for each in others if stream in {None, each["stream"]}}
    if stream is not None and not writers:
        near = nearest(stream, {each["stream"] for each in others}, ": there is none")
        raise NotFound(f"there is no log {stream!r} in the format {log.format}{near}")
    if writer is not None:
        near = nearest(writer, writers, ": there is none")
        raise NotFound(f"there is no log of {writer!r} in {'any stream' if stream is None else repr(stream)}{near}")
    raise NotFound(f"there is no log in the format {log.format}")


async def _head(log: AsyncLog, stream: str, writer: str) -> dict[str, Any]:
    seq, own = await log.head(stream, writer)
    return {"seq": seq, "hash": own.hex() if own else None}


async def _kept(log: AsyncLog, trusted: list[Fingerprint], stream: str, writer: str) -> Checkpoint | None:
    """Return the last checkpoint that is kept here of whoever counts for a log."""
    from dgent.causal import Fingerprint

    own = Fingerprint.from_hex(writer)
    found = [await log.latest(stream, writer, signer) for signer in ([own] if own else trusted)]
    return max((each for each in found if each is not None), key=lambda each: each.seq, default=None)


async def _verified(
    log: AsyncLog, place: dict[str, str], kept: Checkpoint | None, since: Checkpoint | None, whom: Any, advance: Any
) -> dict[str, Any]:
    from dgent.exceptions import ChainBroken

    found: dict[str, Any] = {**place, "checkpoint": None if kept is None else kept.seq}
    try:
        head = await log.verify(**place, against=kept, since=since, trusted=whom, progress=advance)
    except ChainBroken as error:
        return {**found, "ok": False, "seq": error.seq, "reason": error.reason}
    if not head.seq:  # it is here because it was signed
        return {**found, "ok": False, "seq": 1, "reason": "it was signed, and no entry of it is left"}
    return {**found, "ok": True, "seq": head.seq, "hash": head.hash.hex() if head.hash else None}


def _verdicts(found: list[dict[str, Any]]) -> tuple[Any, RenderableType]:
    from rich.text import Text

    from dgent.cli.output import grid, line, or_none

    table = grid("stream", "writer", "entries", "verdict")
    for each in found:
        if each["ok"]:
            compared = (
                "no checkpoint to compare with" if each["checkpoint"] is None else f"signed to {each['checkpoint']:,}"
            )
            verdict, count = Text(f"intact; {compared}", "green"), f"{each['seq']:,}"
        else:
            verdict, count = Text(f"BROKEN at seq {each['seq']:,}: {each['reason']}", "red"), "-"
        table.add_row(line(each["stream"]), line(each["writer"], "cyan"), count, verdict)
    return found, or_none(table, "no logs")


def _heads(found: list[dict[str, Any]]) -> tuple[Any, RenderableType]:
    from dgent.cli.output import grid, line, or_none

    table = grid("stream", "writer", "entries", "head")
    for each in found:
        table.add_row(line(each["stream"]), line(each["writer"], "cyan"), f"{each['seq']:,}", line(each["hash"] or ""))
    return found, or_none(table, "no logs")


def _entries(entries: list[Entry]) -> RenderableType:
    from dgent.cli.output import grid, line, or_none

    table = grid("writer", "seq", "hash", "payload")
    for entry in entries:
        table.add_row(line(entry.writer, "cyan"), str(entry.seq), entry.content_hash.hex()[:16], line(_gist(entry)))
    return or_none(table, "no entries")


def _gist(entry: Entry) -> str:
    from dgent.cli.output import clean

    try:
        return clean(" ".join(entry.payload[:400].decode().split()))
    except UnicodeDecodeError:
        return f"{len(entry.payload):,} bytes"


def _damaged_record(stream: str, each: Damaged) -> dict[str, Any]:
    from dgent.datum import text_or_base64

    writer, seq, reason, payload = each
    return {"stream": stream, "writer": writer, "seq": seq, **text_or_base64(payload), "damaged": reason}


def _record(entry: Entry) -> dict[str, Any]:
    from dgent.datum import text_or_base64

    return {
        "stream": entry.stream,
        "writer": entry.writer,
        "seq": entry.seq,
        **text_or_base64(entry.payload),
        "prev_hash": entry.prev_hash.hex() if entry.prev_hash else None,
        "content_hash": entry.content_hash.hex(),
        "format": entry.format,
    }
