"""Each purpose has an advisory lock of its own, and no number is written anywhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select, text

import dgent
from dgent.causal import log_tables
from dgent.memory import datum_index
from dgent.models import Base
from dgent.sql.advisory_locks import AdvisoryLock, causes_of
from dgent.sql.constructs import transaction_lock

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dgent.sql.postgres.database import PostgresDatabase

PACKAGE = Path(dgent.__file__).parent
_KEY = re.compile(r"\b0x[0-9a-fA-F]{6,}\b|transaction_lock\((?!AdvisoryLock\.|0\)|Fun)|advisory\w*lock\w*\((?!\{)")


def test_no_two_purposes_share_a_number() -> None:
    numbers = [int(lock) for lock in AdvisoryLock.__members__.values()]
    tables = [causes_of(name) for name in Base.metadata.tables]
    assert len({*numbers, *tables}) == len(numbers) + len(tables)
    assert len(AdvisoryLock.__members__) == len({*AdvisoryLock})  # an alias would be a number used twice
    assert all(0 < number < 2**63 for number in numbers)
    assert all(-(2**63) <= number < 0 for number in tables)


def test_no_number_of_a_lock_is_written_elsewhere() -> None:
    known = {"advisory_locks.py", "query.py", "constructs.py"}  # the last code point of Unicode; what takes a lock
    others = [path for path in PACKAGE.rglob("*.py") if path.name not in known]
    assert others
    assert {path.name: found for path in others if (found := _KEY.findall(path.read_text("utf-8")))} == {}


async def test_who_opens_tables_that_are_there_waits_for_nobody(postgres: PostgresDatabase) -> None:
    held: list[set[int]] = []

    def both(connection: Connection) -> None:
        for tables in (datum_index.TABLES, log_tables.TABLES):
            tables.prepare(connection)
            held.append(_locks(connection))

    await postgres.write(both)
    await postgres.write(both)
    made = await postgres.write(lambda connection: _hashed(connection, AdvisoryLock.TABLE_SETS))
    assert held == [{made}, {made}, set(), set()]


async def test_a_lock_is_the_one_that_its_number_names(postgres: PostgresDatabase) -> None:
    for key in (AdvisoryLock.OLD_OUTBOX, causes_of("brain_crystals")):
        held = await postgres.write(lambda c, key=key: (c.execute(select(transaction_lock(key))), _locks(c))[1])
        assert held == {await postgres.write(lambda c, key=key: _hashed(c, key))}


def _hashed(connection: Connection, key: int) -> int:
    """Return the number that a lock has in the schema of the connection."""
    found = connection.execute(text("SELECT hashtextextended(current_schema(), :key)"), {"key": int(key)}).scalar_one()
    return int(found)


def _locks(connection: Connection) -> set[int]:
    rows = connection.execute(
        text(
            "SELECT classid::bigint, objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
    )
    keys = {(high << 32) | low for high, low in rows}
    return {key - 2**64 if key >= 2**63 else key for key in keys}
