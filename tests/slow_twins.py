"""Slow tests whose twin shows the same law: `make faults` runs both, `make test` the twin."""

from __future__ import annotations

import re

SLOW_TWINS = {
    r"bridge/test_transaction_block\.py::\w+\[postgres-elsewhere-": (
        "the end of a block does not depend on both the database and the place of memory: "
        "[postgres-same database] and [sqlite-elsewhere] show the law for each"
    ),
    r"crystal/test_promotion_end_to_end\.py::\w+\[postgres": (
        "thirty processes; what they do to PostgreSQL is in crystal/test_copying.py and migrations/"
    ),
    r"crystal/test_copying\.py::test_a_promotion_that_is_killed_goes_on\[postgres": (
        "a kill on PostgreSQL is in crystal/test_upgrade_processes.py, a backfill beside writers in this file"
    ),
    r"(memory/test_sqlite_backend|bridge/test_contract)\.py::TestInMemory::"
    r"test_(l_c3|l_d[67]|l_t1|a_value|a_tampered)_": (
        "TestSQLite in the same file runs the same SQL; L-D3, which draws every verb, shows the database in memory"
    ),
    r"sync/test_contract\.py::Test(SyncSQLite|SyncJSONL|SyncPostgres|AnywhereSQLite)::"
    r"test_(l_c3|l_d[67]|l_d8_a_deep|l_t1|a_value|a_tampered)_": (
        "TestSyncInMemory in the same file goes the same ways; L-D3, which draws every verb, shows TestSyncSQLite"
    ),
    r"sync/test_contract\.py::Test(SyncJSONL|SyncPostgres|AnywhereSQLite)::test_l_d3_": (
        "TestSyncSQLite and TestSyncInMemory go the same ways; the other laws show each of these stores"
    ),
}
"""What the id of a test has in it, and why its twin is enough."""

_ANY = re.compile("|".join(SLOW_TWINS))


def is_slow_twin(id: str) -> bool:
    """Tell whether a test is left to `make faults`."""
    return _ANY.search(id) is not None
