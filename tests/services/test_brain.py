"""Crystals in both tracks: law L-V3, search against a model, and what concurrent callers may do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update
from tests.faults.damaged_datum_rows import execute

from dgent.crystal import DECLARED
from dgent.crystal.default_schemas import BrainCrystal
from dgent.datum import Datum
from dgent.datum_id import uuid7
from dgent.exceptions import Conflict, Corrupt, InvalidCursor, InvalidInput, LimitExceeded, NotFound
from dgent.models import Crystal, CrystalTag
from dgent.query import Query
from dgent.services import Brain, NewCrystal, crystal_search, repair
from dgent.warnings import DamagedWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from tests.services.conftest import Lab

    from dgent.storage import StorageProvider

SHARED = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
START = datetime(2026, 1, 1, tzinfo=UTC)
TAGS = ["maps", "Maps", "50%", "a_b", "a'b", "é"]


async def rows(storage: StorageProvider) -> int:
    return await storage.database.read(lambda c: c.execute(select(func.count()).select_from(Crystal)).scalar_one())


async def set_row(storage: StorageProvider, id: str, **values: Any) -> None:
    """Change a row past the Brain."""

    def work(connection: Connection) -> None:
        connection.execute(update(Crystal).where(Crystal.id == id).values(**values))

    await storage.database.write(work)


async def remove_row(storage: StorageProvider, id: str) -> None:
    async with storage.transaction() as tx:
        await tx.session.delete(await tx.session.get_one(Crystal, id))


async def test_a_capture_is_a_row_and_a_datum(storage: StorageProvider) -> None:
    brain = Brain(storage)
    text = "The map is not the territory. " * 20
    crystal = await brain.capture(
        text, ["maps", "korzybski", "maps"], author="Alfred", source="book", causal_parent="t1", created_at=START
    )
    datum = await storage.memory.get(crystal.datum_id or "")
    assert datum is not None
    assert (datum.content, datum.schema, datum.author, datum.source) == (
        text.encode(),
        "brain.content",
        "Alfred",
        "book",
    )
    assert (datum.tags, datum.causal_parent, datum.created_at) == ({"maps", "korzybski"}, "t1", START.timestamp())
    found = await brain.get(crystal.id)
    assert found is not None
    assert (found.summary, found.tags, found.created_at) == (text[:200], ["maps", "korzybski"], START)
    assert (found.access_count, found.last_accessed) == (0, None)
    assert await brain.content(crystal.id) == text
    assert await brain.get("nothing") is None


async def test_a_capture_is_no_crystal_of_the_schema_that_its_row_has(storage: StorageProvider) -> None:
    """A text and the JSON of a row are two things with two names: a query over everything reads both."""
    captured = await Brain(storage).capture("plain text, no JSON", ["maps"])
    kept = await storage.universe.remember(BrainCrystal(content_hash="0" * 64, summary="s"))
    page = await storage.universe.query(Query())
    assert {each.id for each in page} == {captured.id, kept.id}
    assert page.unreadable == ()
    assert (await storage.memory.get(captured.id)).schema not in {each.name for each in DECLARED}  # type: ignore[union-attr]


async def test_what_older_versions_stamped_as_crystals_is_read_and_healed(storage: StorageProvider) -> None:
    """They wrote plain text under the name of a JSON contract, without its version."""
    brain = Brain(storage)
    old = {"schema": "brain.crystal", "tags": ["maps"], "author": "Ada"}
    kept = await brain.capture("an old text", ["maps"])
    live = await storage.memory.get(kept.id)
    assert live is not None
    await storage.memory.put(live.replace(metadata=old))
    orphan = await storage.memory.put(Datum("orphan", b"an orphan", 1000.0, None, old), ttl=10**6)
    true = await storage.universe.remember(BrainCrystal(content_hash="0" * 64, summary="s"))
    page = await storage.universe.query(Query())
    assert [type(each).__name__ for each in sorted(page, key=lambda each: each.id != true.id)] == [
        "Crystal",
        "Datum",
        "Datum",
    ]
    assert {each.id for each in page.unreadable} == {kept.id, "orphan"}
    assert all("brain.crystal" in each.reason for each in page.unreadable)
    assert [each.id for each in await brain.search(text="old text")] == [kept.id]
    assert await brain.content(kept.id) == "an old text"
    healed = await brain.heal()
    assert (healed.adopted, sorted(healed.renamed), healed.lost) == (["orphan"], sorted([kept.id, "orphan"]), [])
    assert await brain.content("orphan") == "an orphan"
    renamed = await storage.memory.get("orphan")
    assert renamed is not None
    assert (renamed.schema, renamed.author, renamed.tags, renamed.version) == ("brain.content", "Ada", {"maps"}, 2)
    assert renamed.content == orphan.content
    page = await storage.universe.query(Query())
    assert (len(page), page.unreadable) == (3, ())
    assert await brain.get(true.id) is None, "a crystal of that schema is not the content of one"
    again = await brain.heal()
    assert (again.adopted, again.renamed) == ([], [])


async def test_one_damaged_content_hides_no_other_from_a_search(storage: StorageProvider) -> None:
    brain = Brain(storage)
    captured = [await brain.capture(f"{'.' * 300} needle {n}", created_at=START + timedelta(days=n)) for n in range(4)]
    url = storage.database.url.render_as_string(hide_password=False)
    execute(url, "UPDATE dgent_datums SET content = ? WHERE id = ?", b"else", captured[1].id)
    with pytest.warns(DamagedWarning):
        page = await brain.search(text="needle")
    assert [each.id for each in page] == [captured[n].id for n in (3, 2, 0)]
    assert [each.id for each in page.damaged] == [captured[1].id]
    with pytest.raises(Corrupt):
        await brain.content(captured[1].id)


async def test_the_same_content_twice_is_two_crystals_unless_the_id_says_otherwise(storage: StorageProvider) -> None:
    brain = Brain(storage)
    assert (await brain.capture("a thought")).id != (await brain.capture("a thought")).id
    captured = await asyncio.gather(*(brain.capture("imported", id="i1") for _ in range(6)))
    assert {crystal.id for crystal in captured} == {"i1"}
    assert await rows(storage) == 3
    assert (await storage.memory.get("i1")).version == 1  # type: ignore[union-attr]
    with pytest.raises(Conflict, match="'i1'"):
        await brain.capture("something else", id="i1")
    assert await brain.content("i1") == "imported"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@given(content=st.text(), tags=st.lists(st.text(), max_size=3), author=st.none() | st.text())
@SHARED
def test_l_v3_a_capture_leaves_both_or_neither(lab: Lab, content: str, tags: list[str], author: str | None) -> None:
    storage, brain, id = lab.storage, Brain(lab.storage), uuid7()
    try:
        lab.run(brain.capture(content, tags, id=id, author=author))
    except InvalidInput:
        assert lab.run(brain.get(id)) is None
        assert not lab.run(storage.memory.exists(id))
    else:
        assert lab.run(brain.content(id)) == content


async def test_l_v3_a_failed_capture_leaves_neither_row_nor_datum(storage: StorageProvider) -> None:
    brain = Brain(storage)
    await storage.memory.put(Datum.create(b"mine", id="a thought"))
    before = await storage.memory.count()
    failing: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: brain.capture("  "), InvalidInput),
        (lambda: brain.capture(b"bytes"), InvalidInput),  # type: ignore[arg-type]
        (lambda: brain.capture("late NUL" + "." * 300 + "\0"), InvalidInput),
        (lambda: brain.capture("x", created_at=datetime(2026, 1, 1)), InvalidInput),  # noqa: DTZ001
        (lambda: brain.capture("x", metadata={"a": {1, 2}}), InvalidInput),
        (lambda: brain.capture("x" * (storage.settings.max_content + 1)), LimitExceeded),
        (lambda: brain.capture("x", [str(n) for n in range(10**5)]), LimitExceeded),
        (lambda: brain.capture("x", id="a thought"), Conflict),
        (lambda: capture_and_fail(storage), ZeroDivisionError),
    ]
    for call, error in failing:
        with pytest.raises(error):
            await call()
    assert (await rows(storage), await storage.memory.count()) == (0, before)


async def capture_and_fail(storage: StorageProvider) -> None:
    async with storage.transaction():
        crystal = await Brain(storage).capture("never")
        assert await Brain(storage).content(crystal.id) == "never"
        raise ZeroDivisionError


short = st.text("ab% _/ÄäA'", min_size=1, max_size=8)
contents = short | st.tuples(short, st.sampled_from([190, 196, 300]), short).map(lambda t: f"{t[0]}{'.' * t[1]}{t[2]}")
crystals = st.lists(st.tuples(contents, st.sets(st.sampled_from(TAGS)), st.integers(0, 5)), max_size=8)


@given(
    kept=crystals,
    tags=st.sets(st.sampled_from(TAGS), max_size=2),
    text=st.none() | st.text("ab% _/ÄäA'", max_size=2),
    since=st.none() | st.integers(0, 5),
    until=st.none() | st.integers(0, 5),
    limit=st.integers(1, 4),
)
@SHARED
def test_search_answers_as_a_full_scan_does(
    lab: Lab,
    kept: list[tuple[str, set[str], int]],
    tags: set[str],
    text: str | None,
    since: int | None,
    until: int | None,
    limit: int,
) -> None:
    mark = uuid7()  # a tag that sets the crystals of this example apart

    async def example() -> tuple[list[str], list[str]]:
        brain, wanted = Brain(lab.storage), []
        for content, labels, day in kept:
            if not content.strip():
                continue
            moment = START + timedelta(days=day)
            crystal = await brain.capture(content, [mark, *labels], created_at=moment)
            if (
                tags <= labels
                and (text is None or plain(text) in plain(content))
                and (since is None or day >= since)
                and (until is None or day < until)
            ):
                wanted.append((moment, crystal.id))
        found: list[str] = []
        cursor = None
        while True:
            page = await brain.search(
                tags=[mark, *tags],
                text=text,
                since=None if since is None else START + timedelta(days=since),
                until=None if until is None else (START + timedelta(days=until)).timestamp(),
                limit=limit,
                cursor=cursor,
            )
            assert len(page) <= limit
            found += [crystal.id for crystal in page]
            cursor = page.cursor
            if cursor is None:
                return found, [id for _, id in sorted(wanted, reverse=True)]

    found, wanted = lab.run(example())
    assert found == wanted


def plain(text: str) -> str:
    """Lower A to Z alone."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


