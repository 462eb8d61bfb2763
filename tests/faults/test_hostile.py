"""Nothing that a caller passes is ever taken for SQL, for a path or for another tenant's: answers equal the model's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import text
from tests.faults.stores import make, opened

from dgent.datum import Datum
from dgent.exceptions import CausalCycle, DgentError, InvalidInput
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.query import Query
from dgent.store import Backend
from dgent.testing import ManualClock, ReferenceModel
from dgent.validation import ID_BYTES, check_key

if TYPE_CHECKING:
    from pathlib import Path

SQL: Final = """\
'; DROP TABLE dgent_datums; --
' OR '1'='1
" OR ""="
1; DELETE FROM dgent_heads
x'); ATTACH 'evil.db' AS e; --
' UNION SELECT sql FROM sqlite_master --
'||(SELECT content FROM dgent_datums)||'
\\'; SELECT pg_sleep(9); --""".splitlines()
PRINTABLE: Final = r"""
% _ %% a% [a-z] * ? ?1 :id :ns @x $1 %s %(ns)s {} {0} ${x} {{7*7}} $ $.a /* */ -- # ; ' " ` \ '' \' [] [0] .
.. ... a.b a[0] a["b"] metadata. metadata.tags metadata content. content NULL null true 0 -1 1e309 NaN system
law default rowid dgent_datums ../x ../../etc/passwd /etc/passwd C:\ con a/../b a//b /a a/ ~ ~root
file:x?mode=memory :memory: __proto__ <b> é s
"""
WORDS: Final = PRINTABLE.split()
CHARACTERS: Final = (
    "\x1a\x7f\n\t \x1b\x00\ud800\udfff\xc5\u212b\u017f\u0130\u202e\ufeff\uffff\U0010ffff\U0001f600\ufb00\u212a\u200b"
)
CORPUS: Final = [
    *SQL,
    *WORDS,
    *CHARACTERS,
    *("", "  ", "\r\n", "a\x00b", "e\u0301", "i\u0307", "\x1b[2J", "x" * 512, "x" * 513, "é" * 512, "\U0001f600" * 512),
]
PIECES: Final = [*SQL, *WORDS[:40], "a", "b", "/", ".", "[", "]", '"', "'", "SELECT", " ", "é"]
MANY: Final = 20
"""Texts in one example."""

texts = st.lists(
    st.sampled_from(CORPUS) | st.text(max_size=8) | st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    min_size=MANY,
    max_size=MANY,
)
_numbers = count()


class Both:
    """A store and its model, under a namespace of its own, asked the same."""

    def __init__(self, store: Backend, clock: ManualClock) -> None:
        self.clock = clock
        self.store, self.model = store.within(f"law/{next(_numbers)}"), ReferenceModel(clock)

    async def ask(self, call: Callable[[Backend], Awaitable[Any]], answer: Callable[[ReferenceModel], Any]) -> None:
        """Both refuse the input, or both give the same answer."""
        self.clock.advance(0.5)
        wanted: Any
        try:
            wanted = answer(self.model)
        except (InvalidInput, CausalCycle) as error:
            wanted = type(error)
        try:
            found = await call(self.store)
        except (InvalidInput, CausalCycle) as error:
            found = type(error)
        assert plain(found) == plain(wanted)

    async def put(self, datum: Datum) -> None:
        await self.ask(lambda store: store.put(datum), lambda model: model.put(datum))

    async def query(self, **filters: Any) -> None:
        """Ask by these filters in the two orders."""
        try:
            query = Query(limit=1000, **filters)
        except InvalidInput:
            return
        await self.ask(lambda store: store.query(query), lambda model: model.query(query))


def plain(answer: Any) -> Any:
    if isinstance(answer, Datum):
        return answer, answer.version, answer.seq
    if isinstance(answer, list):
        return [plain(one) for one in answer]
    return answer


def made(**named: Any) -> Datum | None:
    """Return a datum if it can be made: what no store takes is refused there."""
    with suppress(InvalidInput):
        return Datum.create(**{"content": b"x", "created_at": 1.0, **named})
    return None


def is_too_long(word: str) -> bool:
    """Tell whether that is all that is wrong with an id: it is asked for like any other, and absent."""
    with suppress(InvalidInput):
        return len(check_key(word).encode()) > ID_BYTES
    return False


