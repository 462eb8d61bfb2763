"""`kg data`, `kg town` and `kg brain`: both tracks together."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations at run time
from typing import Annotated

import typer

from dgent.cli.command import Kg, command, refuse_damaged

town = typer.Typer(help="Conversations.", no_args_is_help=True)
brain = typer.Typer(help="Crystals: what is worth keeping.", no_args_is_help=True)


@command
async def data(
    kg: Kg,
    path: Annotated[str, typer.Argument(help="self.data.<verb> or self.data.table.<table>.<verb>")],
    arguments: Annotated[list[str] | None, typer.Argument(help="key=value, or a JSON object.")] = None,
    *,
    who: Annotated[str, typer.Option("--as", help="Who asks.")] = "kg",
    write: Annotated[bool, typer.Option("--write", help="Grant writing everywhere.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Grant writing and erasing everywhere.")] = False,
) -> None:
    """Follow an agent path, as a reader. A path that stops early lists what is there."""
    from dgent.agentese import Umwelt
    from dgent.cli import arguments as values
    from dgent.cli import output

    umwelt = Umwelt.owner(who) if purge else Umwelt.of(who, memory="write", write="*") if write else Umwelt.reader(who)
    given = values.assignments(arguments or (), typed=False)
    async with kg.storage(anew=write or purge) as storage:
        found = await storage.resolve(path, umwelt, **given)
    cursor, damaged = getattr(found, "cursor", None), getattr(found, "damaged", ())
    kg.answer(found, output.answer(found), *output.damaged(damaged), *output.next_page(cursor, "cursor="))
    refuse_damaged(damaged)


@town.command("import")
@command
async def import_(kg: Kg, file: Annotated[Path, typer.Argument(help="A conversation, as JSON.")]) -> None:
    """Read a conversation into both tracks. What is there already stays as it is."""
    from dgent.cli import output
    from dgent.cli.progress import progress
    from dgent.importing.conversation_file import read_conversation
    from dgent.importing.conversation_import import import_conversation

    conversation = read_conversation(file)
    async with kg.storage(anew=True) as storage:
        with progress("importing", conversation.size) as advance:
            done = await import_conversation(storage, conversation, advance)
    found = {"conversation": conversation.name, "new": done.new._asdict(), "known": done.known._asdict()}
    kg.answer(found, output.imported(done, file.name))


@brain.command()
@command
async def capture(
    kg: Kg,
    content: Annotated[str, typer.Argument(help="The text, @file, or - for stdin.")],
    *,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given again.")] = None,
    id: Annotated[str | None, typer.Option(help="Its id; a UUIDv7 if there is none.")] = None,
    parent: Annotated[str | None, typer.Option(help="The id of the datum that led to it.")] = None,
    author: Annotated[str | None, typer.Option(help="Whose thought it is.")] = None,
) -> None:
    """Keep a text as a crystal: a row and a datum."""
    from dgent.cli import arguments as values
    from dgent.cli import output
    from dgent.services import Brain

    text = values.text(content, kg.settings.max_content)
    async with kg.storage(anew=True) as storage:
        crystal = await Brain(storage).capture(text, tag or (), id=id, causal_parent=parent, author=author)
    kg.answer(output.crystal_record(crystal), crystal.id)


@brain.command()
@command
async def search(
    kg: Kg,
    text: Annotated[str | None, typer.Argument(help="Text that the content holds.")] = None,
    *,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag; may be given again.")] = None,
    since: Annotated[str | None, typer.Option(help="Made at or after this time.")] = None,
    until: Annotated[str | None, typer.Option(help="Made before this time.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
) -> None:
    """Find crystals by text, tag and time, the newest first."""
    from dgent.cli import arguments as values
    from dgent.cli import output
    from dgent.services import Brain

    limit = values.page(limit, kg.settings.max_page)
    times = {"since": values.moment(since), "until": values.moment(until)}
    async with kg.storage() as storage:
        page = await Brain(storage).search(tags=tag or (), text=text, limit=limit, cursor=cursor, **times)
    records = [output.crystal_record(crystal) for crystal in page]
    found = {"crystals": records, "cursor": page.cursor, "damaged": output.damaged_records(page.damaged)}
    kg.answer(found, output.crystals(page), *output.damaged(page.damaged), *output.next_page(page.cursor))
    refuse_damaged(page.damaged)
