"""Slow tests whose twin shows the same law: `make faults` runs both, `make test` the twin."""

from __future__ import annotations

import re

_DRAWN = r"test_(l_c3|l_d[678]|l_d9_any|l_q\d|l_t1|a_value|any_moment|a_tampered)_"
"""The laws that are drawn, but for L-D3, which draws every verb."""

SLOW_TWINS = {
    r"bridge/test_transaction_block\.py::\w+\[(postgres-elsewhere|sqlite-same database)-": (
        "the end of a block does not depend on both the database and the place of memory: "
        "[postgres-same database] and [sqlite-elsewhere] show the law for each"
    ),
    r"crystal/test_promotion_end_to_end\.py": (
        "thirty processes in a row; each station is in crystal/test_promotion.py, test_copying.py and migrations/"
    ),
    r"crystal/test_promotion\.py::test_what_was_promoted_is_clean_for_ruff_and_mypy": (
        "two type checkers over a new project; test_the_table_of_the_model_is_that_of_the_revision reads the same files"
    ),
    r"crystal/test_copying\.py::test_a_promotion_that_is_killed_goes_on\[postgres": (
        "a kill on PostgreSQL is in crystal/test_upgrade_processes.py, a backfill beside writers in this file"
    ),
    r"(memory/test_sqlite_backend|bridge/test_contract)\.py::TestInMemory::(?!test_l_d3_)": (
        "TestSQLite in the same file runs the same SQL; L-D3, which draws every verb, shows the database in memory"
    ),
    rf"memory/test_failover_router\.py::TestRouter::{_DRAWN}": (
        "the router hands the verbs to stores whose own tests draw these laws; L-D3, which draws every verb, goes "
        "through it"
    ),
    rf"bridge/test_contract\.py::TestOnPostgres::{_DRAWN}": (
        "TestOnSQLite in the same file runs the same statements; L-D3, which draws every verb, shows them on PostgreSQL"
    ),
    r"(memory|services|bridge)/test_interleavings\.py::\w+\[sqlite": (
        "on SQLite the first statement of a write excludes every other writer; on PostgreSQL, in the same test, rows do"
    ),
    r"sync/test_contract\.py::Test(SyncSQLite|SyncJSONL|SyncPostgres|AnywhereSQLite)::": (
        "TestSyncInMemory in the same file goes the same ways; test_storage.py, test_anywhere.py show each database"
    ),
    r"faults/test_hostile\.py::test_no_input_is_taken_for_code\[memory": (
        "the store in memory is that of a JSONL file without the file: [jsonl-...] shows the law"
    ),
    r"faults/test_damaged_rows\.py::\w+\[postgres": (
        "the digest that tells damage is compared in Python, for both databases: [sqlite] shows each door; the laws of "
        "damage in the contract run on PostgreSQL"
    ),
}
"""What the id of a test has in it, and why its twin is enough."""

_ANY = re.compile("|".join(SLOW_TWINS))


def is_slow_twin(id: str) -> bool:
    """Tell whether a test is left to `make faults`."""
    return _ANY.search(id) is not None