async def ids(both: Both, words: list[str]) -> None:
    for n, word in enumerate(words):
        if (datum := made(id=word, content=b"%d" % n)) is not None:
            await both.put(datum)
            if child := made(id=f"{word}+", causal_parent=word):
                await both.put(child)
        elif is_too_long(word):
            assert not await both.store.exists(word)
        else:
            for verb in ("get", "exists", "history", "causal_chain", "delete", "purge"):
                with pytest.raises(InvalidInput):
                    await getattr(both.store, verb)(word)
    known = [word for word in words if made(id=word)]
    for word in known:
        for verb in ("get", "exists", "history", "causal_chain"):
            await both.ask(
                lambda store, v=verb, w=word: getattr(store, v)(w), lambda model, v=verb, w=word: getattr(model, v)(w)
            )  # type: ignore[misc]
    await both.ask(lambda store: store.get_many(known), lambda model: model.get_many(known))
    for word in known[::2]:
        await both.ask(lambda store, w=word: store.delete(w), lambda model, w=word: model.delete(w))  # type: ignore[misc]
    for word in known[::3]:
        await both.ask(lambda store, w=word: store.purge(w), lambda model, w=word: model.purge(w))  # type: ignore[misc]
    await both.ask(lambda store: store.delete_many(known), lambda model: model.delete_many(known))
    await both.query()


async def prefixes(both: Both, words: list[str]) -> None:
    for n, word in enumerate(words):
        if (datum := made(id=word + str(n % 3), content=b"%d" % n)) is not None:
            await both.put(datum)
    for word in words:
        for order in ("newest", "seq"):
            await both.query(prefix=word, order=order)
        try:
            Query(prefix=word)
        except InvalidInput:
            for call in (both.store.list(word), both.store.count(prefix=word), both.store.as_of(1.0, prefix=word)):
                with pytest.raises(InvalidInput):
                    await call
            continue
        await both.ask(lambda store, w=word: store.count(prefix=w), lambda model, w=word: model.count(prefix=w))  # type: ignore[misc]
        now = both.clock()
        await both.ask(
            lambda store, w=word, now=now: store.as_of(now, prefix=w, limit=1000),  # type: ignore[misc]
            lambda model, w=word, now=now: model.as_of(now, prefix=w),  # type: ignore[misc]
        )


async def tags(both: Both, words: list[str]) -> None:
    for n in range(0, MANY, 2):
        if (datum := made(id=f"k{n}", tags=words[n : n + 3])) is not None:
            await both.put(datum)
    for n, word in enumerate(words):
        await both.query(tags=[word])
        await both.query(tags=words[n : n + 2])
        await both.query(where={"metadata.tags": [word]})


async def metadata(both: Both, words: list[str]) -> None:
    for n, word in enumerate(words):
        if (datum := made(id=f"k{n}", metadata={word: words[n - 1], "deep": {word: n}, "author": word})) is not None:
            await both.put(datum)
    for n, word in enumerate(words):
        quoted = '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
        await both.query(where={f"metadata[{quoted}]": words[n - 1]})
        await both.query(where={f"metadata.deep[{quoted}]": n})
        await both.query(where={f"metadata.{word}": words[n - 1]})
        await both.query(author=word)


async def named(both: Both, words: list[str]) -> None:
    for n, word in enumerate(words):
        if (datum := made(id=f"k{n}", author=word, schema=words[n - 1], source=word)) is not None:
            await both.put(datum)
    for n, word in enumerate(words):
        await both.query(author=word)
        await both.query(schema=word)
        await both.query(author=word, schema=words[n - 1], where={"metadata.source": word})


async def where(both: Both, words: list[str]) -> None:
    """Keys of `where` as they come, and values, into the content too."""
    for n, word in enumerate(words):
        if (datum := made(id=f"k{n}", content=None, data={word: words[n - 1], "a": [word, n]})) is not None:
            await both.put(datum)
    for n, word in enumerate(words):
        await both.query(where={word: words[n - 1]})
        await both.query(where={"a[0]": word, "a[1]": n})
        await both.query(where={f"content.{word}": words[n - 1], word: words[n - 1]})


async def cursors(both: Both, words: list[str]) -> None:
    for n in range(5):
        await both.put(Datum(f"k{n}", b"x", float(n)))
    page = await both.store.list(limit=2)
    assert page.cursor is not None
    for n, word in enumerate(words):
        forged = page.cursor[: n % len(page.cursor)] + word + page.cursor[(n + len(word)) % len(page.cursor) :]
        for cursor in {word, forged, page.cursor + word} - {page.cursor, ""}:
            for call in (both.store.list(limit=2, cursor=cursor), both.store.as_of(1.0, limit=2, cursor=cursor)):
                with pytest.raises(InvalidInput):
                    await call
    assert await following(both, page.cursor) == ["k2", "k1"]


