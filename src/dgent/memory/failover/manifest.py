"""What is known of the stores of a chain from one start to the next, in a small JSON file beside the data.

An empty SQLite file is a valid database, so only what is written here tells a replaced or emptied store from a new one.
It is a help and not a need: where it cannot be read or written, a store that lies elsewhere serves all the same.

A store is known by its id, which lies in its own tables, and found by the places where it was met: one store may be met
at several (another role, another name of the host), and one place never holds two.
"""

# read     without the lock: a file is put in place whole, so one sees the old one or the new one
# update   under the lock between processes, after another look: on the caller's thread, most often an event loop's,
#          which it blocks for up to `LOCK_TIMEOUT` while another process has the lock
# admit    reads, asks the store, and updates: only the store is awaited, so a cancel comes before the update or after
#          it

from __future__ import annotations

import warnings
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import inspect

from dgent.exceptions import Corrupt, SchemaTooNew, StorageError
from dgent.runtime.durable_files import os_errors, write_private
from dgent.runtime.file_lock import FileLock
from dgent.runtime.private_files import private_directory
from dgent.sql import database_of
from dgent.store import Prepared
from dgent.warnings import DegradedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection

    from dgent.store import Backend

FORMAT: Final = 2
"""2: a server goes by role, host, port, database and schema, a file by its real path. 1: by the text of URL or path."""
LOCK_TIMEOUT: Final = 30.0


def place_of(backend: Backend) -> str:
    """Return the place of a store: the name of the backend and where it keeps its data.

    Two stores never share it: of a server it has role, host or socket, port, database and schema, of a file its real
    path. It holds no password.
    """
    return f"{backend.name}:{backend.where}"


def old_places_of(backend: Backend) -> list[str]:
    """Return what format 1 called the place, where that is another text: queues may lie under it, or a manifest."""
    database = database_of(backend)
    if database is None or database.where == database.what:
        old = str(getattr(backend, "path", "")) if database is None else database.what
    else:
        url = database.url
        old = url.set(query=dict.fromkeys(url.query, "...")).render_as_string(hide_password=True)
    return [key for key in [f"{backend.name}:{old}"] if key != place_of(backend)]


@dataclass(frozen=True, slots=True)
class KnownStore:
    """What was met at a place: the id of a store, and whether it held anything, datums or tables, at the last look."""

    id: str
    filled: bool


