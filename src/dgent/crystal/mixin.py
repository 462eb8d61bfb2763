"""What an agent inherits to remember: values in, crystals out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from dgent.crystal.universe import Universe, get_universe

if TYPE_CHECKING:
    from dgent.crystal.crystal import Crystal
    from dgent.crystal.universe import CrystalPage
    from dgent.query import Query

T = TypeVar("T")


class DataMixin:
    """Give an agent a memory of typed values. Override `data` to give it a universe of its own."""

    @property
    def data(self) -> Universe:
        """The universe of this process."""
        return get_universe()

    async def remember(self, value: T, **about: Any) -> Crystal[T]:
        """Store a value as a crystal and return it; the agent is its author and its source, unless `about` says else.

        A contract with an `author` of its own keeps that.

        Raises:
            SchemaNotFound: no schema is for its type.
            InvalidCrystal: it does not fit its contract.
        """
        kind = type(self)
        about.setdefault("source", f"{kind.__module__}.{kind.__qualname__}")
        if "author" not in self.data.schema_for(type(value)).fields:
            name = getattr(self, "name", None)
            about.setdefault("author", name if isinstance(name, str) else kind.__name__)
        return await self.data.remember(value, **about)

    async def recall(self, query: Query) -> CrystalPage:
        """Return a page of the crystals that match."""
        return await self.data.query(query)

    async def forget(self, crystal: Crystal[Any] | str) -> bool:
        """Delete a crystal, given by itself or by its id; tell whether it was there. Its history stays."""
        return await self.data.delete(crystal if isinstance(crystal, str) else crystal.id)
