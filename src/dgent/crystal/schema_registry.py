"""The schemas that are known, by name and by contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from dgent.crystal.schema import Schema
from dgent.error_messages import nearest
from dgent.exceptions import InvalidSchema, SchemaNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dgent.crystal.schema import Migration

T = TypeVar("T")


class Schemas:
    """A set of schemas, one for each name."""

    def __init__(self, schemas: Iterable[Schema[Any]] = ()) -> None:
        self._by_name: dict[str, Schema[Any]] = {}
        for each in schemas:
            self.register(each)

    def register(self, schema: Schema[Any]) -> None:
        """Make a schema known; a newer version takes the place of an older one.

        Raises:
            InvalidSchema: another contract has the name, at this version or a newer one.
        """
        known = self._by_name.get(schema.name)
        if known is not None and known.version >= schema.version and not _same_place(known, schema):
            raise InvalidSchema(
                f"{schema.name} version {known.version} is registered already, with {known.contract.__name__}: "
                "choose another name, or raise the version"
            )
        self._by_name[schema.name] = schema

    def find(self, name: str) -> Schema[Any] | None:
        """Return the schema of this name, or None."""
        return self._by_name.get(name)

    def named(self, name: str) -> Schema[Any]:
        """Return the schema of this name.

        Raises:
            SchemaNotFound: with the nearest names, and how a schema comes to be known.
        """
        found = self._by_name.get(name)
        if found is None:
            near = nearest(str(name), self._by_name, ": none is registered")
            raise SchemaNotFound(
                f"no schema {name!r:.200} is declared: import the module that declares it (kg: --import MODULE, or "
                f"KGENTS_MODULES){near}"
            )
        return found

    def schema_for(self, contract: type[T]) -> Schema[T]:
        """Return the schema whose contract is this class.

        Raises:
            SchemaNotFound: there is none.
        """
        for schema in self._by_name.values():
            if schema.contract is contract:
                return schema
        shown = getattr(contract, "__name__", repr(contract))
        raise SchemaNotFound(f"no schema is for {shown:.200}: declare one with @schema(name, version=1)")

    def __iter__(self) -> Iterator[Schema[Any]]:
        """Go through the schemas in the order of their names."""
        return iter([self._by_name[name] for name in sorted(self._by_name)])

    def __len__(self) -> int:
        return len(self._by_name)


def _same_place(known: Schema[Any], other: Schema[Any]) -> bool:
    """Tell whether one declaration was run twice, as a notebook does."""
    before, now = known.contract, other.contract
    return (before.__module__, before.__qualname__) == (now.__module__, now.__qualname__)


DECLARED: Final = Schemas()
"""What `@schema` declared; a Universe knows these unless it is given others."""


def schema(
    name: str, *, version: int, migrations: Mapping[int, Migration] | None = None
) -> Callable[[type[T]], type[T]]:
    """Declare a class as the contract of a schema, in `DECLARED`.

    The class gets `schema` and `migration`, so that what leads on from version 1 is written `@Mark.migration(1)`.

    Raises:
        InvalidSchema: as for `Schema` and `Schemas.register`, or the contract has a field of one of these two names.
    """

    def declare(contract: type[T]) -> type[T]:
        declared = Schema(name, version, contract, migrations or {})
        if taken := {"schema", "migration"} & declared.fields.keys():
            raise InvalidSchema(f"{name}: the field {min(taken)!r} hides what @schema adds: use Schema(...) instead")
        DECLARED.register(declared)
        contract.schema = declared  # type: ignore[attr-defined]  # `Contract` tells type checkers
        contract.migration = declared.migration  # type: ignore[attr-defined]
        return contract

    return declare