@dataclass
class Manifest:
    """What the file says; places go by `place_of`.

    Attributes:
        first: the place of the store that came first in the chain.
        stores: what was met at each place of a durable store.
        spills: stores in which writes for another one may wait, by pairs of (where they wait, whom they are for).
        volatile: memory served at the last start, so that what was written then is gone.
        rebuilt: the file was damaged, and what it said is not known.
    """

    first: str = ""
    stores: dict[str, KnownStore] = field(default_factory=dict)
    spills: list[tuple[str, str]] = field(default_factory=list)
    volatile: bool = False
    rebuilt: bool = False

    def check(self, backend: Backend, id: str | None = None) -> None:
        """Raise Corrupt if a store that held something is gone, empty, or, once its id is known, another one.

        Without the id only the file is looked at, and not touched.
        """
        known, path = self._at(backend), Path(backend.where)
        if known is None or not known.filled:
            return
        if id is not None and known.id != id:
            key = place_of(backend)
            raise Corrupt(f"{key} is store {id}, but {known.id} with data was here: {_RESTORE.format(key=key)}")
        if path.is_absolute() and not (path.is_file() and path.stat().st_size):
            raise Corrupt(f"{path} is gone or empty, but it held data: {_RESTORE.format(key=place_of(backend))}")

    def places(self, id: str) -> list[str]:
        """Return where a store was met."""
        return [key for key, known in self.stores.items() if known.id == id]

    def same_as(self, key: str) -> set[str]:
        """Return the places of the store that was met at this one, itself included."""
        known = self.stores.get(key)
        return {key, *(self.places(known.id) if known is not None and known.id else [])}

    def meet(self, key: str, id: str, *, filled: bool) -> None:
        """Note what was met at a place; what one place has shown of a store holds for its others."""
        filled = filled or any(self.stores[place].filled for place in self.places(id) if id)
        self.stores[key] = KnownStore(id, filled)

    def rename(self, backend: Backend, id: str) -> None:
        """Take over what format 1 knew of this store under the text of its URL or path."""
        new = place_of(backend)
        for old in old_places_of(backend):
            if old in self.stores and self.stores[old].id == id:
                self.meet(new, id, filled=self.stores.pop(old).filled)
                self.first = new if self.first == old else self.first

    def targets(self, store: Backend, target: Backend) -> list[str]:
        """Return the names under which writes for a target may wait in a store: its own first, then earlier ones."""
        here = {name for key in (place_of(store), *old_places_of(store)) for name in self.same_as(key)}
        names = [place_of(target), *old_places_of(target), *sorted(self.same_as(place_of(target)) - {place_of(target)})]
        return [name for name in names if self.rebuilt or any((one, name) in self.spills for one in here)]

    def forget(self, key: str) -> None:
        """Let go of a place, and of what waits there or for it."""
        self.stores.pop(key, None)
        self.spills = [pair for pair in self.spills if key not in pair]
        self.first = "" if self.first == key else self.first

    def _at(self, backend: Backend) -> KnownStore | None:
        """Return what was met at the place of a store; format 1 told no sockets apart, so there it proves nothing."""
        old = [key for key in old_places_of(backend) if "host=..." not in key]
        return next((self.stores[key] for key in [place_of(backend), *old] if key in self.stores), None)

    def left_behind(self, first: str, order: Sequence[str]) -> bool:
        """Tell whether a store that is preferred to `first` was first before, holds data, and no longer is."""
        before, now = self.first.partition(":")[0], first.partition(":")[0]
        if before not in order or now not in order or self.first not in self.stores:
            return False
        return self.stores[self.first].filled and order.index(before) < order.index(now)


_RESTORE: Final = "restore it from a backup; to begin anew with what is here, run `kg stores forget '{key}'`"


