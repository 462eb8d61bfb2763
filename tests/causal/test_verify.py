"""Law L-W1: whatever is done to a log, `verify` says so and names the first bad seq; and what no chain can show.

The oracle is `places.first_bad`, the two formats as the document says them, in a few lines that share nothing with the
library.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tests.causal.log_damage import DAMAGE, OTHER_TYPES, TOP, bad, flipped, flips, is_prefix, small, store, with_column
from tests.causal.log_locations import (
    COLUMNS,
    Row,
    async_database,
    chain,
    held,
    put,
    undone,
    verified,
)
from tests.faults.stores import sync_engine

from dgent.causal.hash_chain import AGENT_STORE, OWN, Format
from dgent.causal.log_tables import TABLES
from dgent.causal.writer_log import PAGE, Head, WriterLog
from dgent.exceptions import ChainBroken, Corrupt, DgentError, InvalidDatum, InvalidQuery, MalformedRow
from dgent.sql.errors import translated
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

# Every bit


def test_l_w1_any_bit_of_any_column_of_any_row(engine: Engine, place: str, format: Format, full_size: bool) -> None:
    """Flip each, by SQL past the library: verifying all logs raises, and says which entry it was."""
    log, rows = WriterLog(format), small(format)
    step = 1 if full_size or engine.dialect.name == "sqlite" else 41
    changes = [
        (at, name, bit)
        for at, row in enumerate(rows)
        for name, value in zip(COLUMNS, row, strict=True)
        for bit in range(flips(value))
    ]
    refused = 0
    with undone(engine) as connection:
        put(connection, format, rows)
        assert set(verified(connection, log).values()) == {None}
        for at, name, bit in changes[::step]:
            row, column = rows[at], COLUMNS.index(name)
            value = flipped(row[column], bit)
            savepoint = connection.begin_nested()
            if not store(connection, format, row, name, value):
                refused += 1
                savepoint.rollback()
                continue
            if name in {"stream", "writer"} and isinstance(value, bytes):
                with pytest.raises(Corrupt):
                    verified(connection, log)
            else:
                after = [*rows[:at], (*row[:column], value, *row[column + 1 :]), *rows[at + 1 :]]
                found = verified(connection, log)
                assert found == bad(format, after), (row[:3], name, bit)
                assert set(found.values()) != {None}, (row[:3], name, bit)
                if name not in {"stream", "writer", "seq"}:
                    assert found[row[:2]] == row[2]
            savepoint.rollback()
    assert refused < len(changes[::step]) / 5


# Other damage


steps = st.integers(0, 8)


def draw(kinds: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.tuples(st.sampled_from([*kinds]), steps, steps), min_size=1, max_size=3)


def damaged(rows: list[Row], kinds: dict[str, Any], chosen: list[Any]) -> list[Row]:
    for kind, i, j in chosen:
        if rows and all(type(row[2]) is int for row in rows):
            rows = kinds[kind](rows, i % len(rows), j % len(rows))
    assume(len({row[:3] for row in rows}) == len(rows))  # a database refuses two of one place
    assume(all(type(row[2]) is not int or -TOP <= row[2] < TOP for row in rows))
    return rows


def check_damage(engine: Engine, format: Format, rows: list[Row]) -> None:
    with undone(engine) as connection:
        put(connection, format, rows)
        found = verified(connection, WriterLog(format))
    assert found == bad(format, rows)
    if format is OWN:
        assert any(found.values()) or is_prefix(rows, format)


@SHARED
@given(chosen=draw(DAMAGE))
def test_l_w1_any_damage_is_found_at_its_first_seq(engine: Engine, format: Format, chosen: list[Any]) -> None:
    """In our own format all that can go unseen is a tail that was cut off."""
    check_damage(engine, format, damaged(small(format), DAMAGE, chosen))


@SHARED
@given(chosen=draw(DAMAGE | OTHER_TYPES))
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_l_w1_a_change_of_type_is_damage_too(engine: Engine, format: Format, chosen: list[Any]) -> None:
    """SQLite takes any type in any column."""
    check_damage(engine, format, damaged(small(format), DAMAGE | OTHER_TYPES, chosen))


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_l_w1_each_damage_alone(engine: Engine, format: Format, damage: str) -> None:
    rows = small(format)
    for i in range(len(rows)):
        for j in range(0, len(rows), 3):
            after = DAMAGE[damage](rows, i, j)
            if len({row[:3] for row in after}) == len(after):
                check_damage(engine, format, after)


def test_l_w1_what_lies_beyond_a_page(engine: Engine, format: Format) -> None:
    payloads = [b"%d" % n for n in range(2 * PAGE + 1)]
    rows, log, seen = chain(format.name, "s", "w", payloads), WriterLog(format), []
    with undone(engine) as connection:
        assert log.append_many(connection, "s", "w", payloads)[-1].content_hash == rows[-1][4]
        assert log.verify(connection, "s", "w", progress=seen.append) == Head(len(rows), rows[-1][4])
        assert seen == [PAGE, PAGE, 1]
        for seq in (PAGE, PAGE + 1, 2 * PAGE + 1):
            savepoint = connection.begin_nested()
            assert store(connection, format, rows[seq - 1], "payload", b"other")
            assert verified(connection, log) == {("s", "w"): seq}
            savepoint.rollback()


async def test_l_w1_through_the_asynchronous_database(engine: Engine, place: str, format: Format) -> None:
    log, rows = WriterLog(format), small(format)
    with engine.begin() as connection:
        put(connection, format, rows)
    database = async_database(place)
    try:
        assert set((await database.read(lambda connection: verified(connection, log))).values()) == {None}
        with engine.begin() as connection:
            assert store(connection, format, rows[1], "payload", b"!")
        with pytest.raises(ChainBroken, match="'a' in 's1' is broken at seq 2"):
            await database.read(lambda connection: log.verify(connection, "s1", "a"))
        if engine.dialect.name == "sqlite":
            with engine.begin() as connection:
                assert store(connection, format, rows[0], "stream", b"\xff")
            with pytest.raises(Corrupt):
                await database.read(log.streams)
    finally:
        await database.close()


# The bytes of the file


def test_l_w1_bits_of_the_file(sqlite_path: Path, tmp_path: Path, format: Format, full_size: bool) -> None:
    """What is read after a flip anywhere in the file is what was written, but for a tail, or an error says so.

    A flip can hide the last entry of a page, as one in its count of entries does: that is a tail cut off.
    """
    engine = sync_engine(str(sqlite_path))
    with engine.begin() as connection:
        TABLES.prepare(connection)
        put(connection, format, small(format))
    engine.dispose()
    whole = sqlite_path.read_bytes()
    used = [at for at, byte in enumerate(whole) if byte]
    chance = random.Random(7)
    where = [(at, bit) for at in used for bit in range(8)]
    outcomes = {"raised": 0, "told": 0, "unseen": 0}
    for number, (at, bit) in enumerate(where if full_size else chance.sample(where, 250)):
        data = bytearray(whole)
        data[at] ^= 1 << bit
        path = tmp_path / f"flipped-{number}.db"
        path.write_bytes(data)
        path.chmod(0o600)
        outcomes[outcome_of(path, format)] += 1
        for left in tmp_path.glob(f"{path.name}*"):
            left.unlink()
    print(outcomes)
    assert min(outcomes.values()) > 0


def outcome_of(path: Path, format: Format) -> str:
    """Say whether it raised, a log was told to be broken, or what can be read is what was written."""
    log = WriterLog(format)
    engine = sync_engine(str(path))
    try:
        with translated("the file"), engine.begin() as connection:
            found = verified(connection, log)
            if any(found.values()):
                return "told"
            rows = [
                (e.stream, e.writer, e.seq, e.prev_hash, e.content_hash, e.payload)
                for place in found
                for e in log.entries(connection, *place)
            ]
    except (DgentError, UnicodeDecodeError):  # sqlite3 raises the latter over a damaged schema
        return "raised"
    finally:
        engine.dispose()
    assert is_prefix(rows, format), "damage was not seen"
    return "unseen"


# What no chain can show, so that a checkpoint has to


def test_l_w1_a_tail_cut_off_is_not_seen(engine: Engine, format: Format) -> None:
    """Neither format: what is left is a chain. Only who knows the head of before can tell."""
    rows = small(format)
    with undone(engine) as connection:
        put(connection, format, [row for row in rows if row[:2] != ("t", "a") or row[2] <= 2])
        assert set(verified(connection, WriterLog(format)).values()) == {None}
        assert WriterLog(format).verify(connection, "t", "a") == Head(2, rows[-3][4])
        put(connection, format, [row for row in rows if row[0] != "t"])
        assert WriterLog(format).streams(connection) == ["s1"]
        assert WriterLog(format).verify(connection, "t", "a") == Head(0, None)


def test_l_w1_a_chain_of_the_crate_can_be_renamed_and_ours_cannot(engine: Engine, format: Format) -> None:
    """The crate's hash covers neither stream nor writer."""
    with undone(engine) as connection:
        for to in (("other", "a"), ("s1", "other")):
            rows = chain(format.name, "s1", "a", [b"1", b"2"])
            put(connection, format, [(*to, *row[2:]) for row in rows])
            assert verified(connection, WriterLog(format)) == {to: None if format is AGENT_STORE else 1}


