"""`kg memory export` and `kg memory import`: datums as JSON lines."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from dgent.cli.command import Kg, command, misused
from dgent.exceptions import InvalidFile, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from dgent.datum import Datum
    from dgent.limits import Limits
    from dgent.page import Page
    from dgent.store import DgentProtocol

PAGE = 1000
BATCH = 500
BATCH_BYTES = 8 * 2**20


@command
async def export(
    kg: Kg,
    file: Annotated[Path | None, typer.Argument(help="A file, written whole or not at all; - or none: stdout.")] = None,
) -> None:
    """Write all live datums as JSON lines.

    They come in the order in which they were stored. The lines may be cut, sorted and put together, so none says how
    many there are: compare what this says with what the import says.
    """
    from dgent.cli.output import counted
    from dgent.cli.progress import progress

    async with kg.storage() as storage:
        memory = storage.memory
        with progress("exporting", await memory.count()) as advance:
            if file is None or str(file) == "-":
                async for lines in _pages(memory, advance):
                    kg.raw(b"".join(lines))
                return
            written = await _to_file(file, memory, advance)
    kg.answer({"file": str(file), "datums": written}, f"{counted(written, 'datums')} in {file}")


@command
async def import_(kg: Kg, file: Annotated[str, typer.Argument(help="A file of JSON lines, or - for stdin.")]) -> None:
    """Store the datums of a file of JSON lines.

    Each batch is one transaction. At a line that is wrong the batch stops with nothing of it stored; what was stored
    before stays. Mend the line and run it again: a datum that is there already is not stored twice. A file that lacks
    lines is not told from a whole one: compare how many were read with how many the export wrote.
    """
    from dgent.cli.output import counted
    from dgent.cli.progress import progress

    read = new = 0
    with _opened(file) as (lines, size):
        async with kg.storage(anew=True) as storage:
            seen = (await storage.memory.stats()).seq
            with progress("importing", size) as advance:
                for batch, amount in _batches(lines, file, storage.settings.limits):
                    stored = await storage.memory.put_many(batch, ttl="keep")
                    read += len(batch)
                    fresh = {datum.seq for datum in stored if datum.seq > seen}  # one that comes twice is new once
                    new, seen = new + len(fresh), max(fresh, default=seen)
                    advance(amount)
    done = {"read": read, "new": new, "unchanged": read - new}
    kg.answer(done, f"{counted(read, 'datums')} read: {new:,} new, {read - new:,} there already")


async def _pages(memory: DgentProtocol, advance: Callable[[int], None]) -> AsyncIterator[list[bytes]]:
    from dgent.query import Query

    cursor = None
    while True:
        page = _whole(await memory.query(Query(order="seq", limit=PAGE, cursor=cursor)))
        yield [datum.to_json().encode() + b"\n" for datum in page]
        advance(len(page))
        cursor = page.cursor
        if cursor is None:
            return


def _whole(page: Page) -> Page:
    """Return the page, if nothing was left out of it."""
    from dgent.exceptions import Corrupt

    if page.damaged:
        id, version, reason, _ = page.damaged[0]
        raise Corrupt(
            f"version {version} of {id!r:.200} is not what was written ({reason}), and {len(page.damaged) - 1:,} more "
            "next to it are not, so the export ends here: `kg memory list --json` names them and has what is left of "
            "their bytes; restore a backup, or erase each with `kg memory purge ID`"
        )
    return page


async def _to_file(file: Path, memory: DgentProtocol, advance: Callable[[int], None]) -> int:
    from dgent.runtime.durable_files import os_errors, write_all

    written = 0
    with os_errors(file), _replacement(file) as fd:
        async for lines in _pages(memory, advance):
            write_all(fd, b"".join(lines))
            written += len(lines)
    return written


@contextmanager
def _replacement(file: Path) -> Iterator[int]:
    """Open a file beside this one that takes its place when it is whole: a reader sees the old one or the new one."""
    import tempfile

    from dgent.runtime.durable_files import sync_directory

    if file.exists() and not file.is_file():
        misused(f"{file} is no file that can be replaced: leave it out to write to stdout")
    if not file.parent.is_dir():
        raise NotFound(f"{file.parent}: there is no such folder")
    fd, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # its mode is 0600
    try:
        yield fd
        os.fsync(fd)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink()
        raise
    finally:
        os.close(fd)
    sync_directory(file.parent)


@contextmanager
def _opened(name: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Open a file or stdin, and tell its size where it has one."""
    if name == "-":
        yield sys.stdin.buffer, None
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115  # closed below; an error of the block is not one of opening
    except FileNotFoundError:
        raise NotFound(f"{name}: there is no such file") from None
    with file:
        yield file, os.fstat(file.fileno()).st_size or None


def _batches(file: BinaryIO, name: str, limits: Limits) -> Iterator[tuple[list[Datum], int]]:
    """Read datums in batches, each with how many bytes it took."""
    longest = 6 * (limits.max_content + limits.max_metadata) + 8192  # JSON writes one control character as six
    batch: list[Datum] = []
    size = 0
    for number in count(1):
        line = file.readline(longest + 1)
        if len(line) > longest:
            raise InvalidFile(f"{name}: line {number} is longer than the settings allow any datum to be")
        if line.strip():
            batch.append(_datum(line, f"{name}: line {number}", limits))
        size += len(line)
        if batch and (not line or len(batch) == BATCH or size > BATCH_BYTES):
            yield batch, size
            batch, size = [], 0
        if not line:
            return


def _datum(line: bytes, where: str, limits: Limits) -> Datum:
    from dgent.datum import Datum

    try:
        datum = Datum.from_json(line)
        limits.admit(datum)
    except InvalidInput as error:
        raise InvalidFile(f"{where}: {error}; nothing from this batch on was stored") from None
    return datum
