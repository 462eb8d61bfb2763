"""Agent memory in a JSONL file, used by several processes and threads, some of which are killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from dgent.datum import Datum
from dgent.exceptions import VersionConflict
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.jsonl"


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[JSONLBackend]:
    store = JSONLBackend(path)
    try:
        yield store
    finally:
        await store.close()


async def ids_in(path: Path) -> set[str]:
    async with opened(path) as store:
        return await all_ids(store)


async def all_ids(store: JSONLBackend) -> set[str]:
    found: set[str] = set()
    cursor = None
    while True:
        page = await store.list(limit=10_000, cursor=cursor)
        found |= {datum.id for datum in page}
        if (cursor := page.cursor) is None:
            return found


def python(source: str, *args: object) -> subprocess.Popen[str]:
    prelude = (
        "import asyncio, os, sys\nfrom dgent.datum import Datum\nfrom dgent.memory.jsonl.backend import JSONLBackend\n"
    )
    command = [sys.executable, "-c", prelude + textwrap.dedent(source), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], timeout: float = patience(60)) -> str:
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out


PUT = """
    async def main(path, name, many):
        store = JSONLBackend(path)
        for n in range(int(many)):
            await store.put(Datum(f"{name}-{n}", name.encode(), 1.0))
            print(n, flush=True)
        await store.close()
    asyncio.run(main(*sys.argv[1:]))
"""
COMPACT = """
    async def main(path, many):
        store = JSONLBackend(path)
        for n in range(int(many)):
            await store.put(Datum("churn", str(n).encode(), 1.0))
            await store.compact(keep_versions=1)
            await store.purge("churn")
        await store.close()
    asyncio.run(main(*sys.argv[1:]))
"""


async def test_l_d5_writers_in_three_processes_lose_nothing_while_one_compacts(path: Path) -> None:
    processes = [python(PUT, path, "one", 80), python(PUT, path, "two", 80), python(COMPACT, path, 15)]
    async with opened(path) as store:
        for n in range(40):
            await store.put(Datum(f"here-{n}", b"here", 1.0))
        await asyncio.gather(*(asyncio.to_thread(finished, process) for process in processes))
        ids = {f"{name}-{n}" for name, many in (("one", 80), ("two", 80), ("here", 40)) for n in range(many)}
        assert {datum.id for datum in await store.list(limit=1000)} == ids
        stats = await store.stats()
        assert (stats.live, stats.versions, stats.seq) == (200, 200, 215)
    assert await ids_in(path) == ids


async def test_an_acknowledged_put_survives_kill_9(path: Path, full_size: bool) -> None:
    acknowledged: set[str] = set()
    for round in range(500 if full_size else 5):
        with python(PUT, path, f"r{round}", 10_000) as process:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(1 + round * 7 % 40)]
            process.kill()
            seen += process.stdout.readlines()
        acknowledged |= {f"r{round}-{line.strip()}" for line in seen if line.strip()}
        async with opened(path) as store:
            held = await all_ids(store)
            assert acknowledged <= held
            assert len(held - acknowledged) <= round + 1  # in, but its answer was cut off
            assert await store.put(Datum(f"after-{round}", b"x", 1.0))
            acknowledged.add(f"after-{round}")
    assert acknowledged <= await ids_in(path)


def test_a_full_disk_is_an_error_and_no_loss(path: Path) -> None:
    out = finished(
        python(
            """
            import resource
            from dgent.exceptions import DiskFull
            async def main(path):
                store, n = JSONLBackend(path), 0
                await store.put(Datum("first", b"x", 1.0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
                try:
                    while True:
                        await store.put(Datum(f"k{n}", b"x" * 700, 1.0))
                        n += 1
                except DiskFull as error:
                    assert path in str(error), error
                size = os.stat(path).st_size
                assert size < 20_000 and await store.count() == n + 1, (size, n)
                for id in ("big", "b2"):
                    try:
                        await store.put_many([Datum("small", b"", 1.0), Datum(id, b"y" * 30_000, 1.0)])
                        raise SystemExit("no error")
                    except DiskFull:
                        assert os.stat(path).st_size == size
                assert await store.put(Datum("first", b"x", 1.0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                assert (await store.put(Datum("big", b"y" * 30_000, 1.0))).seq == n + 2
                await store.close()
                print(n)
            asyncio.run(main(sys.argv[1]))
            """,
            path,
        )
    )
    n = int(out)
    assert n > 10
    assert asyncio.run(ids_in(path)) == {"first", "big", *(f"k{at}" for at in range(n))}
    assert not list(path.parent.glob("*.torn-*"))


def test_a_forked_child_is_refused(path: Path) -> None:
    out = finished(
        python(
            """
            import warnings
            from dgent.exceptions import StoreClosed
            async def main(path):
                store = JSONLBackend(path)
                await store.put(Datum("a", b"x", 1.0))
                warnings.simplefilter("ignore")
                child = os.fork()
                if child == 0:
                    try:
                        await store.get("a")
                    except StoreClosed as error:
                        os._exit(7 if "fork" in str(error) else 1)
                    os._exit(2)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                await store.put(Datum("b", b"x", 1.0))
                await store.close()
                print(await_count)
            await_count = "fine"
            asyncio.run(main(sys.argv[1]))
            """,
            path,
        )
    )
    assert out.strip() == "fine"


def test_a_second_event_loop_works_and_an_unclosed_store_does_not_hold_up_the_end(path: Path) -> None:
    process = python(
        """
        store = JSONLBackend(sys.argv[1])
        for n in range(3):
            asyncio.run(store.put(Datum(f"k{n}", b"x", 1.0)))
        print(asyncio.run(store.count()))
        """,
        path,
    )
    assert finished(process, timeout=patience(20)).strip() == "3"


def test_threads_with_loops_of_their_own_share_a_store(path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    store = JSONLBackend(path)

    async def increment() -> None:
        for _ in range(20):
            while True:
                found = await store.get("n")
                value = Datum("n", b"%d" % (int(found.content) + 1 if found else 1), 1.0)
                try:
                    await store.put(value, expect=found.version if found else 0)
                    break
                except VersionConflict:
                    continue

    with ThreadPoolExecutor(4) as threads:
        for result in [threads.submit(asyncio.run, increment()) for _ in range(4)]:
            result.result()

    async def check() -> None:
        found = await store.get("n")
        assert found is not None
        assert (found.content, found.version) == (b"80", 80)
        await store.close()

    asyncio.run(check())
