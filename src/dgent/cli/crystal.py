"""`kg crystal`: typed memories, their schemas, and the road to a table and back."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgent.cli.command import Kg, command, refuse_damaged
from dgent.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgent.bridge import TableAdapter
    from dgent.crystal import Schema
    from dgent.crystal.batches import BatchReport
    from dgent.crystal.copying import CopyReport
    from dgent.crystal.universe import Found
    from dgent.storage import StorageProvider

app = typer.Typer(help="Crystals: typed memories under versioned schemas.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="SCHEMA", help="The schema, as `kg crystal schemas` names it.")]
Table = Annotated[str, typer.Option(help="The table.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Try everything, write nothing.")]


@app.command()
@command
async def schemas(kg: Kg) -> None:
    """List the schemas that are known, and the versions they read."""
    from dgent.cli.output import grid
    from dgent.crystal import DECLARED

    kg.import_modules()
    table = grid("schema", "version", "reads", "fields")
    for each in DECLARED:
        table.add_row(each.name, str(each.version), _reads(each), ", ".join(each.fields))
    kg.answer([_schema_record(each) for each in DECLARED], table)


@app.command()
@command
async def show(
    kg: Kg,
    id: Annotated[str, typer.Argument(help="The id of a crystal.")],
    version: Annotated[int | None, typer.Option(help="This version instead of the live one.")] = None,
) -> None:
    """Show one crystal, upgraded. Where its schema is not known, show the datum."""
    from dgent.exceptions import DatumNotFound

    async with kg.storage() as storage:
        found = await storage.universe.get(id, version=version)
    if found is None:
        raise DatumNotFound(f"no {'live' if version is None else f'version {version} of'} crystal {id!r}")
    kg.answer(_record(found), *_shown(found))


@app.command()
@command
async def query(
    kg: Kg,
    schema: Annotated[str | None, typer.Argument(help="Only of this schema.")] = None,
    *,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag; may be given again.")] = None,
    author: Annotated[str | None, typer.Option(help="Only by this author.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="path=value in what is stored, metadata.path=value in its metadata; !=, <, <=, >, >=; or JSON."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Made at or after this time.")] = None,
    until: Annotated[str | None, typer.Option(help="Made before this time.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
) -> None:
    """Find crystals, the newest first. What is none is shown as a datum, with the reason."""
    from dgent.cli import arguments
    from dgent.cli.output import damaged, damaged_records, next_page
    from dgent.query import Query

    asked = Query(
        schema=schema,
        tags=frozenset(tag or ()),
        author=author,
        where=arguments.where(where or ()),
        since=arguments.moment(since),
        until=arguments.moment(until),
        limit=arguments.page(limit, kg.settings.max_page),
        cursor=cursor,
    )
    async with kg.storage() as storage:
        page = await storage.universe.query(asked)
    answer = {
        "crystals": [_record(found) for found in page],
        "cursor": page.cursor,
        "unreadable": [each._asdict() for each in page.unreadable],
        "damaged": damaged_records(page.damaged),
    }
    unreadable = [f"a datum, and no crystal of {each.schema}: {each.id}: {each.reason}" for each in page.unreadable]
    kg.answer(answer, _listed(page), *unreadable, *damaged(page.damaged), *next_page(page.cursor))
    refuse_damaged(page.damaged)


@app.command()
@command
async def upgrade(kg: Kg, schema: Name, *, dry_run: DryRun = False) -> None:
    """Rewrite the crystals of older versions. It may be interrupted and run again."""
    from dataclasses import asdict

    from dgent.cli.progress import progress

    async with kg.storage() as storage:
        with progress(f"{'trying' if dry_run else 'upgrading'} {schema}", None) as advance:
            done = await storage.universe.upgrade(schema, dry_run=dry_run, progress=advance)
    found = ", ".join(f"{count:,} of version {version}" for version, count in sorted(done.found.items()))
    did = f"{done.older - done.failed:,} would be upgraded" if dry_run else f"{done.upgraded:,} upgraded"
    kg.answer(asdict(done), f"{schema}: {found or 'none'}; {did} to version {done.version}", *_failures(done))
    _end(failed=done.failed > 0)


@app.command()
@command
async def promote(
    kg: Kg,
    schema: Name,
    table: Table,
    *,
    index: Annotated[list[str] | None, typer.Option(help="A column to index; may be given again.")] = None,
    into: Annotated[Path | None, typer.Option(help="A checkout: the folder with models/ and alembic/.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written.")] = False,
) -> None:
    """Write a model and a migration for a settled schema. Look at both before you run them."""
    from dgent.crystal import DECLARED
    from dgent.crystal.promotion import promote as write

    kg.import_modules()
    done = write(DECLARED.named(schema), table, indexes=index or (), into=into, dry_run=dry_run)
    files = {done.model_path: done.model_source, done.revision_path: done.revision_source}
    lines = [f"{'would write' if dry_run else 'wrote'} {path}" for path in files]
    if dry_run:
        lines = [part for line, text in zip(lines, files.values(), strict=True) for part in (f"# {line}", text)]
    else:
        lines.append(f"look at both, then `kg db upgrade` and `kg crystal backfill {schema} --table {table}`")
    kg.answer([{"file": str(path), "text": text} for path, text in files.items()], *lines)


@app.command()
@command
async def backfill(kg: Kg, schema: Name, table: Table, *, dry_run: DryRun = False) -> None:
    """Copy the crystals of a schema into its table. They are read back; it may be interrupted and run again."""
    from dgent.cli.progress import progress
    from dgent.crystal import DECLARED
    from dgent.crystal.copying import backfill as copy

    async with kg.storage() as storage:
        known, adapter = DECLARED.named(schema), _adapter(storage, table)
        with progress(f"{'trying' if dry_run else 'copying'} {schema}", None) as advance:
            done = await copy(storage.memory, known, adapter, dry_run=dry_run, progress=advance)
    _copied(kg, done, f"{schema} into {table}", "crystals", dry_run=dry_run)
    _end(failed=done.failed > 0 if dry_run else not done.complete)


@app.command()
@command
async def demote(kg: Kg, schema: Name, table: Table, *, dry_run: DryRun = False) -> None:
    """Make crystals of the rows of a table. A crystal that says something else gets a new version."""
    from dgent.cli.progress import progress
    from dgent.crystal import DECLARED
    from dgent.crystal.copying import demote as copy

    async with kg.storage() as storage:
        known, adapter = DECLARED.named(schema), _adapter(storage, table)
        with progress(f"{'trying' if dry_run else 'reading'} {table}", None) as advance:
            done = await copy(adapter, known, storage.memory, dry_run=dry_run, progress=advance)
    _copied(kg, done, f"{table} into {schema}", "rows", dry_run=dry_run)
    _end(failed=done.failed > 0 if dry_run else not done.complete)


def _adapter(storage: StorageProvider, table: str) -> TableAdapter:
    from dgent.error_messages import nearest
    from dgent.exceptions import TableNotFound
    from dgent.models import Base

    models = {mapper.local_table.name: mapper.class_ for mapper in Base.registry.mappers}  # type: ignore[attr-defined]
    if table not in models:
        raise TableNotFound(f"no model that was imported has the table {table!r}{nearest(table, models)}")
    return storage.table(models[table])


def _copied(kg: Kg, done: CopyReport, what: str, unit: str, *, dry_run: bool) -> None:
    from dataclasses import asdict

    tried = f"{done.found - done.failed:,} would be copied"
    copied = f"{done.written:,} written now, {done.verified:,} read back and equal"
    lines = [f"{what}: {done.found:,} {unit}, {tried if dry_run else copied}", *_failures(done)]
    if done.different:
        ids = ", ".join(done.differing) + (", ..." if done.different > len(done.differing) else "")
        lines += [
            f"{done.different:,} are there already, say something else and stay as they are: {ids}",
            f"`kg crystal demote {done.schema} --table {done.table}` takes what the rows say into memory",
        ]
    kg.answer(asdict(done), *lines)


def _end(*, failed: bool) -> None:
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _failures(report: BatchReport) -> list[str]:
    lines = [f"{id}: {reason}" for id, reason in report.failures.items()]
    more = report.failed - len(lines)
    return [*lines, f"and {more:,} more"] if more > 0 else lines


def _reads(schema: Schema[Any]) -> str:
    first = max(schema.gaps, default=0) + 1
    return f"{first} to {schema.version}" if first < schema.version else f"{schema.version} only"


def _schema_record(schema: Schema[Any]) -> dict[str, Any]:
    contract = schema.contract
    return {
        "name": schema.name,
        "version": schema.version,
        "contract": f"{contract.__module__}.{contract.__qualname__}",
        "gaps": schema.gaps,
        "fields": list(schema.fields),
    }


def _record(found: Found) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    from dgent.datum import Datum

    if isinstance(found, Datum):
        return found.to_dict()
    datum, meta = found.datum, found.meta
    return {
        "id": found.id,
        "schema": meta.schema_name,
        "schema_version": meta.schema_version,
        "crystallized_from": meta.crystallized_from,
        "value": to_jsonable_python(found.value, bytes_mode="base64"),
        "created_at": datum.created_at,
        "causal_parent": datum.causal_parent,
        "metadata": dict(datum.metadata),
        "version": datum.version,
        "seq": datum.seq,
    }


def _shown(found: Found) -> list[RenderableType]:
    from dgent.cli import output as look
    from dgent.datum import Datum

    if isinstance(found, Datum):
        return [f"the schema {found.schema} is not known here: this is what is stored", look.datum(found)]
    record = _record(found)
    value = record.pop("value")
    record["created_at"] = f"{look.when(found.datum.created_at)} UTC"
    return [look.pairs(record), look.document(value)]


def _listed(page: list[Any]) -> RenderableType:
    from rich.text import Text

    from dgent.cli import output as look
    from dgent.datum import Datum

    table = look.grid("id", "created (UTC)", "schema", "content")
    for found in page:
        datum = found if isinstance(found, Datum) else found.datum
        name = f"{datum.schema or '-'}{'' if isinstance(found, Datum) else f' {found.meta.schema_version}'}"
        about = look.about(_gist(found), sorted(datum.tags))
        table.add_row(look.line(datum.id, "cyan"), Text(look.when(datum.created_at), "dim"), look.line(name), about)
    return look.or_none(table, "no crystals")


def _gist(found: Found) -> str:
    """Return what a crystal is about: its title, else its first text."""
    from dgent.cli import output as look
    from dgent.datum import Datum

    gist = look.gist(found if isinstance(found, Datum) else found.datum)
    if isinstance(found, Datum) or not gist.startswith("{"):
        return gist
    texts = (value for value in _record(found)["value"].values() if isinstance(value, str) and value)
    return next(texts, gist)[:400]
