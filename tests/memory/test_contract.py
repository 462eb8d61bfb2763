"""The contract itself: stores that are wrong in one place fail the law that is about it."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dgent.change_page import ChangePage
from dgent.datum import Datum
from dgent.exceptions import CausalCycle, DgentError
from dgent.limits import Limits
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.operations import TTL, Outcome
from dgent.page import KeyPage, Page
from dgent.query import Query
from dgent.testing import DgentContract
from dgent.testing.contract_base import _running as running
from dgent.testing.verb_machine import VerbMachine, VerbStep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEFAULT = Limits()


def contract_of(backend: type[MemoryBackend]) -> DgentContract:
    class Contract(DgentContract):
        capabilities = backend.capabilities

        async def open(
            self, place: Any, namespace: str, *, clock: Callable[[], float] = time.time, limits: Limits = DEFAULT
        ) -> MemoryBackend:
            return backend(namespace, clock=clock, limits=limits)

    return Contract()


class PutsTwice(MemoryBackend):
    async def put(self, datum: Datum, **named: Any) -> Datum:
        await super().put(datum.replace(content=datum.content + b" "), **named)
        return await super().put(datum)


class SwapsWithoutComparing(MemoryBackend):
    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        found = await self.get(datum.id)
        await asyncio.sleep(0)
        if expect is not None and expect != (found.version if found else 0):
            return await super().put(datum, expect=expect)
        return await super().put(datum, ttl=ttl)


class PutsSome(MemoryBackend):
    async def put_many(self, datums: Any, *, ttl: TTL = None) -> list[Datum]:
        return [await self.put(datum, ttl=ttl) for datum in datums]


class ForgetsTheOrderAsked(MemoryBackend):
    async def get_many(self, ids: Any) -> dict[str, Datum]:
        return dict(sorted((await super().get_many(ids)).items()))


class ChainsBackwards(MemoryBackend):
    async def causal_chain(self, id: str) -> list[Datum]:
        return (await super().causal_chain(id))[::-1]


class LosesAChild(MemoryBackend):
    async def delete(self, id: str, *, expect: int | None = None) -> bool:
        for datum in await self.query(Query()):
            if datum.causal_parent == id:
                await self.put(datum.replace(causal_parent=None))
        return await super().delete(id, expect=expect)


class LetsCyclesIn(MemoryBackend):
    async def put(self, datum: Datum, **named: Any) -> Datum:
        try:
            return await super().put(datum, **named)
        except CausalCycle:
            return await super().put(datum.replace(causal_parent=None), **named)


class ForgetsTheTimeToLive(MemoryBackend):
    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        return await super().put(datum, expect=expect)


class KeepsNoTimeToLive(MemoryBackend):
    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        return await super().put(datum, expect=expect, ttl=None if ttl == "keep" else ttl)


class KeepsWhatWasDeleted(MemoryBackend):
    given: dict[str, TTL]

    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        given = self.given = getattr(self, "given", {})
        given[datum.id] = given.get(datum.id) if ttl == "keep" else ttl
        return await super().put(datum, expect=expect, ttl=given[datum.id])


class SharesNamespaces(MemoryBackend):
    def within(self, namespace: str) -> Any:
        return self


class PagesOverlap(MemoryBackend):
    async def query(self, query: Query) -> Page:
        page = await super().query(query)
        if len(page) > 1 and page.cursor is not None:
            return Page([*page[:-2], page[-1], page[-1]], page.cursor)
        return page


class ShowsNewestFirst(MemoryBackend):
    async def query(self, query: Query) -> Page:
        return await super().query(replace(query, order="newest") if query.order == "-id" else query)


class CountsWhereAPageEnded(MemoryBackend):
    """Its cursor is a number, so that a delete between two pages leads past what moved up."""

    async def query(self, query: Query) -> Page:
        at = int(query.cursor or 0)
        found = await super().query(replace(query, cursor=None, limit=10_000))
        more = len(found) > at + query.limit
        return Page(found[at : at + query.limit], str(at + query.limit) if more else None)


class ListsKeysOfTheExpired(MemoryBackend):
    async def keys(self, prefix: str | None = None, **named: Any) -> KeyPage:
        gone = [id for id in ("a/2", "b/1") if await self.history(id)]
        return KeyPage(sorted({*await super().keys(prefix, **named), *gone}))


class CutsAtTheFirstDelimiter(MemoryBackend):
    async def segments(self, prefix: str | None = None, **named: Any) -> KeyPage:
        return await super().segments(prefix, **{**named, "depth": 1})


class FindsNoChildren(MemoryBackend):
    async def query(self, query: Query) -> Page:
        return Page() if query.causal_parent else await super().query(query)


class LeavesOutOfEachPage(MemoryBackend):
    async def query(self, query: Query) -> Page:
        page = await super().query(query)
        return Page(page[query.offset :], page.cursor) if query.cursor else page


class HidesTheAbsent(MemoryBackend):
    async def query(self, query: Query) -> Page:
        page = await super().query(query)
        return Page([datum for datum in page if "n" in datum.metadata], page.cursor)


class HidesTheLargest(MemoryBackend):
    async def query(self, query: Query) -> Page:
        page = await super().query(query)
        return Page([datum for datum in page if datum.metadata.get("n") != 2**63 - 1], page.cursor)


class KnowsNoQuote(MemoryBackend):
    async def query(self, query: Query) -> Page:
        page = await super().query(query)
        return Page([datum for datum in page if not any("'" in name for name in datum.metadata)], page.cursor)


class TouchesByPutting(MemoryBackend):
    async def touch(self, ids: Any, ttl: float | None) -> int:
        return len(await self.put_many((await self.get_many(ids)).values(), ttl=ttl))


class AppliesOneByOne(MemoryBackend):
    async def apply(self, operations: Any) -> list[Outcome]:
        return [outcome for one in operations for outcome in await super(AppliesOneByOne, self).apply([one])]


class ForgetsWhy(MemoryBackend):
    async def delete(self, id: str, *, expect: int | None = None, **told: Any) -> bool:
        return await super().delete(id, expect=expect)


class TellsNobodyWhy(MemoryBackend):
    async def changes(self, after_seq: int, **named: Any) -> ChangePage:
        page = await super().changes(after_seq, **named)
        return ChangePage([each._replace(author=None, reason=None) for each in page], page.seq, more=page.more)


class ShowsWhatExpiredOnlyNow(MemoryBackend):
    async def query(self, query: Query) -> Page:
        return await super().query(replace(query, expired=query.expired and query.as_of is None))


WRONG: list[tuple[type[MemoryBackend], str]] = [
    (HidesTheAbsent, "test_l_q1_null_is_there_and_absent_is_not"),
    (HidesTheLargest, "test_l_q1_every_value_stands_in_the_same_order_to_every_other"),
    (KnowsNoQuote, "test_l_q1_injections_in_keys_and_values_change_nothing"),
    (PutsTwice, "test_l_d11_a_put_of_an_equal_datum_changes_nothing"),
    (SwapsWithoutComparing, "test_l_d11_compare_and_swap_succeeds_for_exactly_one"),
    (PutsSome, "test_batches_are_all_or_none"),
    (ForgetsTheOrderAsked, "test_get_many_answers_in_the_order_asked"),
    (ChainsBackwards, "test_l_d8_a_chain_is_the_parents_oldest_first"),
    (LosesAChild, "test_l_d10_deleting_a_parent_changes_no_child"),
    (LetsCyclesIn, "test_l_d8_a_put_that_closes_a_cycle_is_refused"),
    (ForgetsTheTimeToLive, "test_ttl_what_has_expired_is_absent"),
    (KeepsNoTimeToLive, "test_ttl_keep_moves_no_moment_of_expiry"),
    (KeepsWhatWasDeleted, "test_ttl_keep_of_what_is_not_live_stays"),
    (TouchesByPutting, "test_l_q6_the_sweep_goes_by_the_touch"),
    (AppliesOneByOne, "test_l_q3_one_conflict_undoes_all"),
    (ForgetsWhy, "test_delete_keeps_who_and_why"),
    (TellsNobodyWhy, "test_delete_keeps_who_and_why"),
    (ShowsWhatExpiredOnlyNow, "test_what_had_expired_at_a_time_is_found_on_request"),
    (SharesNamespaces, "test_l_d9_namespaces_never_see_each_other"),
    (ShowsNewestFirst, "test_l_q2_the_first_of_each_order"),
    (CountsWhereAPageEnded, "test_l_q2_a_page_goes_on_behind_its_last_whatever_was_deleted"),
    (ListsKeysOfTheExpired, "test_l_q2_what_has_expired_shows_nowhere"),
    (CutsAtTheFirstDelimiter, "test_l_q2_segments_of_a_folder"),
    (FindsNoChildren, "test_l_q2_what_came_of_a_datum"),
    (LeavesOutOfEachPage, "test_l_q2_an_offset_leaves_out_the_first"),
    (PagesOverlap, "test_l_d7_narrow_and_wide_prefixes_have_pages"),
]


@pytest.mark.parametrize(("wrong", "law"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
async def test_a_wrong_store_fails_its_law(wrong: type[MemoryBackend], law: str, tmp_path: Path) -> None:
    await getattr(contract_of(MemoryBackend), law)(tmp_path)
    with pytest.raises((AssertionError, DgentError, pytest.fail.Exception)):
        await getattr(contract_of(wrong), law)(tmp_path)


@pytest.mark.parametrize("wrong", [ForgetsTheTimeToLive, KeepsNoTimeToLive])
async def test_the_machine_tells_a_wrong_answer(wrong: type[MemoryBackend], tmp_path: Path) -> None:
    contract = contract_of(wrong)
    puts = [VerbStep("put", (contract.make_datum("a", n),), {"ttl": ttl}) for n, ttl in ((1, 1.0), (2, "keep"))]
    expires = [*puts, VerbStep("tick", (3.0,)), VerbStep("get", ("a",))]
    with pytest.raises(AssertionError, match="put"):  # which answers when it expires
        await VerbMachine(contract, tmp_path).run(expires)
    await VerbMachine(contract_of(MemoryBackend), tmp_path).run(expires)


@pytest.mark.parametrize(("name", "told"), [("asyncio_0", []), ("uvloop_0", []), ("dgent-read", ["dgent-read"])])
async def test_only_the_threads_of_the_loop_itself_may_stay(name: str, told: list[str]) -> None:
    tasks, threads, end = asyncio.all_tasks(), set(threading.enumerate()), threading.Event()
    thread = threading.Thread(target=end.wait, name=name)
    thread.start()
    try:
        assert running(tasks, threads) == told
    finally:
        end.set()
        thread.join()
