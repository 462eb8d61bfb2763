"""What was acknowledged survives a power loss.

What we write ourselves (JSONL, the manifest) is recorded call by call and replayed into what a disk may hold when the
power goes after any of these calls. For SQLite we rely on its own guarantee, which takes synchronous=FULL on every
connection that commits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from tests.faults.stores import sqlite

from dgent.datum import Datum
from dgent.limits import Limits
from dgent.memory.failover.manifest import KnownStore, Manifest, ManifestFile
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.jsonl.journal import Journal
from dgent.testing import ManualClock

Files = dict[str, bytes]


@dataclass
class Disk:
    """What the files of a folder hold, for the programs (now) and for sure after a power loss (safe)."""

    names: dict[str, int] = field(default_factory=dict)
    safe_names: dict[str, int] = field(default_factory=dict)
    now: dict[int, bytes] = field(default_factory=dict)
    safe: dict[int, bytes] = field(default_factory=dict)

    def images(self) -> dict[str, Files]:
        """Return what may be found: a disk may keep any part of what it was not told to keep."""
        half = {file: self._torn(file) for file in self.now}
        return {
            "nothing that was not synced": self._image(self.safe_names, self.safe),
            "everything": self._image(self.names, self.now),
            "new names, old contents": self._image(self.names, self.safe),
            "old names, new contents": self._image(self.safe_names, self.now),
            "the last write torn": self._image(self.names, half),
            "the last write torn, old names": self._image(self.safe_names, half),
        }

    def _torn(self, file: int) -> bytes:
        now, safe = self.now[file], self.safe.get(file, b"")
        if not now.startswith(safe):
            return now
        return now[: len(safe) + (len(now) - len(safe)) // 2]

    @staticmethod
    def _image(names: dict[str, int], contents: dict[int, bytes]) -> Files:
        return {name: contents.get(file, b"") for name, file in names.items()}


class Recorder:
    """Takes the place of the calls that change files, passes them on, and keeps a disk up to date with them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.disk = folder, Disk()
        self.moments: list[tuple[str, int, dict[str, Files]]] = []
        self.acknowledged = 0
        self._descriptors: dict[int, int | None] = {}
        self._real = {name: getattr(os, name) for name in ("open", "write", "fsync", "rename", "unlink", "ftruncate")}
        for name in self._real:
            patch.setattr(os, name, getattr(self, f"_{name}"))

    def _moment(self, what: str) -> None:
        self.moments.append((what, self.acknowledged, self.disk.images()))

    def _mine(self, path: Any) -> str | None:
        path = Path(os.fspath(path))
        return path.name if path.parent == self.folder and not path.name.endswith(".lock") else None

    def _open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        fd: int = self._real["open"](path, flags, *rest, **named)
        self._descriptors.pop(fd, None)
        if Path(os.fspath(path)) == self.folder:
            self._descriptors[fd] = None
        elif (name := self._mine(path)) is not None:
            file = os.fstat(fd).st_ino
            self._descriptors[fd] = file
            if self.disk.names.get(name) != file:
                self.disk.names[name] = file
                self.disk.now[file] = b""
                self.disk.safe.pop(file, None)
        return fd

    def _write(self, fd: int, data: Any) -> int:
        written: int = self._real["write"](fd, data)
        if (file := self._descriptors.get(fd)) is not None and os.fstat(fd).st_ino == file:
            self.disk.now[file] += bytes(data[:written])
            self._moment("write")
        return written

    def _fsync(self, fd: int) -> None:
        self._real["fsync"](fd)
        if fd not in self._descriptors:
            return
        file = self._descriptors[fd]
        self._moment("before fsync")
        if file is None:
            self.disk.safe_names = dict(self.disk.names)
        else:
            self.disk.safe[file] = self.disk.now[file]
        self._moment("fsync")

    def _rename(self, old: Any, new: Any) -> None:
        self._real["rename"](old, new)
        was, name = self._mine(old), self._mine(new)
        if was is not None and name is not None:
            self.disk.names[name] = self.disk.names.pop(was)
            self._moment("rename")

    def _unlink(self, path: Any, **named: Any) -> None:
        self._real["unlink"](path, **named)
        if (name := self._mine(path)) is not None:
            self.disk.names.pop(name, None)
            self._moment("unlink")

    def _ftruncate(self, fd: int, length: int) -> None:
        self._real["ftruncate"](fd, length)
        if (file := self._descriptors.get(fd)) is not None:
            self.disk.now[file] = self.disk.now[file][:length]
            self._moment("ftruncate")