async def found(storage: StorageProvider, text: str, **more: Any) -> list[str]:
    """Return the ids of all pages of a search for text."""
    page = await Brain(storage).search(text=text, **more)
    ids = [crystal.id for crystal in page]
    while page.cursor is not None:
        page = await Brain(storage).search(text=text, cursor=page.cursor, **more)
        ids += [crystal.id for crystal in page]
    return ids


async def test_text_is_found_anywhere_in_the_content(storage: StorageProvider) -> None:
    brain = Brain(storage)
    long = "." * 195 + "The Territory" + "." * 5000 + "50% é" + "é" * 300
    kept = await brain.capture(long, ["t"], created_at=START)
    await brain.capture("." * 500, ["t"])
    for text in ("territory", "THE TERR", "50%", "% É".lower(), "." * 1000):
        assert kept.id in await found(storage, text), text
    assert await found(storage, "territory", tags=["t"]) == [kept.id]
    assert await found(storage, "territory", tags=["other"]) == await found(storage, "50_") == []
    assert await found(storage, "50% É") == []  # only A to Z match in either case
    told = await brain.capture("What was said at length.", ["t"])
    await set_row(storage, told.id, summary="told")  # somebody's own words: not all of the content
    assert await found(storage, "at length") == await found(storage, "TOLD") == [told.id]
    async with storage.transaction():
        inside = await brain.capture("." * 300 + "unsaid")
        assert await found(storage, "UNSAID") == [inside.id]
    await storage.memory.delete(kept.id)
    assert await found(storage, "territory") == []
    assert await found(storage, "." * 190) != []


