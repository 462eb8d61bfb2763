"""`python -m dgent.cli.demo [FILE]`: import a conversation and look at both tracks."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

from dgent import Query, StorageProvider
from dgent.cli import output
from dgent.cli.command import Kg, ended
from dgent.cli.progress import progress
from dgent.importing.conversation_file import Conversation, parse_conversation, read_conversation
from dgent.importing.conversation_import import import_conversation, turn_id
from dgent.models import Citizen, CitizenConversation, ConversationTurn, Crystal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SAMPLE = Path(__file__).with_name("sample.json")
CHAIN = 6
LIST = "self.data.table.brain_crystals.list"


async def run(console: Console, storage: StorageProvider, conversation: Conversation, name: str) -> None:
    """Import the conversation and show what a person would want to see."""
    schema = await storage.run_migrations()
    console.print(Text.assemble(("D-gent", "bold"), f"  both tracks in one database, schema {schema}\n"))
    await _import(console, storage, conversation, name)
    await _count(console, storage)
    await _newest(console, storage)
    await _chain(console, storage, conversation)
    await _tagged(console, storage, conversation)
    await _bridged(console, storage)
    _further(console, storage, conversation)


async def _import(console: Console, storage: StorageProvider, conversation: Conversation, name: str) -> None:
    started = time.perf_counter()
    with progress(f"importing {name}", conversation.size) as advance:
        done = await import_conversation(storage, conversation, advance)
    took = time.perf_counter() - started
    console.print(output.line(output.imported(done, name)))
    if written := done.new.turns + done.new.crystals:
        console.print(
            f"each turn and each crystal is a row [b]and[/b] a datum: {2 * written:,} records in {took:.2f} s,"
            f" {2 * written / took:,.0f} a second, durable\n"
        )
    else:
        console.print("nothing was imported twice\n")


async def _count(console: Console, storage: StorageProvider) -> None:
    table = output.grid("track", "where", "records")
    table.columns[2].justify = "right"
    models = (Citizen, CitizenConversation, ConversationTurn, Crystal)
    for track, model in zip(("application state", "", "", ""), models, strict=True):
        table.add_row(track, model.__tablename__, f"{await storage.table(model).count():,}")
    table.add_row("agent memory", f"namespace {storage.memory.namespace}", f"{await storage.memory.count():,}")
    console.print(table)


async def _newest(console: Console, storage: StorageProvider) -> None:
    _titled(
        console, "the newest crystals, by path", LIST, output.datums(await storage.resolve(LIST, limit=5), times=False)
    )


async def _chain(console: Console, storage: StorageProvider, conversation: Conversation) -> None:
    longest = max(conversation.sessions, key=lambda session: len(session.turns))
    if not longest.turns:
        return
    id = turn_id(conversation, longest, min(len(longest.turns), CHAIN) - 1)
    found = await storage.memory.causal_chain(id)
    _titled(console, "what led to one turn", f"storage.memory.causal_chain({id!r})", output.chain(found))


async def _tagged(console: Console, storage: StorageProvider, conversation: Conversation) -> None:
    tags = frozenset({conversation.speakers[0], "session-1"})
    query = Query(tags=tags, limit=4)
    code = f"Query(tags={{{', '.join(repr(tag) for tag in sorted(tags))}}}, limit=4)"
    _titled(console, "found by tag", code, output.datums(await storage.memory.query(query), times=False))


async def _bridged(console: Console, storage: StorageProvider) -> None:
    crystals = storage.table(Crystal)
    for newest in await crystals.list(limit=1):
        datum = await crystals.get(newest.id)
        assert datum is not None  # noqa: S101  # it was listed a moment ago, and nobody else writes a demo
        record = {"id": datum.id, "data": datum.data, **datum.to_dict()}
        record.pop("text")
        code = f"storage.table(Crystal).get({datum.id!r})"
        _titled(console, "a row, fetched as a datum", code, output.document(record))


def _further(console: Console, storage: StorageProvider, conversation: Conversation) -> None:
    kg = _kg(storage)
    id = shlex.quote(turn_id(conversation, conversation.sessions[0], 0))
    commands = {
        "status": "where the data is, and its state",
        f"brain search --tag {shlex.quote(conversation.speakers[0])}": "crystals by tag, text and time",
        "data self.data.table": "what an agent can reach",
        f"memory get {id}": "one turn, as agent memory has it",
        "memory export memory.jsonl": "everything, as JSON lines",
    }
    _titled(console, "where it lies, and what to type", storage.database.what, Text())
    width = max(map(len, commands))
    for words, what in commands.items():  # each on one line, however narrow the screen: they are there to be copied
        console.print(Text.assemble((f"  {kg} {words:{width}}", "cyan"), (f"  # {what}", "dim")), soft_wrap=True)


def _kg(storage: StorageProvider) -> str:
    """Return the command as it can be typed here and now."""
    beside = Path(sys.executable).with_name("kg")
    if shutil.which("kg") == str(beside):
        command = "kg"
    else:
        command = str(_near(beside)) if beside.exists() else f"{_near(Path(sys.executable))} -m dgent.cli"
    return f"{command} --data-dir {shlex.quote(str(_near(storage.settings.data_dir)))}"


def _near(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _titled(console: Console, title: str, code: str, body: RenderableType) -> None:
    console.print(Text())
    console.print(Text.assemble((title, "bold"), "  ", (output.clean(code), "dim")))
    console.print(Padding(body, (0, 0, 0, 2), expand=False))


def main() -> None:
    """Run the demo on the file that is named, or on the one that the package brings along."""
    import typer

    kg = Kg()

    async def work(path: Path | None) -> None:
        conversation = parse_conversation(SAMPLE.read_bytes(), SAMPLE.name) if path is None else read_conversation(path)
        async with kg.storage(anew=True) as storage:
            await run(kg.console, storage, conversation, "a small conversation" if path is None else path.name)

    try:
        with ended(kg):
            asyncio.run(work(Path(sys.argv[1]) if sys.argv[1:] else None))
    except typer.Exit as end:
        sys.exit(end.exit_code)


if __name__ == "__main__":
    main()
