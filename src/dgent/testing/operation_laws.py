"""The laws of operations: batches of every kind, touches, purges, and what deletes tell."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.datum import Datum
from dgent.exceptions import DgentError, InvalidInput, LimitExceeded, VersionConflict
from dgent.limits import Limits
from dgent.operations import Delete, Operation, Purge, Put, Touch
from dgent.query import Query
from dgent.testing.contract_base import ContractBase, as_backend, examples, fresh, pages
from dgent.testing.manual_clock import ManualClock
from dgent.testing.order_laws import ORDERS

if TYPE_CHECKING:
    from dgent.store import DgentProtocol, Revision

_IDS: Final = ("a", "b", "c")
_LATER: Final = 1000.0


def _batches(contract: ContractBase) -> st.SearchStrategy[list[list[Operation]]]:
    """Draw batches of operations on few ids, so that they meet."""
    id, expect = st.sampled_from(_IDS), st.sampled_from([None, None, None, None, 0, 1, 2])
    datum = st.builds(contract.make_datum, id, st.integers(0, 3), st.sampled_from([None, *_IDS]))
    each: list[st.SearchStrategy[Operation]] = [
        st.builds(Put, datum, expect, st.sampled_from([None, 1.0, "keep"])),
        st.builds(Delete, id, expect, st.sampled_from([None, "me"]), st.none()),
        st.builds(Purge, id, expect),
        st.builds(Touch, id, st.sampled_from([None, 1.0, 2.0]), expect),
    ]
    return st.lists(st.lists(st.one_of(each), max_size=6), min_size=1, max_size=4)


class OperationLaws(ContractBase):
    """What apply, touch, purge_many and a delete that says why promise."""

    @pytest.mark.requires("history", "ttl", "causal", "versioned")
    @examples(2)
    @given(data=st.data())
    async def test_l_q3_apply_equals_its_operations_one_by_one(self, place: Any, data: st.DataObject) -> None:
        """Mutants: a purge that leaves what the same batch put, or takes its seq back; a touch of what is planned."""
        clock, namespace = ManualClock(), fresh()
        async with self.opened(place, namespace, clock=clock) as opened:
            whole = as_backend(opened)
            each = whole.within(f"{namespace}/each")
            for batch in data.draw(_batches(self)):
                before, given = await _shown(whole), await _answer(whole, batch)
                if given is None:
                    assert await _shown(whole) == before, "a batch that was refused left something"
                else:
                    assert [[one] for one in given] == [await _answer(each, [one]) for one in batch]
                assert await _shown(whole) == await _shown(each)
                clock.advance(0.5)

    @pytest.mark.requires("history", "versioned")
    async def test_l_q3_one_conflict_undoes_all(self, place: Any) -> None:
        async with self.opened(place) as store:
            put = await store.put_many([self.make_datum(id, 1) for id in "abc"])
            mixed: list[Operation] = [Purge("a"), Delete("b", 1)]
            mixed += [Put(self.make_datum(id, 2), 0) for id in "ad"]
            conflicts: list[Operation] = [Put(self.make_datum("c", 2), 0), Delete("c", 2), Purge("c", 2)]
            for last in [*conflicts, Touch("c", 1, 2)] if self.capabilities.ttl else conflicts:
                with pytest.raises(VersionConflict) as caught:
                    await store.apply([*mixed, last])
                assert (caught.value.id, caught.value.actual) == ("c", 1)
                assert list((await store.get_many([*"abcd"])).values()) == put
            outcomes = await store.apply([*mixed, Purge("c", 1)])
            assert [outcome.erased for outcome in outcomes] == [1, 0, 0, 0, 1]
            assert [outcome.version for outcome in outcomes] == [0, 2, 1, 1, 0]
            assert {datum.id for datum in await store.list()} == {"a", "d"}

    @pytest.mark.requires("history")
    async def test_l_q3_no_seq_comes_again_after_a_purge(self, place: Any) -> None:
        async with self.opened(place) as store:
            first = await store.put(self.make_datum("a", 1))
            outcomes = await store.apply([Put(self.make_datum("b", 1)), Purge("b"), Purge("a"), Purge("nobody")])
            assert [outcome.erased for outcome in outcomes] == [0, 1, 1, 0]
            assert await store.list() == []
            assert [await store.history(id) for id in "ab"] == [[], []]
            again = await store.put(self.make_datum("a", 1))
            assert (again.version, again.seq) == (1, first.seq + 2)

    @pytest.mark.requires("history")
    async def test_purge_many_erases_every_version_at_once(self, place: Any) -> None:
        async with self.opened(place) as store:
            for n in range(3):
                await store.put_many([self.make_datum(id, n) for id in "abc"])
            await store.delete("b")
            with pytest.raises(InvalidInput):
                await store.purge_many(["a", ""])
            assert await store.purge_many(["a", "b", "nobody", "a"]) == 7
            assert await store.purge_many(["a", "b"]) == await store.purge_many([]) == 0
            assert [await store.history(id) for id in "ab"] == [[], []]
            assert [datum.id for datum in await store.query(Query(tags=frozenset({"é"})))] == ["c"]

    @pytest.mark.requires("history", "ttl")
    @examples(4)
    @given(ttl=st.sampled_from([None, 5.0, 50.0]), had=st.sampled_from([None, 20.0]), how=st.booleans())
    async def test_l_q6_touch_changes_when_it_expires_and_nothing_else(
        self, place: Any, ttl: float | None, had: float | None, how: bool
    ) -> None:
        """Mutants: a new version; a digest that does not cover it; a moment that the sweep does not know."""
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            await store.put(self.make_datum("a", 1))
            await store.put_many([self.make_datum("a", 2), self.make_datum("b", 1)], ttl=had)
            clock.advance(10)
            before = await _shown(store)
            touched = [outcome.changed for outcome in await store.apply([Touch("a", ttl), Touch("nobody", 1.0)])]
            assert (touched if how else [await store.touch(["a"], ttl), 0]) == [True, False]
            until = None if ttl is None else clock.now + ttl
            assert _without_expiry(await _shown(store)) == _without_expiry(before)
            shown = [
                await store.get("a"),
                *await store.list("a"),
                *await store.query(Query(prefix="a", as_of=clock.now)),
            ]
            shown += [(await store.history("a"))[1].datum, (await store.changes(1))[0].datum]
            for found in shown:
                assert found is not None
                assert found.expires_at == until
            other = await store.get("b")
            assert other is not None
            assert other.expires_at == (None if had is None else clock.now - 10 + had)
            clock.advance(ttl or _LATER)
            assert await store.exists("a") is (ttl is None)
            assert await store.touch(["a"], 1) == int(ttl is None), "what has expired is not brought back"

    @pytest.mark.requires("history", "ttl")
    async def test_l_q6_the_sweep_goes_by_the_touch(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as opened:
            store = as_backend(opened)
            await store.put_many([self.make_datum(id, 1) for id in "abc"], ttl=10)
            assert await store.touch(["a", "a"], 100) == 1
            assert await store.touch(["b"], None) == 1
            clock.advance(10)
            assert await store.touch(["c"], 100) == 0
            assert await store.compact() == 1
            assert {datum.id for datum in await store.list()} == {"a", "b"}
            clock.advance(90)
            assert await store.compact() == 1
            assert [datum.id for datum in await store.list()] == ["b"]

    @pytest.mark.requires("history", "ttl", "durable")
    async def test_l_q6_a_touch_is_durable(self, place: Any) -> None:
        clock, namespace = ManualClock(), fresh()
        async with self.opened(place, namespace, clock=clock) as store:
            await store.put_many([self.make_datum(id, 1) for id in "ab"], ttl=10)
            await store.apply([Touch("a", 100), Put(self.make_datum("c", 1)), Touch("c", 5)])
        clock.advance(10)
        async with self.opened(place, namespace, clock=clock) as store:
            assert [datum.id for datum in await store.list()] == ["a"]

    @pytest.mark.requires("history", "ttl")
    async def test_what_is_read_says_when_it_was_stored_and_expires(self, place: Any) -> None:
        """By every verb that reads; as of a time, too. Before it is stored it says nothing of it."""
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            assert (self.make_datum("a", 1).stored_at, self.make_datum("a", 1).expires_at) == (0.0, None)
            start = clock.now
            put = await store.put(self.make_datum("a", 1), ttl=100)
            clock.advance(10)
            again = await store.put(self.make_datum("a", 1), ttl="keep")
            stays = await store.put(self.make_datum("b", 1))
            assert [(one.stored_at - start, one.expires_at) for one in (put, again, stays)] == [
                (0.0, start + 100), (0.0, start + 100), (10.0, None)
            ]  # fmt: skip
            shown = [await store.get("a"), await store.get("a", version=1), (await store.get_many(["a"]))["a"]]
            shown += [*await store.list(prefix="a"), *await store.as_of(start), (await store.history("a"))[0].datum]
            shown += [*await store.query(Query(as_of=start, order="-id")), (await store.changes(0))[0].datum]
            if self.capabilities.causal:
                asked: list[dict[str, Any]] = [{}, {"version": 1}, {"as_of": start}]
                shown += [datum for named in asked for datum in await store.causal_chain("a", **named)]
            assert {_numbers(one) for one in shown} == {_numbers(put)}
            assert shown[0] is not None
            assert "expires_at" not in shown[0].to_dict()

    @pytest.mark.requires("history", "ttl")
    async def test_what_has_expired_is_found_on_request_until_it_is_swept(self, place: Any) -> None:
        clock = ManualClock()
        async with self.opened(place, clock=clock) as opened:
            store = as_backend(opened)
            put = await store.put_many([self.make_datum(id, 1) for id in "abc"], ttl=10)
            live = await store.put(self.make_datum("d", 1))
            await store.delete("c")
            for _ in range(2):
                for order in ORDERS:
                    seen = await pages(
                        lambda at, order=order: store.query(  # type: ignore[misc]
                            Query(expired=True, order=order, limit=2, cursor=at)
                        )
                    )
                    backwards = order in {"newest", "-id", "-seq"}
                    assert seen == ([live, put[1], put[0]] if backwards else [put[0], put[1], live]), order
                tagged = Query(expired=True, tags=frozenset({"é"}), prefix="a")
                assert [_numbers(one) for one in await store.query(tagged)] == [_numbers(put[0])]
                clock.advance(10)
            assert await store.query(Query()) == [live]
            assert await store.get("a") is None
            assert await store.get("a", version=1) == put[0]
            assert await store.keys() == ["d"]
            assert await store.compact() == 2
            assert await store.query(Query(expired=True)) == [live]

    @pytest.mark.requires("history", "ttl")
    async def test_what_had_expired_at_a_time_is_found_on_request(self, place: Any) -> None:
        """What was stored last at that time, unless it was a deletion; what came later, and when, changes nothing."""
        clock = ManualClock()
        async with self.opened(place, clock=clock) as store:
            start = clock.now
            put = await store.put_many([self.make_datum(id, 1) for id in "abcd"], ttl=10)
            await store.delete("d")
            clock.advance(20)
            await store.put_many([self.make_datum("a", 2), self.make_datum("e", 1)])
            await store.delete("b")
            for ago, live in ((5, put[:3]), (15, [])):
                for order in ORDERS:
                    found = await store.query(Query(as_of=start + ago, expired=True, order=order))
                    assert sorted(found, key=lambda datum: datum.id) == put[:3], order
                    found = await store.query(Query(as_of=start + ago, order=order))
                    assert sorted(found, key=lambda datum: datum.id) == live, order
            assert await store.query(Query(as_of=start - 1, expired=True)) == []

    @pytest.mark.requires("ttl", "versioned")
    async def test_touch_is_checked(self, place: Any) -> None:
        async with self.opened(place) as store:
            await store.put(self.make_datum("a", 1))
            bad: Any
            for bad in ("keep", 0, -1, True, "1"):
                with pytest.raises(InvalidInput):
                    await store.touch(["a"], bad)
            with pytest.raises(InvalidInput):
                await store.touch("a", 1)
            with pytest.raises(VersionConflict):
                await store.apply([Touch("a", 1, 2)])
            assert await store.touch([], 1) == 0

    @pytest.mark.requires("history")
    async def test_delete_keeps_who_and_why(self, place: Any) -> None:
        small = Limits(max_metadata=200)
        async with self.opened(place, limits=small) as store:
            await store.put_many([self.make_datum(id, 1) for id in "ab"])
            assert await store.delete("a", author="ann", reason="she asked for it\n\u2028")
            assert not await store.delete("a", author="bob")
            assert await store.apply([Delete("b", reason="é")])
            told = [(entry.datum, entry.author, entry.reason) for id in "ab" for entry in await store.history(id)]
            assert told[1::2] == [(None, "ann", "she asked for it\n\u2028"), (None, None, "é")]
            assert [each[1:] for each in told[::2]] == [(None, None)] * 2
            changes = [(each.id, each.author, each.reason) for each in await store.changes(2)]
            assert changes == [("a", "ann", "she asked for it\n\u2028"), ("b", None, "é")]
            await store.put(self.make_datum("a", 1))
            with pytest.raises(LimitExceeded):
                await store.delete("a", reason="x" * 200)
            bad: Any
            for bad in (7, "\0", "\ud800"):
                with pytest.raises(InvalidInput):
                    await store.delete("a", author=bad)
            assert await store.exists("a")


async def _answer(store: DgentProtocol, operations: list[Operation]) -> list[Any] | None:
    """Return what operations led to, or None where they were refused."""
    try:
        return [(_numbers(outcome.datum), *outcome[1:]) for outcome in await store.apply(operations)]
    except DgentError:
        return None


async def _shown(store: DgentProtocol) -> list[Any]:
    """Return all that can be seen: what is live, by each order, every history, and all in the order of the commits."""
    found: list[Any] = [[_numbers(datum) for datum in await store.list(order=order)] for order in ("newest", "seq")]
    changes = [(*change._replace(datum=None), _numbers(change.datum)) for change in await store.changes(0)]
    return [*found, changes, await store.head(), *[[_revision(one) for one in await store.history(id)] for id in _IDS]]


def _numbers(datum: Datum | None) -> Any:
    if datum is None:
        return None
    return datum, datum.version, datum.seq, datum.stored_at, datum.expires_at


def _revision(entry: Revision) -> Any:
    return entry.version, entry.seq, entry.stored_at, entry.author, entry.reason, _numbers(entry.datum)


def _without_expiry(shown: Any) -> Any:
    """Return what was shown without the moments of expiry, which come last of a datum's numbers."""
    if isinstance(shown, tuple) and isinstance(shown[0], Datum):
        return shown[:4]
    return type(shown)(map(_without_expiry, shown)) if isinstance(shown, list | tuple) else shown