async def test_a_search_for_text_reads_no_more_than_so_much_for_a_page(
    storage: StorageProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = [NewCrystal("." * 300 + ("yes" if n % 5 == 0 else "no"), id=f"c{n:02d}") for n in range(20)]
    new += [NewCrystal(f"yes {n}", id=f"s{n}") for n in range(3)]
    await Brain(storage).capture_many(new)
    wanted = sorted([crystal.id for crystal in await Brain(storage).search(limit=100) if crystal.summary[0] == "y"])
    wanted += [f"c{n:02d}" for n in range(0, 20, 5)]
    monkeypatch.setattr(crystal_search, "MOST_CONTENTS", 4)
    monkeypatch.setattr(crystal_search, "_DATUMS", 2)
    monkeypatch.setattr(crystal_search, "_ROWS", 7)
    read: list[int] = []
    get_many = type(storage.memory).get_many

    def counted(memory: Any, ids: Any) -> Any:
        read.append(len(ids))
        return get_many(memory, ids)

    monkeypatch.setattr(type(storage.memory), "get_many", counted)
    for limit in (1, 2, 50):
        cursor, ids, pages = None, [], 0
        while pages == 0 or cursor is not None:
            read.clear()
            page = await Brain(storage).search(text="YES", limit=limit, cursor=cursor)
            assert len(page) <= limit
            assert sum(read) <= 4 + 1  # a look is at two datums at once
            ids += [crystal.id for crystal in page]
            cursor, pages = page.cursor, pages + 1
        assert sorted(ids) == sorted(wanted)
        assert pages >= 5
    monkeypatch.setattr(crystal_search, "MOST_CONTENTS", 1000)
    monkeypatch.setattr(crystal_search, "MOST_BYTES", 700)
    page = await Brain(storage).search(text="nowhere")
    assert page == []
    assert page.cursor is not None
    assert await found(storage, "nowhere") == []


async def test_many_are_captured_in_one_transaction_or_none(storage: StorageProvider) -> None:
    brain = Brain(storage)
    before = await brain.capture("there before", id="a")
    new = [
        NewCrystal("one", ["t"], author="ann", source="book", causal_parent="a", created_at=START, metadata={"n": 1}),
        NewCrystal("there before", id="a"),
        NewCrystal("two", id="b"),
        NewCrystal("two", id="b"),
        NewCrystal("one"),
    ]
    one, again, two, twice, other = await brain.capture_many(iter(new))
    assert (again.id, again.created_at, two.id, twice.id) == ("a", before.created_at, "b", "b")
    assert len({one.id, other.id, "a", "b"}) == 4
    alone = await brain.capture("one", "t", author="ann", source="book", causal_parent="a", created_at=START)
    datums = await storage.memory.get_many([one.id, alone.id])
    assert datums[one.id].replace(id="x", metadata={}) == datums[alone.id].replace(id="x", metadata={})
    assert dict(datums[one.id].metadata) == {**datums[alone.id].metadata, "n": 1}
    assert (one.tags, one.created_at, one.content_hash) == (alone.tags, alone.created_at, alone.content_hash)
    assert [await brain.content(crystal.id) for crystal in (one, again, two, other)] == [
        "one",
        "there before",
        "two",
        "one",
    ]
    assert await brain.capture_many([]) == []
    count = await rows(storage), await storage.memory.count()
    await storage.memory.put(Datum.create(b"mine", id="taken"))
    large = "x" * (storage.settings.max_content + 1)
    for bad, error in [
        (NewCrystal("other", id="a"), Conflict),
        (NewCrystal("x", id="taken"), Conflict),
        (NewCrystal(large), LimitExceeded),
    ]:
        with pytest.raises(error):
            await brain.capture_many([NewCrystal("fine", id="fine"), bad])
    with pytest.raises(Conflict, match="'c'"):
        await brain.capture_many([NewCrystal("c", id="c"), NewCrystal("not c", id="c")])
    assert (await rows(storage), await storage.memory.count() - 1) == count


async def test_heal_looks_through_the_whole_history(storage: StorageProvider) -> None:
    brain = Brain(storage)
    crystal = await brain.capture("long " * 100)
    datum = await storage.memory.get(crystal.id)
    assert datum is not None
    await storage.memory.put_many([datum.replace(content=b"%d" % n) for n in range(2 * repair.VERSIONS + 1)])
    assert (await brain.heal()).restored == [crystal.id]
    assert await brain.content(crystal.id) == "long " * 100


async def test_a_search_refuses_what_means_nothing(storage: StorageProvider) -> None:
    brain = Brain(storage)
    for n in range(3):
        await brain.capture(f"thought {n}", ["t"])
    page = await brain.search(tags="t", limit=2)
    assert page.cursor is not None
    assert await brain.search(tags="t", limit=0) == []
    with pytest.raises(InvalidCursor):
        await brain.search(tags="other", limit=2, cursor=page.cursor)
    with pytest.raises(InvalidCursor):
        await brain.search(tags="t", cursor="x" + page.cursor)
    refused: list[dict[str, Any]] = [
        {"limit": -1},
        {"tags": 5},
        {"tags": [str(n) for n in range(65)]},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"text": "x" * 1001},
        {"text": "a\0"},
        {"text": 7},
        {"limit": storage.settings.max_page + 1},
    ]
    for arguments in refused:
        with pytest.raises(InvalidInput):
            await brain.search(**arguments)
    assert await brain.search(since=1e14) == await brain.search(until=-1e14) == []


