"""The typed tables that are registered: by that they can be named, and agents may read them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from dgent.bridge.table_adapter import TableAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dgent.database import Database

_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Tables:
    """Adapters by model. A table has three names: `brain_crystals`, `Crystal`, `crystal`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_model: dict[type[Any], TableAdapter] = {}
        self._by_name: dict[str, TableAdapter] = {}

    def adapter(self, model: type[Any]) -> TableAdapter:
        """Return the adapter of a model, registering it as it is if it was not."""
        found = self._by_model.get(model)
        return self.register(model) if found is None else found

    def register(self, model: type[Any], **options: Any) -> TableAdapter:
        """Register a model, with the options of its `TableAdapter`: `hidden=("secret",)`; again, to change them.

        Raises:
            CapabilityMissing, InvalidRow: as for `TableAdapter`.
        """
        adapter = TableAdapter(model, self._database, **options)
        self._by_model[model] = adapter
        for name in (_snake_case(model.__name__), model.__name__, adapter.table):
            self._by_name[name] = adapter
        return adapter

    def find(self, name: str) -> TableAdapter | None:
        """Return the registered table that has this name."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[TableAdapter]:
        """Go through the registered tables in the order in which they came."""
        return iter(tuple(self._by_model.values()))


def _snake_case(name: str) -> str:
    return _WORD.sub("_", name).lower()
