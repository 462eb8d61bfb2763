"""Make a file as the crate agent-store 0.1 writes it: `python tests/assets/freeze_agent_store.py`.

By its tables and its rule for the hash, as its documentation gives them, without a line of this library. Never make the
frozen one again: it stands for the files that are there.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from blake3 import blake3

_COLUMNS = (
    "stream TEXT NOT NULL, writer TEXT NOT NULL, seq INTEGER NOT NULL, prev_hash BLOB, content_hash BLOB NOT NULL, "
    "payload BLOB NOT NULL, PRIMARY KEY (stream, writer, seq)"
)
TABLES = [
    f"CREATE TABLE IF NOT EXISTS _agent_store_log ({_COLUMNS})",
    "CREATE TABLE IF NOT EXISTS _agent_store_meta (key TEXT PRIMARY KEY, ival INTEGER NOT NULL)",
]
ENTRIES = [
    ("conv:demo", "alice", b"hello world"),
    ("conv:demo", "alice", b""),
    ("conv:demo", "bob", "ünïcode ☃".encode()),
    ("conv:demo", "alice", bytes(range(256)) * 20),
    ("board", blake3(b"a public key").hexdigest(), b"routine"),
    ("", "", b"names that append would refuse"),
]
GENERATIONS = {"report": 2, "": 7}


def add(connection: sqlite3.Connection, stream: str, writer: str, payload: bytes) -> int:
    """Append as the crate does, and return the seq."""
    last = "SELECT seq, content_hash FROM _agent_store_log WHERE stream = ? AND writer = ? ORDER BY seq DESC LIMIT 1"
    seq, prev = connection.execute(last, (stream, writer)).fetchone() or (0, None)
    hasher = blake3()
    if prev is not None:
        hasher.update(prev)
    hasher.update(payload)
    row = (stream, writer, seq + 1, prev, hasher.digest(), payload)
    connection.execute("INSERT INTO _agent_store_log VALUES (?, ?, ?, ?, ?, ?)", row)
    return int(seq) + 1


def chains(connection: sqlite3.Connection) -> bool:
    """Tell whether every entry follows the one before it, by the rule of the crate."""
    ends: dict[tuple[str, str], tuple[int, bytes | None]] = {}
    rows = connection.execute("SELECT * FROM _agent_store_log ORDER BY stream, writer, seq")
    for stream, writer, seq, prev, own, payload in rows:
        last, before = ends.get((stream, writer), (0, None))
        if seq != last + 1 or prev != before or own != blake3((before or b"") + payload).digest():
            return False
        ends[stream, writer] = seq, own
    return bool(ends)


def make(path: Path) -> None:
    """Write a file with some entries and generations."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    for statement in TABLES:
        connection.execute(statement)
    for entry in ENTRIES:
        add(connection, *entry)
    connection.executemany("INSERT INTO _agent_store_meta VALUES (?, ?)", GENERATIONS.items())
    connection.close()


if __name__ == "__main__":
    target = Path(__file__).resolve().parent / "agent-store-0.1.db"
    if target.exists():
        raise SystemExit(f"{target} is there")
    make(target)
    print(target)