async def test_l_v1_every_touch_counts(storage: StorageProvider) -> None:
    brain = Brain(storage)
    crystal = await brain.capture("a thought")
    counts = await asyncio.gather(*(brain.touch(crystal.id) for _ in range(30)))
    assert sorted(counts) == list(range(1, 31))
    found = await brain.get(crystal.id)
    assert found is not None
    assert found.access_count == 30
    assert found.last_accessed is not None
    with pytest.raises(NotFound, match="nothing"):
        await brain.touch("nothing")


async def test_forget_takes_the_row_its_tags_and_the_datum(storage: StorageProvider) -> None:
    brain = Brain(storage)
    crystal = await brain.capture("a thought", ["maps"])
    results = await asyncio.gather(*(brain.forget(crystal.id) for _ in range(4)))
    assert sorted(results) == [False, False, False, True]
    assert await brain.get(crystal.id) is None
    assert not await storage.memory.exists(crystal.id)
    assert [revision.datum is None for revision in await storage.memory.history(crystal.id)] == [False, True]
    tags = select(func.count()).select_from(CrystalTag)
    assert await storage.database.read(lambda connection: connection.execute(tags).scalar()) == 0
    assert (await brain.heal()).adopted == []
    with pytest.raises(NotFound):
        await brain.content(crystal.id)


