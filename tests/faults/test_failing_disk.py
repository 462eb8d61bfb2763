"""A disk that answers EIO: what was acknowledged is there after a kill, what was refused is not, the rest is unknown.

`fsync` is the call that matters: where that of a COMMIT fails, what it was to make safe lies in the file all the same,
and the kernel takes it for written from then on. So nothing is acknowledged before the file was made safe otherwise:
SQLite's log was put into the file and cut, the JSONL file written anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.faults.failing_disk import FailingDisk, Run, library
from tests.faults.failing_writers import WRITERS
from tests.faults.stores import opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ON_SQLITE = [kind for kind in WRITERS if kind != "jsonl"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingDisk]:
    disk = FailingDisk(library(tmp_path_factory.mktemp("failing")))
    yield disk
    disk.close()


async def agrees(kind: str, path: Path, run: Run) -> None:
    """Open the store that the dead program left, and hold it against what the program heard; it takes writes again."""
    said = run.ids("ack") | run.ids("unknown") | run.ids("error")
    assert len(said) > 3, run.lines
    purged = {"first"} if "purged" in said else set()
    async with opened("jsonl" if kind == "jsonl" else "sqlite", path) as store:
        found = {datum.id for datum in await store.list(limit=1000)}
        assert run.ids("ack") - {"purged"} - purged <= found, "acknowledged and gone"
        assert not run.ids("error") & (found - {"first"}), "refused and there"
        for id in found:
            assert (await store.get(id)).content == id.encode() * 400  # type: ignore[union-attr]


@pytest.mark.parametrize("forever", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("kind", WRITERS)
async def test_eio_at_each_call(disk: FailingDisk, tmp_path: Path, kind: str, forever: bool, full_size: bool) -> None:
    """Mutants: a COMMIT's error taken for "nothing was lost"; no checkpoint, or no new file, before the next answer."""
    seen: set[str] = set()
    for calls in "swt":
        for suffix in (".db", ".tmp", tmp_path.name) if kind == "jsonl" else ("-wal", ".db"):
            for number in range(1, 40 if full_size else 4):
                path = tmp_path / f"{calls}{suffix}{number}.db"
                run = disk.run(kind, path, calls, suffix, number, forever=forever)
                await agrees(kind, path, run)
                seen |= {word for word in ("ack", "unknown", "error") if run.ids(word)}
                if not run.failed:
                    break
    assert seen == {"ack", "unknown", "error"}, seen


async def test_a_jsonl_file_is_written_anew_before_the_next_answer_after_a_failed_sync(
    disk: FailingDisk, tmp_path: Path
) -> None:
    run = disk.run("jsonl", tmp_path / "x.db", "s", "*", 2)
    failed = run.lines.index(["s", "x.db", "failed"])
    answer = next(at for at, line in enumerate(run.lines) if at > failed and line[0] == "ack")
    between = run.lines[failed:answer]
    assert [line[1] for line in between if line[0] == "error"] == ["k1"]
    assert between.index(["s", "x.db.tmp", "done"]) < between.index(["s", tmp_path.name, "done"])
    await agrees("jsonl", tmp_path / "x.db", run)


async def test_a_jsonl_file_takes_nothing_while_it_cannot_be_made_safe(disk: FailingDisk, tmp_path: Path) -> None:
    run = disk.run("jsonl", tmp_path / "x.db", "s", "*", 2, forever=True)
    assert run.ids("ack") == {"first", "k0"}
    await agrees("jsonl", tmp_path / "x.db", run)


@pytest.mark.parametrize("kind", ON_SQLITE)
async def test_a_commit_whose_fsync_failed_is_unknown_and_the_log_is_cut_before_the_next_answer(
    disk: FailingDisk, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "x.db"
    run = disk.run(kind, path, "st", "*", 6)
    unknown = next(at for at, line in enumerate(run.lines) if line[0] == "unknown")
    after = run.lines[unknown:]
    answer = next(at for at, line in enumerate(after) if line[0] == "ack")
    before = [line for line in after[:answer] if line[0] in "st"]
    assert ["s", "x.db", "done"] in before
    assert ["t", "x.db-wal", "done"] in before
    assert before.index(["s", "x.db", "done"]) < before.index(["t", "x.db-wal", "done"])
    await agrees(kind, path, run)


@pytest.mark.parametrize("kind", ON_SQLITE)
async def test_nothing_is_acknowledged_while_the_file_cannot_be_made_safe(
    disk: FailingDisk, tmp_path: Path, kind: str
) -> None:
    """The log can be synced again, as it seems; the file cannot."""
    path = tmp_path / "x.db"
    run = disk.run(kind, path, "s", "*", 2, forever=True)
    assert not {id for id in run.ids("ack") if not id.startswith(("first", "second", "k0"))}
    assert run.ids("unknown")
    await agrees(kind, path, run)
