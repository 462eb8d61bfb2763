"""What a backend tells the contract about itself, and what every law needs."""

# ruff: noqa: S101  # laws are tests: they assert, and their names say what

from __future__ import annotations

import asyncio
import os
import threading
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Final

import orjson
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dgent.datum import Datum
from dgent.limits import Limits
from dgent.store import Backend, DgentProtocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from dgent.capabilities import Capabilities
    from dgent.change_page import ChangePage, ChangeRecord
    from dgent.page import Page

START: Final = 1_700_000_000.0
HOSTILE: Final = "ab%_\\[]*'\"AéÉ\u0301/. \x7f\ud7ff\ue000\U0001f600\U0010ffff"
_FACTOR: Final = float(os.environ.get("KGENTS_TEST_TIMEOUT_FACTOR", "1"))
_numbers = count(1)


def patience(seconds: float) -> float:
    """Return after how many seconds a test says that something hangs: what is given, times the factor of the machine.

    The factor is that of the variable KGENTS_TEST_TIMEOUT_FACTOR, 1 unless it is set: a busy machine needs more.
    """
    return seconds * _FACTOR


def examples(divisor: int = 1) -> settings:
    """Return settings for a law: a share of the examples of the hypothesis profile that is loaded."""
    profile = settings.default or settings()
    return settings(
        max_examples=max(5, profile.max_examples // divisor),
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,  # every example takes a namespace of its own
            HealthCheck.differing_executors,  # every backend inherits the same laws
        ],
    )


def is_full_size() -> bool:
    """Tell whether the hypothesis profile that is loaded asks for laws at their full size: 1,000 examples or more."""
    return (settings.default or settings()).max_examples >= 1000


def fresh() -> str:
    """Return a namespace that no test has used."""
    return f"law/{next(_numbers)}"


async def pages(page: Callable[[str | None], Awaitable[Page]]) -> list[Datum]:
    """Follow the cursors of `page(cursor)` to the end and join the pages."""
    found: list[Datum] = []
    seen: set[str | None] = {None}
    here = await page(None)
    while True:
        found += here
        if here.cursor is None:
            return found
        assert here.cursor not in seen, "a cursor leads back to its own page"
        seen.add(here.cursor)
        here = await page(here.cursor)


async def all_changes(page: Callable[[int], Awaitable[ChangePage]], after_seq: int = 0) -> list[ChangeRecord]:
    """Follow `page(after_seq)` to the end and join the pages."""
    found: list[ChangeRecord] = []
    while True:
        here = await page(after_seq)
        found += here
        if not here.more:
            return found
        assert here.seq > after_seq, "a page leads back to itself"
        after_seq = here.seq


@pytest.mark.asyncio
class ContractBase(ABC):
    """The hooks. A subclass sets `capabilities` and writes `open`; the other hooks are for stores of typed rows.

    Attributes:
        capabilities: what the store says of itself; laws that need what it lacks are skipped by name.
        chain_depth: how deep the deep causal chain is; at most 10,000 where the hypothesis profile is small.
    """

    capabilities: ClassVar[Capabilities]
    chain_depth: ClassVar[int] = 100_000

    @abstractmethod
    async def open(
        self,
        place: Any,
        namespace: str,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits = Limits(),  # noqa: B008  # frozen
    ) -> DgentProtocol:
        """Open the store that lies at `place`, where it may lie already, under a namespace."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        """Return where a store can lie: a folder, unless a subclass says otherwise."""
        return tmp_path

    async def close(self, store: DgentProtocol) -> None:
        """Close a store that `open` returned."""
        assert isinstance(store, Backend)
        await store.close()

    def make_datum(self, id: str, n: int, parent: str | None = None) -> Datum:
        """Return a datum with content number `n`, from 0: another number is another content.

        Its created_at repeats, so that the order of pages must look at the id too.
        """
        content = orjson.dumps({"n": n}) if n % 3 else b"\xff\x00\n" * n
        return Datum(id, content, START + n % 4, parent, {"tags": [f"t{n % 2}", "é"], "n": n} if n % 5 else {})

    def expected(self, datum: Datum) -> Datum:
        """Return what the store gives back for a datum that was put: itself, unless it normalises."""
        return datum

    def ids(self) -> st.SearchStrategy[str]:
        """Draw an id that the store takes."""
        return st.text(st.sampled_from(HOSTILE), min_size=1, max_size=5)

    def few_ids(self) -> tuple[str, ...]:
        """Return some ids, few enough to meet again."""
        return ("a", "a%", "A", "ab", "é")

    def damage(self, place: Any, namespace: str, id: str) -> None:
        """Change the content of a datum past the store, or skip the law: where nothing can, nothing has to be told."""
        pytest.skip("nothing in these tests damages what the store holds")

    @asynccontextmanager
    async def opened(
        self,
        place: Any,
        namespace: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits = Limits(),  # noqa: B008  # frozen
    ) -> AsyncIterator[DgentProtocol]:
        """Open a store for the length of a block, under a namespace of its own unless one is given."""
        store = await self.open(place, namespace or fresh(), clock=clock, limits=limits)
        try:
            yield store
        finally:
            await self.close(store)

    @pytest.fixture(autouse=True)
    def _able(self, request: pytest.FixtureRequest) -> None:
        wanted = [name for mark in request.node.iter_markers("requires") for name in mark.args]
        if missing := self.capabilities.missing(*wanted):
            pytest.skip(f"the store has no {', '.join(missing)}")

    @pytest_asyncio.fixture(autouse=True)
    async def _leaves_nothing_running(self, _able: None) -> AsyncIterator[None]:
        tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
        yield
        deadline = time.monotonic() + patience(5)
        while (left := _running(tasks, threads)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # a thread that ends sets no event
        assert not left, f"still running after close: {left}"


_OF_THE_LOOP: Final = ("asyncio_", "uvloop_")
"""What the threads of a loop's own executor are called; they end with the loop."""


def _running(tasks: set[asyncio.Task[Any]], threads: set[threading.Thread]) -> list[str]:
    later = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    begun = set(threading.enumerate()) - threads
    return [str(task) for task in later] + [one.name for one in begun if not one.name.startswith(_OF_THE_LOOP)]


def as_backend(store: DgentProtocol) -> Backend:
    """Return the store as a `Backend`, or skip the law: it cannot be put into a chain or under other namespaces."""
    if not isinstance(store, Backend):
        pytest.skip(f"{store.name} is no Backend: it has no within(), namespaces(), stats()")
    return store