class ManifestFile:
    """The file of a manifest, private to its owner. Several processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._told = False

    def read(self) -> Manifest:
        """Return what the file says: nothing where there is none or it cannot be read; `rebuilt` where it is damaged.

        Raises:
            SchemaTooNew: a newer version of dgent wrote it.
        """
        try:
            return self._load()
        except OSError as error:
            self._tell(f"{self.path} cannot be read ({error.strerror})")
            return Manifest()

    def _load(self) -> Manifest:
        try:
            return _parsed(self.path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return Manifest()
        except (SchemaTooNew, OSError):
            raise
        except (ValueError, TypeError, KeyError, AttributeError):
            return Manifest(rebuilt=True)

    def update(self, change: Callable[[Manifest], None]) -> None:
        """Change what the file says, in turn with other processes; it is whole at every moment.

        Raises:
            ReadOnly: the file is as it was.
            DiskFull: the file is as it was.
            StorageTimeout: the file is as it was.
            BackendUnavailable: the file is as it was.
        """
        with os_errors(self.path):
            known = self._load()
        before = _dumped(known)
        change(known)
        if _dumped(known) == before and not known.rebuilt:
            return
        private_directory(self.path.parent)
        lock = FileLock(self.path.with_name(f"{self.path.name}.lock"), LOCK_TIMEOUT, sole=True)
        with os_errors(self.path), closing(lock), lock:
            known = self._load()
            change(known)
            if known.rebuilt:
                self.path.rename(self.path.with_name(f"{self.path.name}.damaged"))
            temporary = self.path.with_name(f"{self.path.name}.tmp")
            write_private(temporary, iter([_dumped(known)]), replace=self.path)

    def save(self, change: Callable[[Manifest], None] | None = None, *, volatile: bool | None = None) -> None:
        """Change what is useful to know but not needed; if that fails, say so and go on."""

        def both(known: Manifest) -> None:
            known.volatile = known.volatile if volatile is None else volatile
            if change is not None:
                change(known)

        try:
            self.update(both)
        except StorageError as error:
            self._tell(str(error))

    def _tell(self, reason: str) -> None:
        """Say once that nothing is known or kept of the stores."""
        if not self._told:
            self._told = True
            degraded(f"{self.path} cannot be read or written, so that a replaced store will not be noticed: {reason}")

    async def admit(self, backend: Backend, *, order: Sequence[str] | None = None) -> bool:
        """Ask a store something real, hold it against what is known, and tell whether it holds anything.

        With `order`, the names of the chain, it is noted as the first.

        Raises:
            DgentError: it does not answer, or is another than it was.
        """
        if not backend.capabilities.durable:
            await backend.namespaces(limit=1)
            return True
        known = self.read()
        known.check(backend)
        id = await backend.prepare() if isinstance(backend, Prepared) else ""
        filled = await _is_filled(backend)
        known.check(backend, id)

        def change(known: Manifest) -> None:
            known.rename(backend, id)
            known.meet(place_of(backend), id, filled=filled)
            if order is not None and not known.left_behind(place_of(backend), order):
                known.first = place_of(backend)

        self.save(change)
        return filled

    def fill(self, backend: Backend) -> None:
        """Note that a store holds something now."""

        def change(known: Manifest) -> None:
            found = known.stores.get(place_of(backend))
            if found is not None:
                known.stores[place_of(backend)] = KnownStore(found.id, filled=True)

        self.save(change)

    def add_spill(self, store: str, target: str) -> None:
        """Note that writes for a target may wait in a store.

        Raises:
            StorageError: that could not be noted.
        """
        pair = store, target
        self.update(lambda known: None if pair in known.spills else known.spills.append(pair))

    def drop_spill(self, store: str, target: str) -> None:
        """Note that none wait there."""

        def change(known: Manifest) -> None:
            here = known.same_as(store)
            known.spills = [pair for pair in known.spills if not (pair[0] in here and pair[1] == target)]

        self.save(change)

    def news(self, known: Manifest, chain: Sequence[Backend], order: Sequence[str]) -> Iterator[str]:
        """Tell what a person should hear at the start, before anything is opened."""
        first = place_of(chain[0])
        firsts = {first, *old_places_of(chain[0]), *known.same_as(first)}
        here = {name for one in chain for key in (place_of(one), *old_places_of(one)) for name in known.same_as(key)}
        if known.rebuilt:
            yield f"{self.path} was damaged and is rebuilt: what it knew of the stores is lost"
        if known.volatile:
            yield "memory served the last time: what was written then, and did not reach a store, is gone"
        if known.left_behind(first, order):
            yield (
                f"{known.first} was the first choice and holds data that is out of reach now: set it up again, or, to "
                f"leave it for good, run `kg stores forget '{known.first}'`"
            )
        for store, target in known.spills:
            if target not in firsts or store not in here:
                yield (
                    f"writes for {target} wait in {store}: they are delivered when a router has both in its chain; to "
                    f"let go of them, run `kg stores forget --force '{store if target in firsts else target}'`"
                )


async def _is_filled(backend: Backend) -> bool:
    """Tell whether a store holds datums, or its database the tables of somebody else: typed rows lie there."""
    if await backend.namespaces(limit=1):
        return True
    database = database_of(backend)
    return database is not None and await database.read(_has_other_tables)


def _has_other_tables(connection: Connection) -> bool:
    return any(not name.startswith("dgent_") for name in inspect(connection).get_table_names())


def degraded(message: str) -> None:
    """Warn that not everything is as it was meant."""
    warnings.warn(message, DegradedWarning, stacklevel=3)


def _dumped(manifest: Manifest) -> bytes:
    values = {name: value for name, value in asdict(manifest).items() if name != "rebuilt"}
    return orjson.dumps({"format": FORMAT, **values}, option=orjson.OPT_INDENT_2)


def _parsed(text: bytes) -> Manifest:
    record: dict[str, Any] = orjson.loads(text)
    if record["format"] > FORMAT:
        raise SchemaTooNew(f"the manifest has format {record['format']}, this dgent knows {FORMAT}: upgrade dgent")
    stores = {_text(key): KnownStore(_text(one["id"]), one["filled"] is True) for key, one in record["stores"].items()}
    spills = [(_text(here), _text(target)) for here, target in record["spills"]]
    return Manifest(_text(record["first"]), stores, spills, record["volatile"] is True)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value
