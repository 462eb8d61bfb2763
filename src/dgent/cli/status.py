"""`kg status`: where the data is and its state, or, where the first store does not answer, what the manifest knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dgent.cli.command import Kg, command
from dgent.cli.exit_codes import ExitCode, exit_code
from dgent.exceptions import DgentError

if TYPE_CHECKING:
    from collections.abc import Mapping


@command
async def status(kg: Kg) -> None:
    """Show where the data is, and its state. Exit 6, with what the manifest knows, if it does not answer."""
    from dgent.cli import output

    try:
        async with kg.storage() as storage:
            found = {"data_dir": str(kg.settings.data_dir), **await storage.status()}
    except DgentError as error:
        if exit_code(error) is ExitCode.UNAVAILABLE:
            _without_an_answer(kg, error)
        raise
    kg.answer(found, output.pairs(_for_people(found)))


def _without_an_answer(kg: Kg, error: DgentError) -> None:
    """Show what is known of a database that is out of reach; nothing is opened."""
    from dgent.cli import output
    from dgent.cli.stores import described, known_stores
    from dgent.settings import shown

    stores, url = known_stores(kg), kg.settings.url
    found: dict[str, Any] = {
        "data_dir": str(kg.settings.data_dir),
        "database": str(url.database) if url.get_backend_name() == "sqlite" else shown(url),
        "available": False,
        "reason": str(error),
        "manifest": str(kg.settings.manifest_path),
        "stores": stores,
    }
    facts = {name: value for name, value in found.items() if name != "stores"}
    kg.answer(found, output.pairs(facts), *map(described, stores))


def _for_people(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status with the next command where one is due."""
    memory = dict(found["memory"])
    memory["read_only"] = memory["read_only"] or False
    if memory["set_aside"]:
        memory["set_aside"] = f"{memory['set_aside']:,}: `kg memory set-aside` lists them"
    schema = found["schema"] or "none: run `kg db upgrade`"
    return {**found, "schema": schema, "memory": memory}