def test_l_w1_a_chain_of_the_crate_can_be_folded_and_ours_cannot(engine: Engine, format: Format) -> None:
    """The crate's hash of the first entry is that of bytes, which may begin with a hash: two entries pass for one."""
    first, second, third = chain(format.name, "s", "w", [b"1", b"2", b"3"])
    folded = ("s", "w", 1, None, second[4], first[4] + second[5])
    with undone(engine) as connection:
        put(connection, format, [folded, ("s", "w", 2, *third[3:])])
        assert verified(connection, WriterLog(format)) == {("s", "w"): None if format is AGENT_STORE else 1}


def test_l_w1_a_row_that_no_log_reads_is_not_in_one(engine: Engine) -> None:
    """Each format has its table: an entry of one means nothing in the other."""
    with undone(engine) as connection:
        put(connection, AGENT_STORE, small(OWN))
        assert set(verified(connection, WriterLog(AGENT_STORE)).values()) == {1}


# An intact log


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
payloads = st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([b"", bytes(5000), b"L" * 70_000])), max_size=6)


@SHARED
@given(stream=names, writer=names, batches=st.lists(payloads, max_size=4), alone=payloads)
@example(stream="\U0001f600" * 590, writer="\uffff\u202e%_'\"\\", batches=[[b""], [b"x"] * 70], alone=[b"\0" * 100_000])
def test_l_w1_an_intact_log_verifies(
    engine: Engine, format: Format, stream: str, writer: str, batches: list[list[bytes]], alone: list[bytes]
) -> None:
    log = WriterLog(format)
    everything = [payload for batch in batches for payload in batch] + alone
    rows = chain(format.name, stream, writer, everything)
    with undone(engine) as connection:
        returned = [entry for batch in batches for entry in log.append_many(connection, stream, writer, batch)]
        returned += [log.append(connection, stream, writer, payload) for payload in alone]
        log.append(connection, stream + "x" if len(stream) < 590 else "x", writer, b"beside it")
        assert log.entries(connection, stream, writer) == returned
        assert sorted(row for row in held(connection, format) if row[0] == stream) == rows
        head = Head(len(rows), rows[-1][4] if rows else None)
        assert log.verify(connection, stream, writer) == log.head(connection, stream, writer) == head