async def test_heal_does_what_each_case_needs(storage: StorageProvider) -> None:
    brain = Brain(storage)
    long = "long " * 100
    whole = await brain.capture("untouched")
    buried, short, gone, grown, cut, rowless = [
        await brain.capture(text, ["t"]) for text in (long, "short", long, "start", long, "kept")
    ]
    await storage.memory.delete(buried.id)
    await storage.memory.purge(short.id)
    await storage.memory.purge(gone.id)
    for crystal, content in ((grown, b"start and more"), (cut, long[:50].encode())):
        datum = await storage.memory.get(crystal.id)
        assert datum is not None
        await storage.memory.put(datum.replace(content=content))
    await remove_row(storage, rowless.id)
    with pytest.raises(Corrupt, match="heal"):
        await brain.content(cut.id)

    report = await brain.heal()
    assert sorted(report.restored) == sorted([buried.id, short.id, cut.id])
    assert (report.followed, report.adopted, report.lost) == ([grown.id], [rowless.id], [gone.id])
    contents = {one.id: await brain.content(one.id) for one in (whole, buried, short, grown, cut, rowless)}
    assert list(contents.values()) == ["untouched", long, "short", "start and more", long, "kept"]
    assert [crystal.id for crystal in await brain.search(tags="t", text="kept")] == [rowless.id]
    lost = await brain.get(gone.id)
    assert lost is not None
    assert lost.summary == long[:200]
    again = await brain.heal()
    assert (again.restored, again.followed, again.adopted, again.lost) == ([], [], [], [gone.id])


harm = st.sampled_from(["delete", "purge", "shorten", "lengthen", "replace", "row", "hash", "link", "summary"])


async def do_harm(storage: StorageProvider, id: str, kind: str) -> None:
    datum = await storage.memory.get(id)
    match kind:
        case "delete":
            await storage.memory.delete(id)
        case "purge":
            await storage.memory.purge(id)
        case "row":
            if await Brain(storage).get(id) is not None:
                await remove_row(storage, id)
        case "hash":
            await set_row(storage, id, content_hash="0" * 64)
        case "link":
            await set_row(storage, id, datum_id=None)
        case "summary":
            await set_row(storage, id, summary="?")
        case _ if datum is not None:
            body = datum.content
            new = {"shorten": body[: len(body) // 2], "lengthen": body + b"!", "replace": body[::-1]}[kind]
            await storage.memory.put(datum.replace(content=new))


@given(harms=st.lists(st.lists(harm, max_size=4), min_size=1, max_size=4), size=st.sampled_from([1, 150, 300]))
@SHARED
def test_l_v3_healing_never_shortens_and_ends(lab: Lab, harms: list[list[str]], size: int) -> None:
    storage, brain = lab.storage, Brain(lab.storage)

    async def example() -> None:
        captured = [(await brain.capture(f"{n}" * size, ["t"])).id for n in range(len(harms))]
        for id, kinds in zip(captured, harms, strict=True):
            for kind in kinds:
                await do_harm(storage, id, kind)
        before = await storage.memory.get_many(captured)
        await brain.heal()
        after = await storage.memory.get_many(captured)
        assert before.keys() <= after.keys()
        assert all(len(after[id].content) >= len(before[id].content) for id in before)
        again = await brain.heal()
        assert (again.restored, again.followed, again.adopted) == ([], [], [])
        for id in captured:
            if id in after:
                assert await brain.content(id) == after[id].text
            else:
                assert id in again.lost or await brain.get(id) is None
            await brain.forget(id)
            await storage.memory.purge(id)

    lab.run(example())
