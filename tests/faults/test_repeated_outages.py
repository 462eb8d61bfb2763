"""Two programs, a first store that goes away again and again, deletes and repeated values: every write comes home."""

from __future__ import annotations

import asyncio
import warnings
from random import Random
from typing import TYPE_CHECKING

import pytest
from tests.memory.switchable_backend import Switch, Switchable

from dgent.datum import Datum
from dgent.memory.failover import state as chain
from dgent.memory.failover.router import DgentRouter
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.settings import Settings
from dgent.warnings import DegradedWarning

if TYPE_CHECKING:
    from pathlib import Path

IDS = 24


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
async def test_l_e1_in_a_storm_every_acknowledged_write_comes_home_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_size: bool, kind: str
) -> None:
    """Each id has one writer, so none ends wrong and nothing is set aside; the stores are those of two processes."""
    monkeypatch.setattr(chain, "SOONEST", 0.0)
    monkeypatch.setattr(chain, "LATEST", 0.0)
    random, switch, ends = Random(2026), Switch(), dict[str, Datum | None]()

    def router() -> DgentRouter:
        second = SQLiteBackend(tmp_path / "q.db") if kind == "sqlite" else JSONLBackend(tmp_path / "q.jsonl")
        first = Switchable(SQLiteBackend(tmp_path / "first.db"), switch)
        settings = Settings.load(data_dir=tmp_path, synchronous="NORMAL")
        return DgentRouter(settings, backends=[first, second], spill=True)

    async def program(one: DgentRouter, name: str, writes: int) -> None:
        for _ in range(writes):
            id, n = f"{name}{random.randrange(IDS)}", random.randrange(-1, 2)
            ends[id] = None if n < 0 else Datum(id, b"%d" % n, float(n))
            await (one.delete(id) if n < 0 else one.put(Datum(id, b"%d" % n, float(n))))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegradedWarning)
        one, two = router(), router()
        await asyncio.gather(one.open(), two.open())
        for _ in range(60 if full_size else 6):
            await asyncio.gather(program(one, "a", 12), program(two, "b", 12))
            switch.on = False
            await asyncio.gather(program(one, "a", 25), program(two, "b", 25))
            switch.on = True
            await asyncio.gather(program(one, "a", 12), program(two, "b", 12), one.recover())
        reports = await asyncio.gather(one.recover(), two.recover())
        assert all(report.complete for report in reports)
        assert await one.set_aside() == await two.set_aside() == []
        assert {id: await one.get(id) for id in ends} == ends
        assert (await one.status())["waiting"] == 0
        await asyncio.gather(one.close(), two.close())