async def following(both: Both, cursor: str) -> list[str]:
    return [datum.id for datum in await both.store.list(limit=2, cursor=cursor)]


async def contents(both: Both, words: list[str]) -> None:
    for n, word in enumerate(words):
        await both.put(Datum(f"k{n % 4}", word.encode("utf-8", "surrogatepass"), float(n)))
    await both.query()


async def namespaces(both: Both, words: list[str]) -> None:
    """Each text is a namespace of its own, or refused; none is a path, and none is met by another."""
    home = f"law/{next(_numbers)}"
    stores: dict[str, Backend] = {}
    for word in words:
        with suppress(InvalidInput):
            stores.setdefault(word, both.store.within(f"{home}/{word}"))
            with suppress(InvalidInput):
                both.store.within(word)
    for word, store in stores.items():
        assert (await store.put(made(id="same", content=word.encode()))).seq == 1  # type: ignore[arg-type]
    for word, store in stores.items():
        found = await store.list()
        assert [(datum.id, datum.text) for datum in found] == [("same", word)]
        assert await store.count() == 1
    below = await both.store.namespaces(home, limit=1000)
    assert below == sorted(f"{home}/{word}" for word in stores)


DOORS: Final = [ids, prefixes, tags, metadata, named, where, cursors, contents, namespaces]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("kind", ["sqlite", "jsonl", "memory"])
def test_no_input_is_taken_for_code(
    tmp_path: Path, full_size: bool, kind: str, door: Callable[[Both, list[str]], Awaitable[None]]
) -> None:
    """500 inputs for each door, 20 000 at full size; then the schemas and the folders are what they were."""
    with asyncio.Runner() as runner, ExitStack() as stack:
        examples = count()
        opened_now: list[tuple[Backend, ManualClock]] = []

        @hypothesis.settings(
            max_examples=20_000 // MANY if full_size else 500 // MANY,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(texts)
        def enter(words: list[str]) -> None:
            number = next(examples)
            if number % 50 == 0:  # a file in which each purge writes all anew must not grow for ever
                stack.close()
                place = tmp_path / str(number)
                opened_now[:] = [stack.enter_context(untouched(runner, kind, place))]
            runner.run(door(Both(*opened_now[0]), words))

        enter()


@contextmanager
def untouched(runner: asyncio.Runner, kind: str, place: Path) -> Iterator[tuple[Backend, ManualClock]]:
    """Open a store, and see at its end that its schema and its folder are what they were."""
    place.mkdir()
    clock = ManualClock()
    store = make(kind, place / "store", clock=clock)
    runner.run(store.put(Datum("first", b"x", 1.0)))
    schema, files = runner.run(schema_of(store)), names(place)
    try:
        yield store, clock
        assert runner.run(schema_of(store)) == schema
        assert names(place) == files
    finally:
        runner.run(store.close())


NUMBERS: Final = [
    *(0, -1, 1, 2**31, 2**62, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**70, -(2**70), 10**400, True, 1.5, 1e308),
    *(5e-324, float("nan"), float("inf"), float("-inf"), "1", b"1", (), [1], {}),
]
NUMERIC: Final[dict[str, Callable[[Backend, Any], Awaitable[Any]]]] = {
    "version": lambda store, n: store.get("a", version=n),
    "before": lambda store, n: store.history("a", before=n),
    "history limit": lambda store, n: store.history("a", limit=n),
    "list limit": lambda store, n: store.list(limit=n),
    "after": lambda store, n: store.list(after=n),
    "as of": lambda store, n: store.as_of(n),
    "as of limit": lambda store, n: store.as_of(1.0, limit=n),
    "namespaces limit": lambda store, n: store.namespaces(limit=n),
    "expect": lambda store, n: store.delete("nothing", expect=n),
    "ttl": lambda store, n: store.put(Datum("b", b"x", 1.0), ttl=n),
    "keep versions": lambda store, n: store.compact(keep_versions=n),
    "older than": lambda store, n: store.compact(older_than=n),
    "since": lambda store, n: store.query(Query(since=n)),
    "until": lambda store, n: store.query(Query(until=n)),
    "before seq": lambda store, n: store.query(Query(before_seq=n, order="-seq")),
    "offset": lambda store, n: store.query(Query(offset=n)),
    "parent": lambda store, n: store.query(Query(causal_parent=n)),
    "keys prefix": lambda store, n: store.keys(n),
    "keys cursor": lambda store, n: store.keys(cursor=n),
    "segments prefix": lambda store, n: store.segments(n),
    "delimiter": lambda store, n: store.segments(delimiter=n),
    "depth": lambda store, n: store.segments(depth=n),
    "segments cursor": lambda store, n: store.segments(cursor=n),
    "namespaces cursor": lambda store, n: store.namespaces(cursor=n),
    "after seq": lambda store, n: store.query(Query(after_seq=n, order="seq")),
    "where": lambda store, n: store.query(Query(where={"metadata.n": n, "content.n": n})),
    "id": lambda store, n: store.get(n),
    "ids": lambda store, n: store.get_many([n]),
    "prefix": lambda store, n: store.list(n),
    "cursor": lambda store, n: store.list(cursor=n),
    "purge": lambda store, n: store.purge(n),
}


@pytest.mark.parametrize("door", NUMERIC)
async def test_any_number_or_thing_is_taken_or_refused_alike_everywhere(tmp_path: Path, door: str) -> None:
    """What is refused is refused by all in the same words' class; nothing else is raised."""
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(opened(kind, tmp_path / kind, clock=ManualClock()))
            for kind in ("memory", "jsonl", "sqlite")
        ]
        for store in stores:
            await store.put_many([Datum("a", b"x", 1.0), Datum("a", b"y", 1.0)])
        for number in NUMBERS:
            answers = []
            for store in stores:
                try:
                    answers.append(plain(await NUMERIC[door](store, number)))
                except DgentError as error:
                    answers.append(type(error))
            assert answers == [answers[0]] * 3, f"{door} of {str(number)[:30]}"