# Rows of a form that no entry can have, met without `verify`


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("seq", "x"),
        ("seq", 2.5),
        ("seq", TOP - 1),
        ("content_hash", b"short"),
        ("content_hash", "x"),
        ("content_hash", 7),
    ],
)
def test_nothing_follows_a_malformed_head(engine: Engine, format: Format, column: str, value: Any) -> None:
    rows, log = chain(format.name, "s", "w", [b"1", b"2"]), WriterLog(format)
    with undone(engine) as connection:
        put(connection, format, with_column(rows, 1, COLUMNS.index(column), value))
        for verb in (lambda: log.head(connection, "s", "w"), lambda: log.append(connection, "s", "w", b"")):
            with pytest.raises(MalformedRow, match="'w' in 's' is no entry of a log"):
                verb()
        assert len(held(connection, format)) == 2
        if value != TOP - 1:
            with pytest.warns(DamagedWarning):
                entries = log.entries(connection, "s", "w")
            assert ([entry.seq for entry in entries], len(entries.damaged)) == ([1], 1)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_name_that_is_no_text_is_told(engine: Engine, format: Format) -> None:
    log = WriterLog(format)
    with undone(engine) as connection:
        put(connection, format, [(b"\xff", "w", *row[2:]) for row in chain(format.name, "s", "w", [b"1"])])
        with pytest.raises(MalformedRow):
            log.streams(connection)
        put(connection, format, [("s", b"\xff", *row[2:]) for row in chain(format.name, "s", "w", [b"1"])])
        for read in (log.writers, log.merged):
            with pytest.raises(MalformedRow):
                read(connection, "s")


