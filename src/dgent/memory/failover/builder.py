"""The stores of a chain, made as the settings say; none of them is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dgent.delivery import roomy
from dgent.error_messages import called
from dgent.exceptions import BackendUnavailable, InvalidInput, UnknownBackend
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.memory.jsonl.backend import JSONLBackend
from dgent.memory.sql.backend import SqlBackend
from dgent.memory.sql.sqlite_backend import SQLiteBackend
from dgent.sql import open_database
from dgent.validation import check_kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgent.limits import Limits
    from dgent.memory.change import OnChange
    from dgent.settings import Settings
    from dgent.sql import Database
    from dgent.store import Backend

NAMES: Final = ("postgres", "sqlite", "jsonl", "memory")


class Policy(NamedTuple):
    """What a router does when its first store is out of reach, and how long a verb waits.

    Attributes:
        order: the chain of the settings, by names; empty where the router has another.
        strict: the first must answer at the start.
        spill: writes are kept when it goes away in mid-run.
        patience: the longest wait for a delivery, in seconds.
        limits: what one call may cost.
    """

    order: Sequence[str]
    strict: bool
    spill: bool
    patience: float
    limits: Limits


class ChainBuilder:
    """Makes the backends that the settings name; none is opened. The first may hold the open database.

    `on_change` is told what is committed through the first.
    """

    def __init__(self, settings: Settings, database: Database | None, on_change: OnChange | None) -> None:
        self._settings, self._database, self._on_change = settings, database, on_change
        url = settings.database_url
        self._postgres = url if url is not None and url.get_backend_name() == "postgresql" else None

    def chain(self, given: Sequence[Backend] | None, forced: str | None) -> Sequence[Backend]:
        """Return the chain: the backends that are given, else those of the settings; of either only the forced one.

        Raises:
            UnknownBackend: there is none of that name.
            BackendUnavailable: it is not configured.
            InvalidInput: what is given is no list, or one of them is no backend.
        """
        if given is None:
            return self.build(self._settings.chain if forced is None else (forced,))
        _check_backends(given)
        return given if given and forced is None else only(forced, given)

    def build(self, names: Sequence[str]) -> list[Backend]:
        """Return the backends of a chain, without the PostgreSQL that nobody has configured."""
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise UnknownBackend(f"no backend is called {unknown[0]!r}: use {', '.join(NAMES)}")
        wanted = [name for name in names if name != "postgres" or self._postgres is not None]
        if not wanted:
            raise BackendUnavailable("PostgreSQL is not configured: set KGENTS_DATABASE_URL to its URL")
        return [self._make(name, first=name == wanted[0]) for name in wanted]

    def _make(self, name: str, *, first: bool) -> Backend:
        settings = self._settings
        rest: dict[str, Any] = {"limits": settings.limits if first else roomy(settings.limits)}
        if first and self._on_change is not None:
            rest["on_change"] = self._on_change
        if name == "memory":
            return MemoryBackend(settings.namespace, **rest)
        if name == "jsonl":
            return JSONLBackend(settings.jsonl_path, settings.namespace, **rest)
        if self._database is not None and (name == "postgres") == (self._postgres is not None):
            return _over(self._database, name, settings.namespace, rest)
        if name == "postgres":
            from dgent.memory.sql.postgres_backend import PostgresBackend  # noqa: PLC0415  # only the driver that is used

            return PostgresBackend(settings.url, settings.namespace, settings=settings, **rest)
        if self._postgres is None:
            return _over(open_database(settings), name, settings.namespace, rest)
        return SQLiteBackend(settings.sqlite_path, settings.namespace, settings=settings, **rest)


def _over(database: Database, name: str, namespace: str, rest: dict[str, Any]) -> Backend:
    backend = SqlBackend(database, namespace, **rest)
    backend.name, backend.priority = name, 10 if name == "postgres" else 50
    return backend


_NEEDED: Final = ("capabilities", "name", "within", "apply", "close")
"""What tells a backend: `isinstance` takes none that only passes calls on, from Python 3.12 on."""


def _check_backends(backends: Sequence[Backend]) -> None:
    check_kind(backends, list | tuple, "pass a list of backends, such as [SQLiteBackend(path), MemoryBackend()]")
    for backend in backends:
        if isinstance(backend, type) or not all(hasattr(backend, name) for name in _NEEDED):
            raise InvalidInput(f"{called(backend)} is no backend: pass one such as SQLiteBackend(path)")


def only(name: str | None, backends: Sequence[Backend]) -> Sequence[Backend]:
    """Return the one backend of that name, as a chain.

    Raises:
        UnknownBackend: there is none.
    """
    chosen = [backend for backend in backends if backend.name == name]
    if not chosen:
        known = ", ".join(backend.name for backend in backends) or "at least one backend"
        raise UnknownBackend(f"no backend of the chain is called {name!r}: use {known}")
    return chosen[:1]
