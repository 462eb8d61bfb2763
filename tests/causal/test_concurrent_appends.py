"""Law L-W2: whoever appends or counts at the same time comes before or after; and what a merged read is."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from tests.causal.log_locations import async_database, first_bad, held, put, undone

from dgent.causal.generation import Generation
from dgent.causal.hash_chain import AGENT_STORE, OWN, Entry, Format
from dgent.causal.writer_log import WriterLog
from dgent.exceptions import (
    Conflict,
    InvalidDatum,
    InvalidInput,
    LimitExceeded,
    MalformedRow,
    NonMonotonicGeneration,
    StoreError,
)
from dgent.limits import Limits
from dgent.sql.errors import translate
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

THREADS = 4
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
FEW = settings(SHARED, max_examples=max(8, settings.default.max_examples // 8))  # type: ignore[union-attr]
LAST = 2**63 - 1

Step: TypeAlias = "tuple[str, int, int]"
Done: TypeAlias = "list[tuple[Step, Any]]"
kinds = st.sampled_from(["append", "append_many", "undone", "bump", "set"])
plans = st.lists(
    st.lists(st.tuples(kinds, st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=8),
    min_size=THREADS,
    max_size=THREADS,
)
_runs = itertools.count()


class _Undo(Exception):  # no error: it ends a transaction
    pass


def work_of(step: Step, run: str, label: str, log: WriterLog) -> Callable[[Connection], Any]:
    """Return what a step does in a transaction. Payloads and counts say who made them."""
    kind, which, number = step
    stream, generation = f"{run}-{which}", Generation(f"{run}-{which}")

    def work(connection: Connection) -> Any:
        match kind:
            case "append":
                return [log.append(connection, stream, "w", label.encode())]
            case "append_many":
                return log.append_many(connection, stream, "w", [b"%s %d" % (label.encode(), n) for n in range(number)])
            case "undone":
                log.append_many(connection, stream, "w", [b"undone"] * (number + 1))
                generation.bump(connection)
                raise _Undo
            case "bump":
                return generation.bump(connection)
        return generation.set(connection, number)

    return work


def answer(error: Exception) -> Any:
    """Return an error that belongs to the step; raise any other."""
    if isinstance(error, _Undo | NonMonotonicGeneration):
        return error
    raise error


def check(connection: Connection, log: WriterLog, run: str, done: list[Done]) -> None:
    """Compare what each was answered with what is there, and with what the law says."""
    entries: dict[int, list[Entry]] = defaultdict(list)
    counts: dict[int, list[int]] = defaultdict(list)
    bumps: dict[int, list[int]] = defaultdict(list)
    for one in done:
        behind: dict[tuple[bool, int], int] = defaultdict(int)
        for (kind, which, number), result in one:
            if kind in {"append", "append_many"}:
                assert [e.seq for e in result] == list(range(result[0].seq, result[-1].seq + 1)) if result else True
                assert all(e.seq > behind[True, which] for e in result)
                behind[True, which] = max([behind[True, which], *(e.seq for e in result)])
                entries[which] += result
            elif isinstance(result, NonMonotonicGeneration):
                assert (kind, result.attempted) == ("set", number)
                assert result.current > number
            elif kind in {"bump", "set"}:
                assert result >= behind[False, which] + (kind == "bump"), "a generation moved back"
                behind[False, which] = result
                counts[which].append(result)
                bumps[which] += [result] * (kind == "bump")
    for which in (0, 1):
        known = sorted(entries[which], key=lambda e: e.seq)
        assert [e.seq for e in known] == list(range(1, len(known) + 1))
        assert log.entries(connection, f"{run}-{which}", "w", limit=10_000) == known
        assert log.verify(connection, f"{run}-{which}", "w").seq == len(known)
        assert len(set(bumps[which])) == len(bumps[which])
        assert Generation(f"{run}-{which}").current(connection) == max(counts[which], default=0)


@FEW
@given(plan=plans)
def test_l_w2_threads_take_turns(engine: Engine, format: Format, plan: list[list[Step]]) -> None:
    """Mutant: `claim` without its loop, an insert that raises, fails on PostgreSQL in the first examples."""
    run, log, start = f"run-{next(_runs)}", WriterLog(format), threading.Barrier(THREADS)

    def one(number: int) -> Done:
        done: Done = []
        with engine.connect() as connection:
            start.wait(patience(30))
            for at, step in enumerate(plan[number]):
                try:
                    with connection.begin():
                        result = work_of(step, run, f"{number}/{at}", log)(connection)
                except Exception as error:
                    result = answer(error)
                done.append((step, result))
        return done

    with ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(one, range(THREADS)))
    with engine.begin() as connection:
        check(connection, log, run, done)


async def test_l_w2_tasks_take_turns(engine: Engine, place: str, format: Format) -> None:
    """Through `Database.write`: group commits on SQLite, asyncpg on PostgreSQL."""
    log, database = WriterLog(format), async_database(place)
    steps = [
        ("append", 0, 0),
        ("append_many", 0, 70),
        ("bump", 0, 0),
        ("append", 1, 0),
        ("set", 0, 5),
        ("undone", 0, 3),
    ]

    async def one(number: int) -> Done:
        done: Done = []
        for at in range(12):
            step = steps[(number + at) % len(steps)]
            try:
                result = await database.write(work_of(step, "run", f"{number}/{at}", log))
            except Exception as error:
                result = answer(error)
            done.append((step, result))
        return done

    try:
        done = await asyncio.gather(*(one(number) for number in range(10)))
        await database.read(lambda connection: check(connection, log, "run", done))
    finally:
        await database.close()


async def test_l_w2_items_of_one_group_commit(engine: Engine, place: str) -> None:
    """`write_each`: an item that is refused leaves no trace, and the others follow each other."""
    log, database = WriterLog(), async_database(place)

    def each(connection: Connection, items: list[Any]) -> list[Entry | Exception]:
        results: list[Entry | Exception] = []
        for payload in items:
            try:
                results.append(log.append(connection, "s", "w", payload))
            except InvalidDatum as error:
                results.append(error)
        return results

    try:
        items = [b"%d" % n if n % 7 else "no bytes" for n in range(100)]
        writes = (database.write_each(each, item, "key") for item in items)
        answers = await asyncio.gather(*writes, return_exceptions=True)
        good = [one for one in answers if isinstance(one, Entry)]
        assert [type(one) for one in answers[::7]] == [InvalidDatum] * 15
        assert len(good) == 85
        assert await database.read(lambda connection: log.verify(connection, "s", "w").seq) == 85
        assert await database.read(lambda connection: log.entries(connection, "s", "w")) == good
    finally:
        await database.close()


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_l_w2_a_stricter_isolation_gives_conflicts_and_no_damage(engine: Engine, place: str, level: str) -> None:
    """`Database` runs the work again; a synchronous program hears of it as an error that means `Conflict`."""
    with engine.begin() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar()
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation TO '{level}'"))
    log, database = WriterLog(), async_database(place)

    async def one(number: int) -> int:
        try:
            await database.write(lambda connection: log.append_many(connection, "s", "w", [b"%d" % number] * 3))
        except Conflict:
            return 0
        return 3

    try:
        written = sum(await asyncio.gather(*(one(number) for number in range(8))))
        assert written >= 3
        with engine.connect() as first, engine.connect() as second:
            mine, theirs = first.begin(), second.begin()
            assert log.head(first, "s", "w").seq == log.head(second, "s", "w").seq == written
            log.append(first, "s", "w", b"first")
            mine.commit()
            with pytest.raises(Exception, match="serialize") as raised:
                log.append(second, "s", "w", b"second")
            assert isinstance(translate(raised.value, "it"), Conflict)
            theirs.rollback()
            with second.begin():
                assert log.append(second, "s", "w", b"again").seq == written + 2
        assert await database.read(lambda connection: log.verify(connection, "s", "w").seq) == written + 2
    finally:
        await database.close()


# Generations by themselves


@SHARED
@given(
    steps=st.lists(st.one_of(st.none(), st.integers(-3, 40), st.sampled_from([LAST, LAST - 1, LAST + 1])), max_size=12)
)
def test_l_w2_a_generation_is_its_model(engine: Engine, steps: list[int | None]) -> None:
    """`None` bumps, a number sets. At its end it stays, on every database, and says so."""
    generation, value = Generation("report"), 0
    with undone(engine) as connection:
        for step in steps:
            if step is None and value == LAST:
                with pytest.raises(StoreError, match="is the last"):
                    generation.bump(connection)
            elif step is None:
                value += 1
                assert generation.bump(connection) == value
            elif not 0 <= step <= LAST:
                with pytest.raises(InvalidInput):
                    generation.set(connection, step)
            elif step < value:
                with pytest.raises(NonMonotonicGeneration, match=f"is at {value} and never moves back to {step}"):
                    generation.set(connection, step)
            else:
                value = step
                assert generation.set(connection, step) == step
            assert generation.current(connection) == value
        assert Generation("other").current(connection) == 0


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize("stored", ["text", 1.5, b"7", 1e30])
def test_a_generation_that_is_no_number_is_told(engine: Engine, stored: Any) -> None:
    with undone(engine) as connection:
        connection.exec_driver_sql("INSERT INTO _agent_store_meta VALUES ('report', ?)", (stored,))
        for verb in (Generation("report").current, Generation("report").bump):
            with pytest.raises(MalformedRow, match="'report' is stored as"):
                verb(connection)


# Reading the writers of a stream as one


lengths = st.dictionaries(st.sampled_from(["a", "b", "B", "é", "zz", "\U0001f600"]), st.integers(1, 9), max_size=6)


def fill(connection: Connection, log: WriterLog, logs: dict[str, int]) -> list[Entry]:
    return [
        entry
        for writer, many in logs.items()
        for entry in log.append_many(connection, "s", writer, [b"%d" % n for n in range(many)])
    ]


def pages(log: WriterLog, connection: Connection, limits: Iterator[int]) -> Iterator[list[Entry]]:
    after: dict[str, int] = {}
    while page := log.merged(connection, "s", after=after, limit=next(limits)):
        after |= {entry.writer: entry.seq for entry in page}
        yield page


def in_turn(entry: Entry) -> tuple[int, bytes]:
    return entry.seq, entry.writer.encode()


@SHARED
@given(logs=lengths, limits=st.lists(st.integers(1, 12), min_size=1))
def test_pages_of_a_merged_read_join_to_the_whole(engine: Engine, logs: dict[str, int], limits: list[int]) -> None:
    log = WriterLog()
    with undone(engine) as connection:
        whole = sorted(fill(connection, log, logs), key=in_turn)
        log.append(connection, "another", "a", b"")
        read = list(pages(log, connection, itertools.cycle(limits)))
        assert [entry for page in read for entry in page] == whole
        assert [len(page) for page in read[:-1]] == list(
            itertools.islice(itertools.cycle(limits), max(0, len(read) - 1))
        )
        assert log.merged(connection, "s") == whole
        assert log.merged(connection, "s", limit=0) == []
        assert log.writers(connection, "s") == sorted(logs, key=str.encode)
        assert log.streams(connection) == (["another", "s"] if logs else ["another"])


@SHARED
@given(logs=lengths, later=st.lists(lengths, max_size=4), limit=st.integers(1, 7))
def test_a_merged_read_gives_what_comes_meanwhile_once(
    engine: Engine, logs: dict[str, int], later: list[dict[str, int]], limit: int
) -> None:
    log, read = WriterLog(), []
    with undone(engine) as connection:
        everything, more = fill(connection, log, logs), iter(later)
        for page in pages(log, connection, itertools.repeat(limit)):
            read += page
            everything += fill(connection, log, next(more, {}))
        assert sorted(read, key=in_turn) == sorted(everything, key=in_turn)
        for writer in {entry.writer for entry in read}:
            seqs = [entry.seq for entry in read if entry.writer == writer]
            assert seqs == list(range(1, len(seqs) + 1))


def test_a_merged_read_of_a_log_with_a_gap_comes_to_its_end(engine: Engine) -> None:
    """It is no judge; but it repeats nothing, and it skips nothing that is there."""
    log = WriterLog()
    with undone(engine) as connection:
        fill(connection, log, {"a": 9, "b": 4})
        left = [row for row in held(connection, OWN) if row[1] == "b" or row[2] in {2, 3, 8, 9}]
        put(connection, OWN, left)
        read = [(e.writer, e.seq) for page in pages(log, connection, itertools.repeat(2)) for e in page]
        assert sorted(read) == sorted((row[1], row[2]) for row in left)


def test_a_merged_read_reads_no_more_than_it_returns(engine: Engine) -> None:
    """Mutant: reading `limit` of each writer, as it once did, reads 2 000 here."""
    read = []

    class Counting(WriterLog):
        def entries(self, *args: Any, **named: Any) -> list[Entry]:
            found = super().entries(*args, **named)
            read.append(len(found))
            return found

    with undone(engine) as connection:
        fill(connection, WriterLog(), {f"w{n:02}": 50 for n in range(40)})
        assert len(Counting().merged(connection, "s", limit=100)) == sum(read) == 100
        assert Counting().merged(connection, "s", after={f"w{n:02}": 50 for n in range(40)}) == []
        assert sum(read) == 100


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize("verb", ["streams", "writers", "merged", "head"])
def test_finding_the_logs_does_not_read_them(engine: Engine, format: Format, verb: str) -> None:
    """SQLite counts its own steps: as many for two long logs as for two short ones. Mutant: DISTINCT."""
    log, steps = WriterLog(format), []
    calls: dict[str, Callable[[Connection], Any]] = {
        "streams": log.streams,
        "writers": lambda connection: log.writers(connection, "s"),
        "merged": lambda connection: log.merged(connection, "s", limit=3),
        "head": lambda connection: log.head(connection, "s", "a"),
    }
    with undone(engine) as connection:
        driver: Any = connection.connection.dbapi_connection
        for many in (20, 2000):
            fill(connection, log, {"a": many, "b": many})
            count = itertools.count()
            driver.set_progress_handler(lambda count=count: next(count) < 0, 1)
            calls[verb](connection)
            driver.set_progress_handler(None, 1)
            steps.append(next(count))
    assert steps[0] <= steps[1] < 1.2 * steps[0] + 10


async def test_each_verb_inside_of_a_transaction_of_both_tracks(engine: Engine, place: str) -> None:
    """The lines of a transaction see each other's entries, and all of them go with it."""
    log, database = WriterLog(), async_database(place)
    try:
        with suppress(_Undo):
            async with database.transaction() as tx:
                await tx.write(lambda connection: log.append(connection, "s", "w", b"1"))
                assert (await tx.write(lambda connection: log.append(connection, "s", "w", b"2"))).seq == 2
                raise _Undo
        async with database.transaction() as tx:
            entries = await tx.write(lambda connection: log.append_many(connection, "s", "w", [b"x"] * 70))
        assert [entry.seq for entry in entries] == list(range(1, 71))
        found = await database.read(lambda connection: held(connection, OWN))
        assert first_bad("dgent/1", sorted(found, key=lambda row: row[2])) is None
    finally:
        await database.close()


@pytest.mark.parametrize("format", [OWN, AGENT_STORE])
def test_a_payload_that_is_too_large_passes_no_door(engine: Engine, format: Format) -> None:
    log = WriterLog(format, Limits(max_content=10))
    with engine.begin() as connection:
        log.append(connection, "s", "w", b"x" * 10)
        for payloads in ([b"x" * 11], [b"", b"x" * 11]):
            with pytest.raises(LimitExceeded, match="max_content"):
                log.append_many(connection, "s", "w", payloads)
        assert log.head(connection, "s", "w").seq == 1
