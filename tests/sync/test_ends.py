"""Signals that raise in the midst of calls, forks, and programs that end without closing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.processes import complaints, python

from dgent.testing.contract_base import patience

INTERRUPTED = """
import random, signal, sys, threading
import dgent.sync
from dgent import Datum

class Alarm(BaseException):
    pass

def ring(*_):
    raise Alarm

def told(unraisable):  # it rang in a callback of the interpreter's own, which cannot pass it on
    if not isinstance(unraisable.exc_value, Alarm):
        sys.__unraisablehook__(unraisable)

sys.unraisablehook = told
signal.signal(signal.SIGALRM, ring)
storage = dgent.sync.open(sys.argv[1])
storage.run_migrations()
random.seed(1)
acknowledged, both, interrupted = [], [], 0
for n in range(300):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.004))
            storage.memory.put(Datum(f"put {n}", b"x", 1.0))
            acknowledged.append(f"put {n}")
            for _ in range(20):
                assert storage.memory.get(f"put {n}") is not None
            with storage.transaction() as tx:
                tx.memory.put(Datum(f"left {n}", b"x", 1.0))
                tx.session.connection().exec_driver_sql("SELECT 1")
                tx.memory.put(Datum(f"right {n}", b"x", 1.0))
            acknowledged += f"left {n}", f"right {n}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for _ in range(3):  # where an alarm that has rung already is raised
                pass
    except Alarm:
        interrupted += 1
    except Exception as error:  # as of SQLAlchemy, where the alarm rang in the midst of it
        cause = error
        while cause is not None and not isinstance(cause, Alarm):
            cause = cause.__context__
        assert cause is not None, repr(error)
        interrupted += 1
there = {datum.id for datum in storage.memory.list(limit=1000)}
halves = [n for n in range(300) if (f"left {n}" in there) != (f"right {n}" in there)]
storage.memory.put(Datum("last", b"x", 1.0))
storage.close()
print(interrupted > 50, set(acknowledged) <= there, halves)
"""


def test_a_signal_that_raises_leaves_nothing_half_done(tmp_path: Path) -> None:
    """As Ctrl-C, and the time limits of job queues: what was acknowledged is there, blocks are whole, nothing hangs."""
    with python(INTERRUPTED, tmp_path / "x.db") as process:
        out, err = process.communicate(timeout=patience(60))
    assert (out.strip(), complaints(err)) == ("True True []", "")


FORKED = """
import os, sys, threading
import dgent.sync
from dgent import Datum
from dgent.exceptions import StoreClosed

storage = dgent.sync.open(sys.argv[1])
put = storage.memory.put(Datum.create(b"x"))
assert storage.memory.get(put.id) == put
child = os.fork()
if not child:
    refused = 0
    for call in (storage.memory.count, lambda: storage.memory.put(put), lambda: storage.memory.get(put.id)):
        try:
            call()
        except StoreClosed as error:
            refused += "fork" in str(error)
    storage.close()
    with dgent.sync.open(sys.argv[1]) as own:
        refused += own.memory.count() == 1
    os._exit(refused)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), storage.memory.count(), flush=True)
storage.close()
"""


def test_a_child_is_refused_what_was_opened_before_the_fork(tmp_path: Path) -> None:
    with python(FORKED, tmp_path / "x.db") as process:
        out, err = process.communicate(timeout=patience(60))
    assert (out.strip(), complaints(err)) == ("4 1", "")


LEFT_OPEN = """
import sys, threading
import dgent.sync
from dgent import Datum
from dgent.exceptions import StoreClosed

storage = dgent.sync.open(sys.argv[1])
put = storage.memory.put(Datum.create(b"x"))
if sys.argv[2] == "in a block":
    tx = storage.transaction().__enter__()
    tx.memory.put(Datum.create(b"y"))
if sys.argv[2] == "in a thread":
    def work():
        try:
            while True:
                storage.memory.put(Datum.create(b"z"))
        except StoreClosed:
            pass
    threading.Thread(target=work, daemon=True).start()
    while storage.memory.count() < 5:
        pass
print("open", flush=True)
"""


@pytest.mark.parametrize("how", ["idle", "in a block", "in a thread"])
def test_a_program_that_closes_nothing_ends(tmp_path: Path, how: str) -> None:
    with python(LEFT_OPEN, tmp_path / "x.db", how) as process:
        out, err = process.communicate(timeout=patience(30))
    assert (process.returncode, out.strip(), complaints(err)) == (0, "open", "")
    if how == "idle":
        assert not (tmp_path / "x.db-wal").exists()  # the last one to close put it into the file
