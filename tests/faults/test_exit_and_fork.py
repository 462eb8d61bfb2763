"""Programs that end without closing, and programs that fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.faults.processes import complaints, output, python

from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from pathlib import Path

USE = """
import asyncio, os, sys, threading
from dgent.datum import Datum
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend

async def use(store, name):
    await store.put(Datum(name, b"x", 1.0))
    if isinstance(store, SQLiteBackend):
        async with store.database.transaction() as tx:
            await store.joined(tx).put(Datum(f"{name} in tx", b"x", 1.0))
    await store.list(limit=1000)
    return await store.count()

store = {"sqlite": SQLiteBackend, "jsonl": JSONLBackend}[sys.argv[1]](sys.argv[2])
"""
END = patience(2.0)  # seconds


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_a_store_that_nobody_closed_does_not_hold_up_the_end(tmp_path: Path, kind: str) -> None:
    """It ends within two seconds of its last word, silent and with 0, after two event loops and one in a thread."""
    source = f"""{USE}
asyncio.run(use(store, "first"))
asyncio.run(use(store, "second"))
thread = threading.Thread(target=lambda: asyncio.run(use(store, "third")))
thread.start()
thread.join()
print(asyncio.run(store.count()), flush=True)
"""
    with python(source, kind, tmp_path / "store") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().strip() == ("6" if kind == "sqlite" else "3")
        try:
            assert process.wait(END) == 0, process.stderr.read()
        finally:
            process.kill()
        assert complaints(process.stderr.read()) == ""


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_a_program_that_ends_in_the_middle_of_things_ends(tmp_path: Path, kind: str) -> None:
    """With writes, reads and a transaction under way; what was told to nobody may be in or not."""
    source = f"""{USE}
async def main():
    await use(store, "first")
    for n in range(50):
        asyncio.ensure_future(use(store, str(n)))
    await asyncio.sleep(0.002)
    raise SystemExit(7)
try:
    asyncio.run(main())
except SystemExit as end:
    print(end.code)
"""
    assert output(source, kind, tmp_path / "store", timeout=patience(30)) == "7"


@pytest.mark.parametrize("kind", ["sqlite", "jsonl"])
def test_a_forked_child_is_refused_and_harms_nobody(tmp_path: Path, kind: str) -> None:
    """The child may also close the store, or end as Python programs end; the parent goes on writing.

    Mutant: without the look at the process, `close` in the child waited without end for threads that it has not.
    """
    source = f"""{USE}
from dgent.exceptions import StoreClosed

async def refused():
    for call in (store.put(Datum("child", b"x", 1.0)), store.get("first"), store.count()):
        try:
            await call
        except StoreClosed as error:
            assert "fork" in str(error), error
        else:
            raise AssertionError("not refused")
    await store.close()

asyncio.run(use(store, "first"))
for end in (os._exit, sys.exit):
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(refused())
        except BaseException as error:
            print("child:", repr(error), flush=True)
            os._exit(1)
        end(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    asyncio.run(use(store, f"after {{end.__name__}}"))

async def count():
    number = await store.count()
    await store.close()
    again = type(store)(sys.argv[2])
    assert await again.count() == number
    await again.close()
    return number

print(asyncio.run(count()))
"""
    assert output(source, kind, tmp_path / "store", timeout=patience(60)) == ("6" if kind == "sqlite" else "3")
