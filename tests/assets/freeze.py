"""Make the frozen database of a released revision: `python tests/assets/freeze.py 004`.

It holds some rows of each table that the revision has. Never make one again for a revision that was released.
"""

# ruff: noqa: ISC004  # each list holds statements, most of them two lines long
from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from pathlib import Path

from dgent import migrations

NOW = "2026-01-31T08:15:00.123456Z"
STAMPS = "created_at, updated_at"
ROWS = {
    "001": [
        f"INSERT INTO self_grow_proposals (id, target, content, content_hash, {STAMPS})"
        f" VALUES ('p1', 'prompt', 'be brief', 'h1', '{NOW}', '{NOW}')",
        f"INSERT INTO self_grow_nursery (id, proposal_id, usage_count, success_count, observations, {STAMPS})"
        f" VALUES ('n1', 'p1', 3, 2, '{{\"mood\": \"good\"}}', '{NOW}', '{NOW}')",
        f"INSERT INTO self_grow_rollback_tokens (id, proposal_id, previous, {STAMPS})"
        f" VALUES ('r1', 'p1', '{{\"content\": \"be long\"}}', '{NOW}', '{NOW}')",
        f"INSERT INTO self_grow_budget (id, allowance, spent, {STAMPS}) VALUES ('b1', 1.0, 0.25, '{NOW}', '{NOW}')",
    ],
    "002": [
        f"INSERT INTO brain_crystals (id, content_hash, summary, tags, datum_id, {STAMPS})"
        f" VALUES ('c1', 'h1', 'The map is not the territory.', '[\"maps\", \"Karten\"]', 'd1', '{NOW}', '{NOW}')",
        f"INSERT INTO brain_crystals (id, content_hash, summary, tags, {STAMPS})"
        f" VALUES ('c2', 'h2', 'ünïcode ☃', '[]', '{NOW}', '{NOW}')",
        "INSERT INTO brain_crystal_tags VALUES ('c1', 'maps'), ('c1', 'Karten')",
        f"INSERT INTO brain_settings (key, value, {STAMPS}) VALUES ('theme', '{{\"dark\": true}}', '{NOW}', '{NOW}')",
    ],
    "003": [
        f"INSERT INTO citizens (id, name, traits, {STAMPS}) VALUES ('z1', 'Ada', '{{}}', '{NOW}', '{NOW}')",
        "INSERT INTO citizen_conversations"
        f" (id, citizen_name, citizen_id, topic, turn_count, turn_chain_head, datum_chain_head, {STAMPS})"
        f" VALUES ('v1', 'Ada', 'z1', 'engines', 2, 't2', 'd3', '{NOW}', '{NOW}')",
        "INSERT INTO conversation_turns"
        f" (id, conversation_id, turn_number, role, content, causal_parent, datum_id, {STAMPS}) VALUES"
        f" ('t1', 'v1', 0, 'user', 'Hello', NULL, 'd2', '{NOW}', '{NOW}'),"
        f" ('t2', 'v1', 1, 'citizen', 'Good day', 't1', 'd3', '{NOW}', '{NOW}')",
    ],
    "004": [
        f"INSERT INTO garden_plots (id, name, {STAMPS}) VALUES ('g1', 'kitchen', '{NOW}', '{NOW}')",
        f"INSERT INTO gardener_sessions (id, plot_id, intent, {STAMPS}) VALUES ('s1', 'g1', 'weed', '{NOW}', '{NOW}')",
        f"INSERT INTO garden_ideas (id, content, lifecycle, confidence, session_id, plot_id, {STAMPS})"
        f" VALUES ('i1', 'compost first', 'SAPLING', 0.5, 's1', 'g1', '{NOW}', '{NOW}')",
    ],
}


async def freeze(revision: str) -> Path:
    target = Path(__file__).resolve().parent / f"schema-{revision}.db"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.db"
        await migrations.upgrade(f"sqlite:///{path}", revision)
        connection = sqlite3.connect(path)
        for step in [step for step in sorted(ROWS) if step <= revision]:
            for statement in ROWS[step]:
                connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA page_size=512")  # most pages are empty: this keeps the file small
        connection.execute("VACUUM")
        connection.execute("VACUUM INTO ?", (str(target),))  # refuses a file that is there
        connection.close()
    return target


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(asyncio.run(freeze(name)))