def replay(recorder: Recorder, folder: Path, look: Callable[[Path], Any], states: list[Any]) -> int:
    """Let `look` read every image, and hold it against what was acknowledged; return how many images there were."""
    count = 0
    for moment, (what, acknowledged, images) in enumerate(recorder.moments):
        for kind, files in images.items():
            image = folder / f"{moment}-{kind.replace(' ', '-')}"
            image.mkdir()
            for name, content in files.items():
                (image / name).write_bytes(content)
                (image / name).chmod(0o600)
            found = look(image)
            assert found in states[acknowledged : acknowledged + 2], (
                f"power lost after call {moment} ({what}), the disk kept {kind}: {acknowledged} steps were acknowledged"
            )
            count += 1
    return count


DEFAULT = Limits()


def versions(folder: Path) -> list[tuple[Any, ...]]:
    """Return every version in a JSONL file, and see that it takes another one."""
    journal = Journal(folder / "memory.jsonl", DEFAULT, ManualClock(), 1.0)
    try:
        with journal.exclusive():
            namespace_states = journal.state.namespace_states.items()
            return sorted((name, *stored) for name, namespace_state in namespace_states for stored in namespace_state)
    finally:
        journal.close()


async def test_a_jsonl_store_survives_a_power_loss_at_every_call(
    tmp_path: Path, full_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants, each red: no fsync in `append`; none of the file, or of the directory, in `write_private`."""
    folder = tmp_path / "live"
    folder.mkdir()
    rounds = 6 if full_size else 2
    with monkeypatch.context() as patch:
        recorder = Recorder(folder, patch)
        store = JSONLBackend(folder / "memory.jsonl", clock=ManualClock())
        states: list[Any] = [[]]
        for n in range(rounds):
            for step in (
                lambda n=n: store.put(Datum(f"a{n}", b"first\n" * 50, 1.0)),
                lambda n=n: store.put_many([Datum(f"b{n}-{i}", os.urandom(40), 2.0, f"a{n}") for i in range(5)]),
                lambda n=n: store.put(Datum(f"a{n}", b"second", 3.0), ttl=1000),
                lambda n=n: store.delete(f"b{n}-0"),
                lambda n=n: store.purge(f"b{n}-1"),
                lambda: store.compact(keep_versions=1),
                lambda n=n: store.within("other").put(Datum(f"a{n}", b"elsewhere", 1.0)),
            ):
                await step()
                recorder.acknowledged += 1
                namespace_states = store._shared.journal.state.namespace_states.items()
                states.append(
                    sorted((name, *stored) for name, namespace_state in namespace_states for stored in namespace_state)
                )
        await store.close()
    assert replay(recorder, tmp_path, versions, states) > 100 * rounds


def test_the_manifest_survives_a_power_loss_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: `write_bytes` on the file itself left it rebuilt, that is empty, 12 times."""
    folder = tmp_path / "live"
    folder.mkdir()
    states = [Manifest()]
    with monkeypatch.context() as patch:
        recorder = Recorder(folder, patch)
        file = ManifestFile(folder / "manifest.json")
        for n in range(4):

            def change(known: Manifest, n: int = n) -> None:
                known.stores[f"sqlite:/x{n}"] = KnownStore(str(n), filled=True)
                known.volatile = not known.volatile

            file.update(change)
            recorder.acknowledged += 1
            states.append(file.read())
    assert not any(state.rebuilt for state in states)
    assert replay(recorder, tmp_path, lambda image: ManifestFile(image / "manifest.json").read(), states) > 50


def level(connection: Connection) -> tuple[int, str]:
    """Return SQLite's level of synchronisation (1 NORMAL, 2 FULL) and the kind of its journal."""
    synchronous = connection.execute(text("PRAGMA synchronous")).scalar()
    return int(synchronous or 0), str(connection.execute(text("PRAGMA journal_mode")).scalar())


@pytest.mark.parametrize(("setting", "expected"), [("FULL", 2), ("NORMAL", 1)])
async def test_every_connection_that_commits_is_as_synchronous_as_the_settings_say(
    sqlite_path: Path, setting: str, expected: int
) -> None:
    """Asked through the connections themselves: SQLite's default for a connection is another one."""
    async with sqlite(sqlite_path, synchronous=setting) as store:
        assert await store.database.write(level) == (expected, "wal")
        assert await store.database.write_each(lambda c, items: [level(c)] * len(items), 1, "key") == (expected, "wal")
        async with store.database.transaction() as tx:
            assert await tx.write(level) == (expected, "wal")
            assert await tx.session.run_sync(lambda session: level(session.connection())) == (expected, "wal")


async def test_the_default_is_full(sqlite_path: Path) -> None:
    async with sqlite(sqlite_path) as store:
        assert await store.database.write(level) == (2, "wal")
