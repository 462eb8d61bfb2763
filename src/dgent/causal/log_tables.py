"""The tables of the causal substrate. Alembic leaves them alone: code here makes them on first use.

Two of them are those of the `agent-store` crate, column by column, so that either program opens the other's file.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table

from dgent.sql.constructs import BYTEWISE
from dgent.sql.error_details import declare
from dgent.sql.table_set import TableSet

FORMAT: Final = 1

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # which says INTEGER, as the crate does

metadata = MetaData()
declare(metadata)

TABLES: Final = TableSet("the tables of logs", "format.log", metadata, FORMAT)


def _log(name: str, *, rowid: bool) -> Table:
    return Table(
        name,
        metadata,
        Column("stream", BYTEWISE, primary_key=True),
        Column("writer", BYTEWISE, primary_key=True),
        Column("seq", _NUMBER, primary_key=True, autoincrement=False),
        Column("prev_hash", LargeBinary),
        Column("content_hash", LargeBinary, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        sqlite_with_rowid=rowid,
    )


own_log = _log("dgent_log", rowid=False)
agent_store_log = _log("_agent_store_log", rowid=True)

generations = Table(
    "_agent_store_meta",
    metadata,
    Column("key", BYTEWISE, primary_key=True),
    Column("ival", _NUMBER, nullable=False),
)


checkpoints = Table(
    "dgent_checkpoints",
    metadata,
    Column("stream", BYTEWISE, primary_key=True),
    Column("writer", BYTEWISE, primary_key=True),
    Column("format", BYTEWISE, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("signer", BYTEWISE, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
