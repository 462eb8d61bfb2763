"""`kg memory`: agent memory, one datum or many at a time."""

from __future__ import annotations

from typing import Annotated

import typer

from dgent.cli.command import Kg, command, misused, refuse_damaged, sure

app = typer.Typer(help="Agent memory: datums, their causes and their history.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="The id of a datum.")]
Limit = Annotated[int, typer.Option(help="How many at most.")]
Cursor = Annotated[str | None, typer.Option(help="Where the page before ended.")]
Order = Annotated[str, typer.Option(help="newest or oldest, id or -id (as text: 10 before 9), seq or -seq.")]
Expect = Annotated[int | None, typer.Option(help="The version that must be live; 0 for none.")]


@app.command()
@command
async def put(
    kg: Kg,
    content: Annotated[str, typer.Argument(help="The text, @file, or - for stdin.")],
    metadata: Annotated[list[str] | None, typer.Argument(help="key=value, or a JSON object.")] = None,
    *,
    id: Annotated[str | None, typer.Option(help="Its id; a UUIDv7 if there is none.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given again.")] = None,
    parent: Annotated[str | None, typer.Option(help="The id of what caused it.")] = None,
    author: Annotated[str | None, typer.Option(help="Who made it.")] = None,
    expect: Expect = None,
    ttl: Annotated[
        str | None, typer.Option(help="Seconds until it counts as absent; keep: when the live one would.")
    ] = None,
) -> None:
    """Store a datum and show the id and the version that it got."""
    from dgent.cli import arguments
    from dgent.datum import Datum

    datum = Datum.create(
        arguments.content(content, kg.settings.max_content),
        id=id,
        causal_parent=parent,
        author=author,
        tags=tag or (),
        metadata=arguments.assignments(metadata or (), typed=True),
    )
    life = arguments.life(ttl)
    async with kg.storage(anew=True) as storage:
        stored = await storage.memory.put(datum, expect=expect, ttl=life)
    kg.answer(stored, f"{stored.id}  version {stored.version}")


@app.command()
@command
async def get(
    kg: Kg,
    id: Id,
    version: Annotated[int | None, typer.Option(help="This version instead of the live one.")] = None,
    content: Annotated[bool, typer.Option("--content", help="Write the content alone, byte for byte.")] = False,
) -> None:
    """Show one datum."""
    from dgent.cli import output
    from dgent.exceptions import DatumNotFound

    async with kg.storage() as storage:
        found = await storage.memory.get(id, version=version)
        where = storage.memory.namespace
    if found is None:
        raise DatumNotFound(f"no {'live' if version is None else f'version {version} of'} datum {id!r} in {where!r}")
    if content and not kg.json:
        kg.raw(found.content)
    else:
        kg.answer(found, output.datum(found))


@app.command("list")
@command
async def list_(
    kg: Kg,
    prefix: Annotated[str | None, typer.Argument(help="Only ids that start with this.")] = None,
    *,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag; may be given again.")] = None,
    author: Annotated[str | None, typer.Option(help="Only by this author.")] = None,
    schema: Annotated[str | None, typer.Option(help="Only of this schema.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="path=value in the content, metadata.path=value in the metadata; !=, <, <=, >, >=; or JSON."),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Made at or after this time.")] = None,
    until: Annotated[str | None, typer.Option(help="Made before this time.")] = None,
    parent: Annotated[str | None, typer.Option(help="Only what names this id as its cause.")] = None,
    after_seq: Annotated[int | None, typer.Option(help="Only what came after this seq.")] = None,
    before_seq: Annotated[int | None, typer.Option(help="Only what came before this seq.")] = None,
    as_of: Annotated[str | None, typer.Option(help="What was live at this time, instead of now.")] = None,
    expired: Annotated[bool, typer.Option("--expired", help="Also what has expired and is not swept yet.")] = False,
    order: Order = "newest",
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List live datums, the newest first unless told otherwise. Exit 7 and name those that are not what was written."""
    from dgent.cli import arguments, output
    from dgent.query import Query

    query = Query(
        prefix=prefix,
        tags=frozenset(tag or ()),
        author=author,
        schema=schema,
        where=arguments.where(where or ()),
        since=arguments.moment(since),
        until=arguments.moment(until),
        causal_parent=parent,
        after_seq=after_seq,
        before_seq=before_seq,
        as_of=arguments.moment(as_of),
        order=order,  # type: ignore[arg-type]  # a wrong one is refused by the query
        expired=expired,
        limit=arguments.page(limit, kg.settings.max_page),
        cursor=cursor,
    )
    async with kg.storage() as storage:
        page = await storage.memory.query(query)
        where_ = storage.memory.namespace
    found = {"datums": list(page), "cursor": page.cursor, "damaged": output.damaged_records(page.damaged)}
    none = f"no datums in {where_!r}{' match' if query.asked - {'limit', 'order'} else ''}"
    kg.answer(found, output.datums(page, none=none), *output.damaged(page.damaged), *output.next_page(page.cursor))
    refuse_damaged(page.damaged)


@app.command()
@command
async def keys(
    kg: Kg,
    prefix: Annotated[str | None, typer.Argument(help="Only ids that start with this.")] = None,
    *,
    order: Order = "id",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> None:
    """List the ids of live datums, without reading their contents."""
    from dgent.cli import arguments, output

    most = arguments.page(limit, kg.settings.max_page)
    async with kg.storage() as storage:
        found = await storage.memory.keys(prefix, order=order, limit=most, cursor=cursor)  # type: ignore[arg-type]  # as in `list`
    kg.answer({"keys": list(found), "cursor": found.cursor}, output.answer(found), *output.next_page(found.cursor))


@app.command()
@command
async def segments(
    kg: Kg,
    prefix: Annotated[str | None, typer.Argument(help="Only ids that start with this.")] = None,
    *,
    delimiter: Annotated[str, typer.Option(help="What separates the segments of an id.")] = "/",
    depth: Annotated[int, typer.Option(help="How many segments below the prefix to show.")] = 1,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> None:
    """List the beginnings of ids, as a folder is listed."""
    from dgent.cli import arguments, output

    most = arguments.page(limit, kg.settings.max_page)
    async with kg.storage() as storage:
        found = await storage.memory.segments(prefix, delimiter=delimiter, depth=depth, limit=most, cursor=cursor)
    kg.answer({"segments": list(found), "cursor": found.cursor}, output.answer(found), *output.next_page(found.cursor))


@app.command()
@command
async def history(
    kg: Kg,
    id: Id,
    limit: Limit = 100,
    before: Annotated[int | None, typer.Option(help="Only versions below this one.")] = None,
) -> None:
    """Show every stored version of a datum, oldest first. Deletions are included."""
    from dgent.cli import arguments, output
    from dgent.exceptions import DatumNotFound

    limit = arguments.page(limit, kg.settings.max_page, "--before")
    async with kg.storage() as storage:
        found = await storage.memory.history(id, limit=limit, before=before)
        where = storage.memory.namespace
    if not found and before is None and limit:
        raise DatumNotFound(f"nothing was ever stored as {id!r} in {where!r}, or it was purged")
    kg.answer(found, output.revisions(found))


@app.command()
@command
async def changes(
    kg: Kg,
    after_seq: Annotated[int, typer.Option(help="Only what was stored after this seq.")] = 0,
    until: Annotated[int | None, typer.Option(help="Only what was stored up to this seq.")] = None,
    since: Annotated[str | None, typer.Option(help="Only what was stored after this time.")] = None,
    limit: Limit = 100,
) -> None:
    """Show what was put and deleted, in the order of the commits. Exit 7 and name what is not what was written."""
    from dgent.cli import arguments, output

    limit = arguments.page(limit, kg.settings.max_page, "--after-seq")
    moment = arguments.moment(since)
    async with kg.storage() as storage:
        memory = storage.memory
        start = after_seq if moment is None else max(after_seq, await memory.seq_at(moment))
        page = await memory.changes(start, until=until, limit=limit)
    found = {"changes": list(page), "seq": page.seq, "more": page.more, "damaged": output.damaged_records(page.damaged)}
    none = f"nothing was stored after seq {start:,} in {memory.namespace!r}"
    kg.answer(found, output.changes(page, none=none), *output.damaged(page.damaged), *output.behind(page))
    refuse_damaged(page.damaged)


@app.command()
@command
async def chain(
    kg: Kg,
    id: Id,
    version: Annotated[int | None, typer.Option(help="Why this version was so, as it was then.")] = None,
    as_of: Annotated[str | None, typer.Option(help="As it was at this time.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the nearest so many.")] = None,
) -> None:
    """Show what led to a datum, oldest first."""
    from dgent.cli import arguments, output
    from dgent.exceptions import DatumNotFound

    moment = arguments.moment(as_of)
    async with kg.storage() as storage:
        found = await storage.memory.causal_chain(id, version=version, as_of=moment, limit=limit)
        where = storage.memory.namespace
    if not found and limit != 0:
        kind = "live" if version is None else f"version {version} of"
        raise DatumNotFound(f"no {kind} datum {id!r} in {where!r}{f' at {as_of}' if as_of else ''}")
    kg.answer(found, output.chain(found))


@app.command()
@command
async def touch(
    kg: Kg,
    ids: Annotated[list[str], typer.Argument(help="The ids of datums.")],
    *,
    ttl: Annotated[float | None, typer.Option(help="Seconds from now until they count as absent.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Let them stay for good.")] = False,
) -> None:
    """Change when datums expire, and nothing else."""
    if (ttl is None) is not stay:
        misused("say --ttl SECONDS or --stay")
    async with kg.storage() as storage:
        touched = await storage.memory.touch(ids, ttl)
        where = storage.memory.namespace
    if not touched:
        raise _none_live(ids, where)
    kg.answer({"touched": touched}, f"touched {touched:,} of {len(ids):,}")


@app.command()
@command
async def delete(
    kg: Kg,
    ids: Annotated[list[str], typer.Argument(help="The ids of datums.")],
    *,
    expect: Expect = None,
    author: Annotated[str | None, typer.Option(help="Who deletes them, for their history.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, the same.")] = None,
) -> None:
    """Delete datums; their history stays."""
    from dgent.operations import Delete

    if expect is not None and len(ids) > 1:
        misused("--expect is for one id")
    async with kg.storage() as storage:
        outcomes = await storage.memory.apply([Delete(id, expect, author, reason) for id in dict.fromkeys(ids)])
        where = storage.memory.namespace
    deleted = sum(outcome.changed for outcome in outcomes)
    if not deleted:
        raise _none_live(ids, where)
    kg.answer({"deleted": deleted}, f"deleted {deleted:,} of {len(ids):,}; `kg memory history ID` still shows them")


@app.command()
@command
async def purge(
    kg: Kg,
    ids: Annotated[list[str], typer.Argument(help="The ids of datums.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase every version of datums for good, of all or of none."""
    from dgent.cli import output
    from dgent.exceptions import DatumNotFound

    named = repr(ids[0]) if len(ids) == 1 else f"these {len(ids):,} ids"
    if not yes:
        sure(f"Erase every version of {named} for good?")
    async with kg.storage() as storage:
        erased = await storage.memory.purge_many(ids)
        where = storage.memory.namespace
    if not erased:
        raise DatumNotFound(f"nothing was ever stored as {named} in {where!r}")
    kg.answer({"erased": erased}, f"erased {output.counted(erased, 'versions')}")


@app.command()
@command
async def erase(
    kg: Kg,
    *,
    prefix: Annotated[str | None, typer.Option(help="The datums whose ids begin with it.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All of the namespace, and its name.")] = False,
    below: Annotated[bool, typer.Option("--below", help="In the namespaces under it, too.")] = False,
    vacuum: Annotated[bool, typer.Option("--vacuum", help="Have the database clear the room where it was.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase datums with all that was ever stored of them, for good."""
    from dataclasses import asdict

    from dgent.cli import output

    if everything == bool(prefix):
        misused("say what is to be erased: either --prefix TEXT or --everything")
    if not yes:
        async with kg.storage() as storage:
            live = output.counted(await storage.memory.count(prefix=prefix), "live datums")
        what = "everything" if everything else f"every version of what begins with {prefix!r}"
        under = " and those under it" if below else ""
        sure(f"Erase {what} in the namespace {kg.settings.namespace!r} ({live} there now){under} for good?")
    async with kg.storage() as storage:
        erased = await storage.memory.erase(prefix=prefix, everything=everything, below=below, vacuum=vacuum)
    told = f"erased {output.counted(erased.versions, 'versions')} of {output.counted(erased.ids, 'ids')}"
    if erased.queued:
        told += f", and {output.counted(erased.queued, 'writes')} that waited"
    if erased.pending:
        told += f"; {erased.pending} is out of reach, and erases before anything else gets there"
    kg.answer(asdict(erased), told)


def _none_live(ids: list[str], where: str) -> Exception:
    from dgent.exceptions import DatumNotFound

    named = "none of these is live" if len(ids) > 1 else f"no live datum {ids[0]!r}"
    return DatumNotFound(f"{named} in {where!r}")
