"""The data of an agent: crystals stored, found and read, whatever holds them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, overload

from dgent.crystal.batches import BATCH
from dgent.crystal.crystal import Crystal, names_in
from dgent.crystal.schema import Schema
from dgent.crystal.schema_registry import DECLARED, Schemas
from dgent.crystal.upgrade import UpgradeReport, upgrade
from dgent.error_messages import called
from dgent.exceptions import DgentError, InvalidCrystal, InvalidInput, NoBackendAvailable, NotFound, UpgradeError
from dgent.validation import as_list, check_kind
from dgent.warnings import DegradedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dgent.crystal.crystal import Ref
    from dgent.datum import Datum
    from dgent.operations import TTL
    from dgent.page import Damaged
    from dgent.query import Query
    from dgent.store import Backend

T = TypeVar("T")
Found: TypeAlias = "Crystal[Any] | Datum"
"""A crystal where its schema is known, else the datum as it is."""


class Unreadable(NamedTuple):
    """A datum that names a schema which is known, and is no crystal of it: on the page it is the datum that it is.

    It is as it was written, so nothing is damaged: other data under the same name, or a version that nothing upgrades.
    """

    id: str
    schema: str | None
    reason: str


class CrystalPage(list[Found]):
    """A page of crystals; pass `page.cursor` to the same query for the next one, None means the end.

    Attributes:
        damaged: what would stand on this page, if it were whole: see `Page`.
        unreadable: which of the datums on this page name a schema and do not follow it, and why.
    """

    __slots__ = ("cursor", "damaged", "unreadable")

    def __init__(
        self,
        found: Iterable[Found] = (),
        cursor: str | None = None,
        damaged: tuple[Damaged, ...] = (),
        unreadable: tuple[Unreadable, ...] = (),
    ) -> None:
        super().__init__(found)
        self.cursor, self.damaged, self.unreadable = cursor, damaged, unreadable


class Universe:
    """Crystals over the best of some backends: the first, by `priority`, that answers when it is first needed.

    It stays with that one, because two would be two truths; when it is not the first, a DegradedWarning says so.

    Args:
        backends: stores of datums. schemas: what is known of their data; what `@schema` declared, unless given.
    """

    def __init__(self, *backends: Backend, schemas: Schemas = DECLARED) -> None:
        self.schemas = schemas
        for backend in backends:
            if not hasattr(backend, "priority"):
                raise InvalidInput(
                    f"{called(backend)} is no store: pass storage.memory, or a backend such as SQLiteBackend"
                )
        self._backends = sorted(backends, key=lambda backend: backend.priority)
        self._chosen: Backend | None = None

    async def backend(self) -> Backend:
        """Return the backend that serves.

        Raises:
            NoBackendAvailable: none answers; the message names each one and why.
        """
        if self._chosen is None:
            chosen = await self._choose()
            self._chosen = self._chosen or chosen  # another task may have been first
        return self._chosen

    def register(self, schema: Schema[Any]) -> None:
        """Make a schema known.

        Raises:
            InvalidSchema: another contract has its name, at this version or a newer one.
        """
        self.schemas.register(schema)

    def schema_for(self, contract: type[T]) -> Schema[T]:
        """Return the schema whose contract is this class.

        Raises:
            SchemaNotFound: there is none.
        """
        return self.schemas.schema_for(contract)

    def crystal(self, value: T, **about: Any) -> Crystal[T]:
        """Make a crystal of a value whose type is a known contract; `about` is as for `Crystal.create`.

        Raises:
            SchemaNotFound: no schema is for its type.
            InvalidCrystal: as for `Crystal.create`.
            InvalidDatum: as for `Crystal.create`.
        """
        return Crystal.create(value, self.schema_for(type(value)), **about)

    async def store(self, crystal: Crystal[Any], *, expect: int | None = None, ttl: TTL = None) -> str:
        """Store a crystal and return its id; `expect` and `ttl` are as for `DgentProtocol.put`.

        Raises:
            VersionConflict: as for `DgentProtocol.put`.
            CausalCycle: as for `DgentProtocol.put`.
            StorageError: as for `DgentProtocol.put`.
        """
        return (await (await self.backend()).put(_datum(crystal), expect=expect, ttl=ttl)).id

    async def store_many(self, crystals: Iterable[Crystal[Any]]) -> list[str]:
        """Store many crystals in one transaction, all or none, and return their ids."""
        stored = await (await self.backend()).put_many([_datum(crystal) for crystal in as_list(crystals, "crystals")])
        return [datum.id for datum in stored]

    async def remember(self, value: T, **about: Any) -> Crystal[T]:
        """Make a crystal of a value, store it and return it as it is stored; `about` is as for `Crystal.create`."""
        crystal = self.crystal(value, **about)
        stored = await (await self.backend()).put(crystal.datum)
        return Crystal(crystal.schema, stored, value)

    @overload
    async def get(self, id: Ref[T], *, version: int | None = None) -> Crystal[T] | Datum | None: ...
    @overload
    async def get(self, id: str, *, version: int | None = None) -> Found | None: ...
    async def get(self, id: str, *, version: int | None = None) -> Any:
        """Return a crystal by its id, upgraded if it is older than its schema; a datum where that is not known.

        `version` counts the puts of this id: the live one unless it is given. None where there is none.

        Raises:
            InvalidCrystal: it does not fit the contract of its schema.
            CrystalTooNew: it cannot be upgraded. `memory.get` still gives the datum.
            UpgradeGap: it cannot be upgraded. `memory.get` still gives the datum.
            UpgradeFailed: it cannot be upgraded. `memory.get` still gives the datum.
        """
        datum = await (await self.backend()).get(str(id), version=version)
        try:
            return datum and self._crystallized(datum)
        except (InvalidInput, UpgradeError) as error:
            error.args = (f"{str(id)!r}: {error}",)
            raise

    async def query(self, query: Query) -> CrystalPage:
        """Return a page of what matches, crystallized as by `get`. Conditions are on what is stored.

        What `get` would refuse is on the page as a datum, and `page.unreadable` says why.

        Raises:
            InvalidQuery: as for `DgentProtocol.query`.
        """
        page = await (await self.backend()).query(query)
        found: list[Found] = []
        unreadable: list[Unreadable] = []
        for datum in page:
            try:
                found.append(self._crystallized(datum))
            except (InvalidInput, UpgradeError) as error:
                found.append(datum)
                unreadable.append(Unreadable(datum.id, datum.schema, str(error)))
        return CrystalPage(found, page.cursor, page.damaged, tuple(unreadable))

    async def delete(self, id: str) -> bool:
        """Append a tombstone; tell whether there was something. The history stays."""
        return await (await self.backend()).delete(str(id))

    async def upgrade(
        self,
        schema: Schema[Any] | str,
        *,
        dry_run: bool = False,
        batch: int = BATCH,
        progress: Callable[[int], None] | None = None,
    ) -> UpgradeReport:
        """Rewrite all crystals of older versions as new versions of their ids, and report.

        Every one of them is tried before the first is written. A run that was killed goes on where it ended.

        With `dry_run` it only counts and tries, and the report names what cannot be upgraded. `batch` are written
        together; `progress` is told how many more were tried or written. What expires does so when it would have.

        Raises:
            SchemaNotFound: no schema has that name.
            InvalidCrystal: one cannot be upgraded; nothing was written.
            InvalidDatum: one cannot be upgraded; nothing was written.
            UpgradeError: one cannot be upgraded; nothing was written.
            InvalidQuery: `batch` is no number from 1.
        """
        known = self.schemas.named(schema) if isinstance(schema, str) else schema
        check_kind(known, Schema, "pass a Schema, or the name of one")
        return await upgrade(await self.backend(), known, dry_run=dry_run, batch=batch, progress=progress)

    def _crystallized(self, datum: Datum) -> Found:
        name, version = names_in(datum.metadata_json)
        schema = None if name is None else self.schemas.find(name)
        if schema is None:
            return datum
        if version == schema.version:  # nearly always: from_datum takes twice as long
            return Crystal(schema, datum, schema.decode(datum.content))
        return Crystal.from_datum(datum, schema)

    async def _choose(self) -> Backend:
        refused: list[str] = []
        for backend in self._backends:
            if (reason := await _why_not(backend)) is None:
                if refused:
                    warnings.warn(f"{backend.name} serves: {'; '.join(refused)}", DegradedWarning, stacklevel=4)
                return backend
            refused.append(f"{backend.name}: {reason}")
        tried = "; ".join(refused) or "there is none to choose from"
        raise NoBackendAvailable(f"no backend is available: {tried}")


async def _why_not(backend: Backend) -> str | None:
    """Return why a backend does not serve, or None if it does."""
    if await backend.is_available():
        return None
    try:
        await backend.stats()
    except DgentError as error:
        return str(error)
    return "it does not answer its probe"


def _datum(crystal: Any) -> Datum:
    if not isinstance(crystal, Crystal):
        raise InvalidCrystal(f"{type(crystal).__name__} is no Crystal: make one with universe.crystal(value)")
    return crystal.datum


_universe: Universe | None = None


def set_universe(universe: Universe | None) -> None:
    """Make a universe the one that `get_universe` returns, in the whole process; None for none."""
    global _universe  # noqa: PLW0603  # one for each process is the point
    if universe is not None and not isinstance(universe, Universe):
        raise InvalidInput(f"{type(universe).__name__} is no Universe")
    _universe = universe


def get_universe() -> Universe:
    """Return the universe of this process.

    Raises:
        NotFound: nobody set one.
    """
    if _universe is None:
        raise NotFound("this process has no universe yet: call set_universe(storage.universe) when it starts")
    return _universe
