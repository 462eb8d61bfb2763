"""The laws of names: how long an id, a parent and a namespace may be, in every index of every store."""

# ruff: noqa: S101, D102  # laws are tests: they assert, and their names say what

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import pytest

from dgent.datum import Datum
from dgent.exceptions import InvalidDatum, InvalidNamespace
from dgent.query import Query
from dgent.testing.contract_base import ContractBase, as_backend, fresh

if TYPE_CHECKING:
    from dgent.store import Backend

_WIDE: Final = "".join(map(chr, [*range(0x4E00, 0x9FFF), *range(0x1F300, 0x1F600)]))


def dense(size: int, seed: int) -> str:
    """Return a text of so many bytes of UTF-8, which no database makes smaller."""
    letters = random.Random(seed)  # noqa: S311  # it is no secret
    text = "".join(letters.choices(_WIDE, k=size // 4))
    return text + "".join(letters.choices("abcdefghijklmnop", k=size - len(text.encode())))


class IdLaws(ContractBase):
    """An id has at most 2,000 bytes, a namespace and an id together at most 2,400."""

    @pytest.mark.requires("history", "ttl", "causal")
    @pytest.mark.parametrize(("of_namespace", "of_id"), [(400, 2000), (1200, 1200), (2399, 1)])
    async def test_ids_the_longest_are_found_by_every_index(self, place: Any, of_namespace: int, of_id: int) -> None:
        async with self.opened(place) as opened:
            store = _named(as_backend(opened), of_namespace)
            ids = [dense(of_id, seed) for seed in range(3)]
            metadata = {"tags": ["t"], "deep": {"n": 1}}
            put = [Datum(id, b"x", 1.0, parent, metadata) for id, parent in zip(ids, [None, *ids], strict=False)]
            assert await store.put_many(put[:2], ttl=1000) == put[:2]
            assert await store.put(put[2]) == put[2]
            assert {*await store.get_many(ids)} == {*ids}
            for order in ("newest", "oldest", "seq"):
                assert {datum.id for datum in await store.list(limit=3, order=order)} == {*ids}
            assert len(await store.query(Query(tags=frozenset({"t"}), where={"metadata.deep.n": 1}))) == 3
            assert [datum.id for datum in await store.causal_chain(ids[2])] == ids
            assert await store.count(prefix=ids[1]) == 1
            assert await store.delete(ids[0])
            assert [await store.purge(id) for id in ids] == [2, 1, 1]

    async def test_ids_that_are_longer_are_refused_and_absent(self, place: Any) -> None:
        async with self.opened(place) as opened:
            home = as_backend(opened)
            store, short, long = _named(home, 1200), dense(1200, 1), dense(1201, 2)
            with pytest.raises(InvalidDatum, match=r"2.400"):
                await store.put(Datum(long, b"", 1.0))
            if self.capabilities.causal:
                with pytest.raises(InvalidDatum, match="causal_parent"):
                    await store.put_many([Datum("a", b"", 1.0), Datum(short, b"", 1.0, long)])
            with pytest.raises(InvalidDatum, match=r"2.000"):
                Datum(dense(2001, 1), b"", 1.0)
            with pytest.raises(InvalidNamespace, match=r"2.399"):
                home.within("n" * 2400)
            assert await store.get(long) is None
            assert not await store.delete(long)
            assert await store.count() == 0


def _named(store: Backend, size: int) -> Backend:
    """Return the store under a namespace of so many bytes that no test has used."""
    name = f"{fresh()}/"
    return store.within(name + dense(size - len(name), size))