def test_input_that_means_nothing_is_refused(engine: Engine, format: Format) -> None:
    log = WriterLog(format)
    with undone(engine) as connection:
        for place in (
            ("", "w"),
            ("s", ""),
            ("s" * 2400, "w"),
            ("s" * 1200, "w" * 1201),
            ("s", "\0"),
            ("\ud800", "w"),
            (7, "w"),
        ):
            with pytest.raises(InvalidDatum):
                log.append(connection, *place, b"")  # type: ignore[arg-type]
        for place in (("\ud800", "w"), ("s", b"w"), (None, "w")):
            for verb in (log.head, log.entries, log.verify):
                with pytest.raises(InvalidDatum):
                    verb(connection, *place)  # type: ignore[arg-type, operator]
        for payload in ("text", bytearray(b"x"), None, 7):
            with pytest.raises(InvalidDatum):
                log.append_many(connection, "s", "w", [b"good", payload])  # type: ignore[list-item]
        for wrong in ({"after": -1}, {"after": None}, {"after": 2**63}, {"limit": -1}, {"limit": 1.5}):
            with pytest.raises(InvalidQuery):
                log.entries(connection, "s", "w", **wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidQuery):
            log.merged(connection, "s", after={"w": -1})
        assert held(connection, format) == []
        log.append(connection, "s", "w", b"1")
        assert [e.seq for e in log.entries(connection, "s", "w", limit=2**63 - 1)] == [1]
        assert log.entries(connection, "s", "w", after=2**63 - 1) == log.entries(connection, "s", "w", limit=0) == []


# The formats, frozen: a chain that was written stays good for ever


KNOWN = {
    "dgent/1": [
        "7d25a63c1966c0f5742b8dfc2aaecce5af2cc1e9832b93ab574525942aef741a",
        "82935e3dfd14feada85a832f8bf4e1ce25ed3acc027ec4434c999e334f7cdf60",
        "f6f911505e8bd1d34782e5f58899413052a426301c6f216f4ad0570f2538d9d0",
    ],
    "agent-store/1": [
        "d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24",
        "642d9fa590c86290761657e9f2be8de96164f3a85177e8fbf698a1e5211576af",
        "e12872dfca53477ec246172f5cc6dd2cee22aba8f44cc3103941347d537f07e6",
    ],
}


def test_known_answers(engine: Engine, format: Format) -> None:
    """Never change one of these: a new rule is a new format."""
    with undone(engine) as connection:
        entries = WriterLog(format).append_many(connection, "conv:demo", "alice", [b"hello world", b"", b"\xff" * 5000])
    assert [entry.content_hash.hex() for entry in entries] == KNOWN[format.name]
    assert {entry.format for entry in entries} == {format.name}