def names(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


async def schema_of(store: Backend) -> list[Any]:
    """Return what the database says of its tables, indexes, triggers and attached files."""
    if not isinstance(store, SQLiteBackend):
        return []
    await store.count()

    def work(connection: Any) -> list[Any]:
        found = [connection.execute(text(sql)).all() for sql in ("SELECT * FROM sqlite_master", "PRAGMA database_list")]
        return [sorted(map(str, part)) for part in found]

    return await store.database.read(work)


async def everything(store: Backend) -> list[Any]:
    """Return all that a namespace holds, by every reading verb."""
    live = list(await store.list(limit=1000, order="seq"))
    histories = [[(one.version, one.seq, one.datum) for one in await store.history(f"k{n}")] for n in range(4)]
    chains = [await store.causal_chain(f"k{n}") for n in range(4)]
    then = list(await store.as_of(2e9, limit=1000))
    return [plain(live), histories, chains, then, await store.count(), replace(await store.stats(), size=None)]


@pytest.mark.parametrize("kind", ["sqlite", "jsonl", "memory"])
async def test_tenants_do_not_meet(tmp_path: Path, kind: str) -> None:
    """The same ids, parents, tags and metadata on both sides; every verb on one side changes nothing on the other."""
    names = [
        ("a", "b"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("A", "a"),
        ("é", "e\u0301"),
        ("a%", "ab"),
        ("a_", "ab"),
        ("a", "a "),
    ]
    async with opened(kind, tmp_path / "store", clock=ManualClock()) as store:
        for number, (mine, theirs) in enumerate(names):
            one, other = store.within(f"{number}/{mine}"), store.within(f"{number}/{theirs}")
            for side, tenant in enumerate((other, one)):
                for n in range(4):
                    named = {"tags": ["t"], "metadata": {"secret": side}, "causal_parent": f"k{n - 1}" if n else None}
                    await tenant.put(Datum.create(b"%d" % side, id=f"k{n}", created_at=float(n), **named))  # type: ignore[arg-type]
            before = await everything(other)
            for found in (
                await one.list(limit=1000),
                await one.list("k", limit=1000),
                await one.query(Query(tags=frozenset({"t"}))),
                await one.causal_chain("k3"),
                list((await one.get_many([f"k{n}" for n in range(4)])).values()),
                await one.as_of(2e9),
            ):
                assert [datum.content for datum in found] == [b"1"] * 4
            assert list(await one.query(Query(where={"metadata.secret": 0}))) == []
            cursor = (await other.list(limit=2)).cursor
            assert [datum.content for datum in await one.list(limit=2, cursor=cursor)] == [b"1"] * 2
            await one.put(Datum("k0", b"changed", 1.0), expect=1)
            await one.put(Datum("k1", b"expiring", 1.0), ttl=1)
            await one.put_many([Datum(f"k{n}", b"many", 1.0) for n in range(4)])
            await one.delete("k0")
            await one.delete_many(["k1", "k2"])
            await one.compact(keep_versions=0)
            for n in range(4):
                await one.purge(f"k{n}")
            assert await one.count() == 0
            assert await everything(other) == before
