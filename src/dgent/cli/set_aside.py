"""`kg memory set-aside`, `retry` and `discard`: writes that could not be delivered, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgent.cli.command import Kg, command, sure
from dgent.exceptions import Conflict, Corrupt, NotFound

if TYPE_CHECKING:
    from dgent.delivery import QueuedWrite
    from dgent.storage import StorageProvider

Key = Annotated[str, typer.Argument(help="The key of a write, of `kg memory set-aside`.")]


@command
async def set_aside(kg: Kg) -> None:
    """List the writes that were set aside, oldest first. What still waits is delivered before; many are cut."""
    async with kg.storage() as storage:
        await storage.memory.recover()
        entries = await storage.set_aside()
    shown = [line for entry in entries for line in _lines(entry)]
    kg.answer({"set_aside": [_record(entry) for entry in entries]}, *shown or ["nothing was set aside"])


@command
async def retry(kg: Kg, key: Key) -> None:
    """Deliver a write that was set aside, over whatever is there now."""
    async with kg.storage() as storage:
        entry = await _found(storage, key)
        if entry.raw is not None:
            raise Corrupt(
                f"{entry.what} cannot be delivered: `kg memory set-aside --json` has its bytes, then discard it"
            )
        if not await storage.retry(entry):
            raise NotFound(_unknown(key))
        for again in await storage.set_aside():
            if again.key == key:
                raise Conflict(f"{entry.what} was set aside again: {again.reason}")
    kg.answer({"key": key, "retried": True}, f"delivered: {entry.what} in {entry.namespace!r}")


@command
async def discard(
    kg: Kg, key: Key, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Erase a write that was set aside, for good."""
    if not yes:
        sure(f"Erase the write that was set aside under {key!r} for good?")
    async with kg.storage() as storage:
        entry = await _found(storage, key)
        if not await storage.discard(entry):
            raise NotFound(_unknown(key))
    kg.answer({"key": key, "discarded": True}, f"erased: {entry.what}")


async def _found(storage: StorageProvider, key: str) -> QueuedWrite:
    found = [entry for entry in await storage.set_aside() if entry.key == key]
    if not found:
        raise NotFound(_unknown(key))
    return found[0]


def _unknown(key: str) -> str:
    return f"no write was set aside under {key!r}: see `kg memory set-aside`"


def _record(entry: QueuedWrite) -> dict[str, Any]:
    """Return an entry as a JSON object: of one that is damaged its bytes, in base64."""
    record: dict[str, Any] = {"key": entry.key, "at": entry.at, "reason": entry.reason}
    if entry.raw is not None:
        return record | {"what": "damaged", "raw": entry.raw}
    return record | {"what": entry.kind, "id": entry.id, "namespace": entry.namespace, "datum": entry.datum}


def _lines(entry: QueuedWrite) -> list[str]:
    from dgent.cli.output import when

    where = "" if entry.raw is not None else f" in {entry.namespace!r}"
    taken = f", {when(entry.at)} UTC" if entry.at else ""
    what = "damaged; --json has its bytes" if entry.raw is not None else entry.what
    return [entry.key, f"  {what}{where}{taken}: {' '.join(entry.reason.split())}"]
