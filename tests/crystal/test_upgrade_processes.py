"""An upgrade in several processes at once, and one that is killed half-way: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import pytest
from tests.crystal.old_versions import KNOWN, MARK
from tests.crystal.stores import SHARED, opened
from tests.crystal.test_upgrade import check, filled
from tests.faults.processes import Child, ready, started, together

from dgent.crystal import Universe

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MANY = 300
OLD = MANY * 4 // 5


def upgrade(pipe: Connection, number: int, kind: str, place: str, batch: int, told: bool = False) -> None:
    """Upgrade all, say the progress of each batch, and in the end how many were written.

    Where it is `told`, it waits after each batch for a word to go on.
    """

    def progress(done: object) -> None:
        pipe.send(done)
        if told:
            pipe.recv()

    async def main() -> None:
        async with opened(kind, place) as store:
            await store.count()
            ready(pipe)
            report = await Universe(store, schemas=KNOWN).upgrade(MARK, batch=batch + number, progress=progress)
            pipe.send(("upgraded", report.upgraded))

    asyncio.run(main())


def ended(child: Child) -> int:
    """Hear a child to its end, and return how many it upgraded."""
    while True:
        said = child.answer()
        if isinstance(said, tuple):
            return int(said[1])


@pytest.mark.parametrize("kind", SHARED)
async def test_two_processes_at_once_upgrade_each_crystal_once(kind: str, place: str) -> None:
    async with opened(kind, place) as store:
        await filled(store, MANY)
    with started(2, upgrade, kind, place, 10) as children:
        together(children)
        counts = [ended(child) for child in children]
    assert sum(counts) == OLD
    async with opened(kind, place) as store:
        await check(Universe(store, schemas=KNOWN), MANY)


@pytest.mark.parametrize("kind", SHARED)
async def test_a_killed_upgrade_goes_on_where_it_ended(kind: str, place: str, full_size: bool) -> None:
    chance, killed_between = random.Random(f"{kind}{full_size}"), 0
    async with opened(kind, place) as store:
        await filled(store, MANY)
    for _ in range(50 if full_size else 5):
        child = Child(upgrade, 0, kind, place, 5, True)
        together([child])
        looks = MANY // 5  # batches of the first pass, in which nothing is written
        for _ in range(looks + chance.randint(0, 8)):
            if isinstance(child.answer(), tuple):
                break
            child.answers.send("go")  # and with the last one it is on its way when it is killed
        time.sleep(chance.random() * 0.005)
        child.kill()
        async with opened(kind, place) as store:
            old = (await Universe(store, schemas=KNOWN).upgrade(MARK, dry_run=True)).older
            killed_between += 0 < old < OLD
            assert (await store.stats()).versions == MANY + 2 + OLD - old
    assert killed_between, "no kill came half-way"
    async with opened(kind, place) as store:
        universe = Universe(store, schemas=KNOWN)
        rest = (await universe.upgrade(MARK, dry_run=True)).older
        assert (await universe.upgrade(MARK)).upgraded == rest
        await check(universe, MANY)
