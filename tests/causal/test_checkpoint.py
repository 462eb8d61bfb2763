"""Law L-W1 for what no chain shows alone: against a checkpoint every tail that is cut off and every fork is seen."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, delete, insert, update
from sqlalchemy.engine import make_url

from dgent.causal import Checkpoint, Fingerprint, SigningKey
from dgent.causal.checkpoint import checkpoints, consistent, latest, save, sign, verify
from dgent.causal.hash_chain import AGENT_STORE, OWN, Format
from dgent.causal.log_tables import TABLES
from dgent.causal.log_tables import checkpoints as table
from dgent.causal.writer_log import PAGE, START, Head, WriterLog
from dgent.exceptions import ChainBroken, InvalidCheckpoint, InvalidQuery, MalformedRow
from dgent.settings import Settings
from dgent.sql import open_database
from dgent.sql.sqlite.engine import create_sync_engine

KEY, OTHER = (SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([each]) * 32)) for each in (7, 8))
ME = str(KEY.fingerprint)
LOGS = {each.name: WriterLog(each) for each in (OWN, AGENT_STORE)}
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
"""The fixture is an empty log at the start of each example: `written` cleans up first."""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def connection(place: str) -> Iterator[Connection]:
    url = make_url(place)
    if url.get_backend_name() == "sqlite":
        engine = create_sync_engine(Path(url.database or ""), Settings.load())
    else:
        engine = create_engine(url.set(drivername="postgresql+psycopg"), hide_parameters=True)
    with engine.connect() as connection, connection.begin():
        TABLES.prepare(connection)
        yield connection
    engine.dispose()


@pytest.fixture(params=LOGS)
def log(request: pytest.FixtureRequest) -> WriterLog:
    return LOGS[request.param]


def written(connection: Connection, log: WriterLog, payloads: list[bytes], stream: str = "s", writer: str = ME) -> None:
    """Let the database hold this log alone, and no checkpoint."""
    connection.execute(delete(log.format.table))
    connection.execute(delete(table))
    log.append_many(connection, stream, writer, payloads)


def cut(connection: Connection, log: WriterLog, behind: int) -> None:
    connection.execute(delete(log.format.table).where(log.format.table.c.seq > behind))


def signed_at(connection: Connection, log: WriterLog, seq: int, writer: str = ME) -> Checkpoint:
    """Return the checkpoint that was made when the log had so many entries."""
    head = log.at(connection, "s", writer, seq)
    assert (head.seq, head.hash is None) == (seq, False)
    return signed(log.format, "s", writer, head.seq, head.hash or b"")


def signed(format: Format, stream: str, writer: str, seq: int, hash: bytes, key: SigningKey = KEY) -> Checkpoint:
    unsigned = Checkpoint(format.name, stream, writer, seq, hash, seq, key.public, bytes(64))
    return replace(unsigned, signature=key.sign(unsigned.message))


def stranger(format: Format) -> Format:
    """Return the other format."""
    return AGENT_STORE if format is OWN else OWN


# Law L-W1


@many
@given(payloads=st.lists(st.binary(max_size=4), min_size=1, max_size=12), data=st.data())
def test_any_tail_that_is_cut_off_is_seen(
    connection: Connection, log: WriterLog, payloads: list[bytes], data: st.DataObject
) -> None:
    written(connection, log, payloads)
    seq = data.draw(st.integers(1, len(payloads)))
    left = data.draw(st.integers(0, len(payloads)))
    since = data.draw(st.none() | st.integers(1, seq))
    checkpoint, older = signed_at(connection, log, seq), signed_at(connection, log, since) if since else None
    cut(connection, log, left)
    log.verify(connection, "s", ME)  # the chain itself shows nothing
    if left >= seq:
        assert verify(log, connection, "s", ME, against=checkpoint, since=older).seq == left
        return
    with pytest.raises(ChainBroken, match="cut off") as caught:
        verify(log, connection, "s", ME, against=checkpoint, since=older)
    assert (caught.value.stream, caught.value.writer, caught.value.seq) == ("s", ME, left + 1)


@many
@given(payloads=st.lists(st.binary(max_size=4), min_size=1, max_size=12), data=st.data())
def test_any_fork_is_seen(connection: Connection, log: WriterLog, payloads: list[bytes], data: st.DataObject) -> None:
    """After `common` entries the log goes on with others, chained as they should be."""
    written(connection, log, payloads)
    seq = data.draw(st.integers(1, len(payloads)))
    common = data.draw(st.integers(0, len(payloads) - 1))
    others = data.draw(st.lists(st.binary(max_size=4), max_size=12))
    assume(others[:1] != payloads[common : common + 1])
    checkpoint = signed_at(connection, log, seq)
    cut(connection, log, common)
    log.append_many(connection, "s", ME, others)
    end = log.verify(connection, "s", ME)  # the chain itself shows nothing
    if common >= seq:
        assert verify(log, connection, "s", ME, against=checkpoint) == end
        assert verify(log, connection, "s", ME, since=checkpoint) == end
        return
    reason, first = ("forked", seq) if end.seq >= seq else ("cut off", end.seq + 1)
    for claim in ({"against": checkpoint}, {"since": checkpoint}):
        with pytest.raises(ChainBroken, match=reason) as caught:
            verify(log, connection, "s", ME, **claim)  # type: ignore[arg-type]
        assert caught.value.seq == first


@many
@given(data=st.data(), size=st.integers(2, 8))
def test_any_entry_changed_taken_out_or_exchanged_is_seen(
    connection: Connection, log: WriterLog, data: st.DataObject, size: int
) -> None:
    payloads = [b"%d" % n for n in range(size)]
    written(connection, log, payloads)
    checkpoint = signed_at(connection, log, data.draw(st.integers(1, size)))
    c = log.format.table.c
    at = data.draw(st.integers(1, size - 1))
    what = data.draw(st.sampled_from(["payload", "content_hash", "prev_hash", "taken out", "exchanged"]))
    if what == "taken out":
        connection.execute(delete(log.format.table).where(c.seq == at))
    elif what == "exchanged":
        for before, after in ((at, 0), (at + 1, at), (0, at + 1)):
            connection.execute(update(log.format.table).where(c.seq == before).values(seq=after))
    else:
        connection.execute(update(log.format.table).where(c.seq == at).values({what: b"\x01" * 32}))
    with pytest.raises(ChainBroken) as caught:
        verify(log, connection, "s", ME, against=checkpoint)
    assert caught.value.seq == at
    with pytest.raises(ChainBroken):
        sign(log, connection, "s", ME, KEY)


def test_an_entry_moved_from_another_log_is_seen(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"a", b"b"])
    log.append_many(connection, "other", ME, [b"a", b"c"])
    checkpoint = signed_at(connection, log, 2)
    c = log.format.table.c
    connection.execute(delete(log.format.table).where(c.stream == "s"))
    connection.execute(update(log.format.table).values(stream="s"))
    with pytest.raises(ChainBroken) as caught:
        verify(log, connection, "s", ME, against=checkpoint)
    assert caught.value.seq == (1 if log.format is OWN else 2)  # the crate's entries do not know their stream


@given(data=st.data())
def test_any_bit_of_the_json_is_seen(data: st.DataObject) -> None:
    checkpoint = signed(OWN, "a stream", ME, 3, b"\x05" * 32)
    text = bytearray(checkpoint.to_json().encode())
    at = data.draw(st.integers(0, 8 * len(text) - 1))
    text[at // 8] ^= 1 << at % 8
    with pytest.raises(InvalidCheckpoint):
        Checkpoint.from_json(bytes(text)).check_signature()


def test_every_bit_of_every_field_is_signed() -> None:
    checkpoint = signed(OWN, "a stream", ME, 3, b"\x05" * 32)
    for field in fields(checkpoint):
        value = getattr(checkpoint, field.name)
        for other in _with_a_bit_flipped(value):
            changes = {"seq": other, "count": other} if field.name == "seq" else {field.name: other}
            with pytest.raises(InvalidCheckpoint):
                replace(checkpoint, **changes).check_signature()


def _with_a_bit_flipped(value: Any) -> Iterator[Any]:
    raw = value.to_bytes(8, "big") if isinstance(value, int) else value.encode() if isinstance(value, str) else value
    for at in range(8 * len(raw)):
        flipped = bytes(byte ^ (1 << at % 8 if at // 8 == n else 0) for n, byte in enumerate(raw))
        if isinstance(value, int):
            yield int.from_bytes(flipped, "big")
        else:
            yield flipped.decode("latin-1") if isinstance(value, str) else flipped


def test_the_signature_covers_the_format() -> None:
    theirs = replace(signed(OWN, "s", ME, 1, bytes(32)), format=AGENT_STORE.name)
    with pytest.raises(InvalidCheckpoint, match="does not hold"):
        theirs.check_signature()


@given(a=st.tuples(st.text(max_size=3), st.text(max_size=3)), b=st.tuples(st.text(max_size=3), st.text(max_size=3)))
def test_two_checkpoints_never_have_one_encoding(a: tuple[str, str], b: tuple[str, str]) -> None:
    try:
        one, two = (Checkpoint(OWN.name, *names, 1, bytes(32), 1, KEY.public, bytes(64)) for names in (a, b))
    except InvalidCheckpoint:
        assume(False)  # names that no log has
    assert (one.message == two.message) == (a == b)


# Who signed


@pytest.mark.parametrize("field", ["stream", "writer", "format"])
def test_a_checkpoint_of_another_log_says_nothing(connection: Connection, log: WriterLog, field: str) -> None:
    written(connection, log, [b"a"], writer="ann")
    mine = log.head(connection, "s", "ann").hash or b""
    stream, writer = "other" if field == "stream" else "s", "other" if field == "writer" else "ann"
    other = signed(stranger(log.format) if field == "format" else log.format, stream, writer, 1, mine)
    whom = [KEY.fingerprint]
    for call in (
        lambda: verify(log, connection, "s", "ann", against=other, trusted=whom),
        lambda: verify(log, connection, "s", "ann", since=other, trusted=whom),
        lambda: sign(log, connection, "s", "ann", KEY, since=other),
    ):
        with pytest.raises(InvalidCheckpoint, match="another log"):
            call()


def test_a_writer_that_is_a_fingerprint_signs_for_itself(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"a"])
    forged = signed(log.format, "s", ME, 1, log.head(connection, "s", ME).hash or b"", OTHER)
    with pytest.raises(InvalidCheckpoint, match="its writer"):
        verify(log, connection, "s", ME, against=forged, trusted=[OTHER.fingerprint])
    with pytest.raises(InvalidCheckpoint, match="its writer"):
        sign(log, connection, "s", ME, OTHER)
    log.append(connection, "s", ME.upper(), b"a")
    with pytest.raises(InvalidCheckpoint, match="its writer"):
        sign(log, connection, "s", ME.upper(), OTHER)


def test_another_writer_needs_somebody_who_is_trusted(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"a"], writer="ann")
    checkpoint = sign(log, connection, "s", "ann", KEY)
    for trusted in ([], [OTHER.fingerprint]):
        with pytest.raises(InvalidCheckpoint, match="trusted"):
            verify(log, connection, "s", "ann", against=checkpoint, trusted=trusted)
    whom = iter([OTHER.fingerprint, KEY.fingerprint])
    assert verify(log, connection, "s", "ann", against=checkpoint, since=checkpoint, trusted=whom).seq == 1
    checkpoint.check_signature()
    checkpoint.check_signature(KEY.fingerprint)
    with pytest.raises(InvalidCheckpoint, match=f"not by {OTHER.fingerprint}"):
        checkpoint.check_signature(OTHER.fingerprint)


def test_a_forged_signature_does_not_hold(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"a"])
    checkpoint = sign(log, connection, "s", ME, KEY)
    for forged in (replace(checkpoint, signature=bytes(64)), replace(checkpoint, hash=bytes(32))):
        for claim in ({"against": forged}, {"since": forged}):
            with pytest.raises(InvalidCheckpoint, match="does not hold"):
                verify(log, connection, "s", ME, **claim)  # type: ignore[arg-type]
        with pytest.raises(InvalidCheckpoint, match="does not hold"):
            save(connection, forged)


# Signing


def test_a_log_is_signed_where_it_ends(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"a", b"b"])
    checkpoint = sign(log, connection, "s", ME, KEY)
    assert checkpoint.head == log.head(connection, "s", ME)
    assert (checkpoint.format, checkpoint.stream, checkpoint.writer) == (log.format.name, "s", ME)
    assert (checkpoint.count, checkpoint.signer) == (2, KEY.fingerprint)
    assert sign(log, connection, "s", ME, KEY) == checkpoint
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint  # noqa: S301 - our own bytes


def test_nobody_signs_an_empty_log(connection: Connection, log: WriterLog) -> None:
    with pytest.raises(InvalidCheckpoint, match="empty"):
        sign(log, connection, "s", ME, KEY)


def test_a_key_signs_nothing_that_contradicts_what_it_signed(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"a", b"b", b"c"])
    save(connection, sign(log, connection, "s", ME, KEY))
    cut(connection, log, 2)
    with pytest.raises(ChainBroken, match="cut off"):
        sign(log, connection, "s", ME, KEY)
    log.append_many(connection, "s", ME, [b"C", b"D"])
    with pytest.raises(ChainBroken, match="forked") as caught:
        sign(log, connection, "s", ME, KEY, since=signed_at(connection, log, 2))
    assert caught.value.seq == 3


def test_since_a_checkpoint_only_what_came_later_is_recomputed(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"%d" % n for n in range(6)])
    older = signed_at(connection, log, 4)
    connection.execute(update(log.format.table).where(log.format.table.c.seq == 2).values(payload=b"changed"))
    seen: list[int] = []
    assert verify(log, connection, "s", ME, since=older, progress=seen.append).seq == 6
    assert sum(seen) == 2
    newer = sign(log, connection, "s", ME, KEY, since=older)
    assert newer.seq == 6
    save(connection, newer)
    assert sign(log, connection, "s", ME, KEY, since=signed_at(connection, log, 6)) == newer
    for call in (lambda: verify(log, connection, "s", ME, against=newer), lambda: sign(log, connection, "s", ME, KEY)):
        with pytest.raises(ChainBroken) as caught:
            call()
        assert caught.value.seq == 2
    with pytest.raises(InvalidCheckpoint, match="older"):
        verify(log, connection, "s", ME, against=older, since=newer)


def test_checkpoints_meet_the_edges_of_pages(connection: Connection) -> None:
    log = LOGS[OWN.name]
    size = 2 * PAGE + 1
    written(connection, log, [b""] * size)
    for seq in (1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, size):
        checkpoint = signed_at(connection, log, seq)
        for claim in ({"against": checkpoint}, {"since": checkpoint}):
            seen: list[int] = []
            assert verify(log, connection, "s", ME, progress=seen.append, **claim).seq == size  # type: ignore[arg-type]
            assert sum(seen) == (size if "against" in claim else size - seq)
        assert log.verify(connection, "s", ME, until=seq) == checkpoint.head
    assert log.verify(connection, "s", ME, since=checkpoint.head, until=0) == checkpoint.head
    assert log.at(connection, "s", ME, 0) == START
    assert log.at(connection, "s", ME, 2**63 - 1) == Head(*log.head(connection, "s", ME))


# Two checkpoints


@many
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_the_checkpoints_of_a_growing_log_are_consistent(
    connection: Connection, log: WriterLog, sizes: list[int]
) -> None:
    written(connection, log, [])
    made = []
    for size in sizes:
        log.append_many(connection, "s", ME, [b"x"] * size)
        made.append(sign(log, connection, "s", ME, KEY, since=made[-1] if made else None))
        save(connection, made[-1])
    for at, newer in enumerate(made):
        for older in made[: at + 1]:
            seen: list[int] = []
            consistent(log, connection, older, newer, progress=seen.append)
            assert sum(seen) == newer.seq - older.seq
            if older.seq < newer.seq:
                with pytest.raises(InvalidCheckpoint, match="exchange"):
                    consistent(log, connection, newer, older)
    assert checkpoints(log, connection, "s", ME) == made
    assert latest(log, connection, "s", ME) == made[-1]


def test_checkpoints_of_two_histories_are_not_consistent(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"a", b"b", b"c"])
    first, third = signed_at(connection, log, 1), signed_at(connection, log, 3)
    cut(connection, log, 1)
    log.append_many(connection, "s", ME, [b"B", b"C", b"D"])
    fourth = signed_at(connection, log, 4)
    consistent(log, connection, first, fourth)
    for older, newer, seq in ((first, third, 3), (third, fourth, 3), (third, signed_at(connection, log, 3), 3)):
        with pytest.raises(ChainBroken, match="forked") as caught:
            consistent(log, connection, older, newer)
        assert caught.value.seq == seq
    cut(connection, log, 2)
    with pytest.raises(ChainBroken, match="cut off") as caught:
        consistent(log, connection, first, fourth)
    assert caught.value.seq == 3
    with pytest.raises(InvalidCheckpoint, match="another log"):
        consistent(log, connection, first, signed(log.format, "t", ME, 5, bytes(32)))


# In the database


def test_checkpoints_are_kept_once_by_log_seq_and_signer(connection: Connection, log: WriterLog) -> None:
    made = [signed(log.format, "s", "ann", seq, bytes([seq]) * 32, key) for seq in (1, 5, 9) for key in (KEY, OTHER)]
    for each in (
        *made,
        *made,
        signed(log.format, "t", "ann", 10, bytes(32)),
        signed(log.format, "s", "b", 10, bytes(32)),
    ):
        save(connection, each)
    found = checkpoints(log, connection, "s", "ann")
    assert sorted(found, key=repr) == sorted(made, key=repr)
    assert [each.seq for each in found] == [1, 1, 5, 5, 9, 9]
    assert [each.seq for each in checkpoints(log, connection, "s", "ann", after=1, limit=3)] == [5, 5, 9]
    assert latest(log, connection, "s", "ann", OTHER.fingerprint) == made[-1]
    assert latest(log, connection, "s", "ann", Fingerprint.from_bytes(bytes(32))) is None
    assert latest(log, connection, "s", "nobody") is None
    assert checkpoints(WriterLog(stranger(log.format)), connection, "s", "ann") == []
    with pytest.raises(InvalidCheckpoint, match="twice"):
        save(connection, signed(log.format, "s", "ann", 5, b"!" * 32))
    with pytest.raises(InvalidQuery):
        checkpoints(log, connection, "s", "ann", limit=-1)


@pytest.mark.parametrize(
    "values",
    [{"hash": b"short"}, {"public_key": b""}, {"signature": bytes(63)}, {"seq": 0}, {"public_key": bytes(32)},
     {"signer": "somebody"}],
    ids=str,
)  # fmt: skip
def test_a_row_that_is_no_checkpoint_is_malformed(connection: Connection, values: dict[str, Any]) -> None:
    log = LOGS[OWN.name]
    checkpoint = signed(OWN, "s", ME, 1, bytes(32))
    save(connection, checkpoint)
    connection.execute(update(table).values(**values))
    with pytest.raises(MalformedRow, match="dgent_checkpoints"):
        latest(log, connection, "s", ME)
    assert checkpoint.check_signature() is None  # type: ignore[func-returns-value]


def test_a_row_that_somebody_wrote_stops_who_signs(connection: Connection, log: WriterLog) -> None:
    written(connection, log, [b"a"])
    row = signed(log.format, "s", ME, 1, bytes(32))
    names = ("stream", "writer", "format", "seq", "hash", "public_key")
    values = {name: getattr(row, name) for name in names}
    connection.execute(insert(table).values(**values, signature=bytes(64), signer=ME))
    with pytest.raises(InvalidCheckpoint, match="does not hold"):
        sign(log, connection, "s", ME, KEY)


async def test_the_asynchronous_drivers_run_the_same(place: str) -> None:
    log = LOGS[OWN.name]
    database = open_database(Settings.load(database_url=place))

    def work(connection: Connection) -> tuple[Checkpoint, Any, Any, Head]:
        TABLES.prepare(connection)
        log.append_many(connection, "s", ME, [b"a", b"b"])
        made = sign(log, connection, "s", ME, KEY)
        save(connection, made)
        save(connection, made)
        log.append(connection, "s", ME, b"c")
        found = latest(log, connection, "s", ME, KEY.fingerprint)
        return made, found, checkpoints(log, connection, "s", ME), verify(log, connection, "s", ME, since=found)

    try:
        made, found, kept, head = await database.write(work)
    finally:
        await database.close()
    assert (found, kept, head.seq) == (made, [made], 3)


# JSON and bytes that stay as they are

MESSAGE = (
    "000000000000001b6467656e7420323032362d313120636865636b706f696e7420763100000000000000076467656e742f31"
    "000000000000000a636f6e763a64c3a96d6f0000000000000040303837316633616162633236653435383263353038616635"
    "6330333838346536613936663039383964316464386366623439636431376564323537393234333300000000000000080000"
    "0000000001020000000000000020aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa00000000"
    "0000000800000000000001020000000000000020ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446"
    "d22c"
)
SIGNATURE = (
    "dfc18f9ffee54aa6c8b20ef6f383683d4c59a50371874c8581b351d998c488852cc8468b0b6bd994a8e7f590fbe50550558c"
    "7209a0b0cc84a4ab0b34adcaa60e"
)
LINE = (
    '{"version": 1, "format": "dgent/1", "stream": "conv:démo", "writer": "0871f3aabc26e4582c508af5c03884'
    'e6a96f0989d1dd8cfb49cd17ed25792433", "seq": 258, "hash": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'
    'aaaaaaaaaaaaaaaaaaaaaa", "count": 258, "public_key": "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b'
    '92421eea691446d22c", "signature": "dfc18f9ffee54aa6c8b20ef6f383683d4c59a50371874c8581b351d998c488852'
    'cc8468b0b6bd994a8e7f590fbe50550558c7209a0b0cc84a4ab0b34adcaa60e"}'
)
FROZEN = Checkpoint(OWN.name, "conv:démo", ME, 258, b"\xaa" * 32, 258, KEY.public, bytes(64))


def test_what_is_signed_is_frozen() -> None:
    assert FROZEN.message.hex() == MESSAGE
    assert KEY.sign(FROZEN.message).hex() == SIGNATURE
    checkpoint = replace(FROZEN, signature=bytes.fromhex(SIGNATURE))
    checkpoint.check_signature(KEY.fingerprint)
    assert checkpoint.to_json() == LINE
    assert Checkpoint.from_json(LINE) == checkpoint


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)
kept = st.builds(
    lambda form, stream, writer, seq, raw: Checkpoint(form, stream, writer, seq, raw[0], seq, raw[1], raw[2] * 2),
    st.sampled_from(sorted(LOGS)), names, names, st.integers(1, 2**63 - 1),
    st.tuples(*[st.binary(min_size=32, max_size=32)] * 3),
)  # fmt: skip


@given(checkpoint=kept)
def test_json_gives_back_what_it_was_made_of(checkpoint: Checkpoint) -> None:
    text = checkpoint.to_json()
    assert "\n" not in text
    for same in (text, text.encode(), json.dumps(json.loads(text), indent=2, sort_keys=True), f" {text}\n"):
        assert Checkpoint.from_json(same) == checkpoint


BROKEN: dict[str, dict[str, Any]] = {
    "no version": {"version": None},
    "a later version": {"version": 2},
    "a version that is a bool": {"version": True},
    "a field more": {"more": 1},
    "an unknown format": {"format": "dgent/2"},
    "a seq that is text": {"seq": "3"},
    "a seq that is a float": {"seq": 3.0},
    "a seq that is a bool": {"seq": True},
    "seq 0": {"seq": 0, "count": 0},
    "a seq below": {"seq": -1, "count": -1},
    "a seq beyond": {"seq": 2**63, "count": 2**63},
    "another count": {"count": 2},
    "a short hash": {"hash": "00" * 31},
    "a long hash": {"hash": "00" * 33},
    "an odd hash": {"hash": "0" * 63},
    "upper-case hex": {"hash": "AA" * 32},
    "spaces in hex": {"hash": "00 " * 31 + "00"},
    "no hex": {"public_key": "zz" * 32},
    "a short signature": {"signature": "00" * 32},
    "no stream": {"stream": ""},
    "NUL": {"writer": "a\0"},
    "a lone surrogate": {"writer": "\ud800"},
    "a long name": {"stream": "x" * 2400},
    "a list": {"stream": ["s"]},
}


@pytest.mark.parametrize("change", BROKEN)
def test_json_that_is_no_checkpoint_is_refused(change: str) -> None:
    with pytest.raises(InvalidCheckpoint):
        Checkpoint.from_json(json.dumps({**json.loads(LINE), **BROKEN[change]}))


@pytest.mark.parametrize("name", ["version", "format", "seq", "count", "public_key", "signature"])
def test_a_field_that_is_missing_or_twice_is_refused(name: str) -> None:
    whole = json.loads(LINE)
    for text in (
        json.dumps({key: value for key, value in whole.items() if key != name}),
        LINE[:-1] + f', "{name}": {json.dumps(whole[name])}}}',
    ):
        with pytest.raises(InvalidCheckpoint):
            Checkpoint.from_json(text)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "5", "{}", "NaN", "[" * 100_000, '{"seq": ' + "9" * 5000 + "}", b"\xff", "{"]
)
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidCheckpoint):
        Checkpoint.from_json(text)


def test_a_checkpoint_holds_no_secret() -> None:
    private = KEY._key.private_bytes_raw()
    shown = repr(FROZEN) + FROZEN.to_json() + repr(astuple(FROZEN))
    assert private.hex() not in shown
    assert repr(private)[2:-1] not in shown
