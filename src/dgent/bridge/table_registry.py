"""The typed tables that are registered: by that they can be named, and agents may read them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from dgent.bridge.table_adapter import TableAdapter
from dgent.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dgent.memory.change import OnChange
    from dgent.sql import Database

_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class TableRegistry:
    """Adapters by model. A registered table has three names: `brain_crystals`, `Crystal`, `crystal`.

    Attributes:
        database: where they lie.
    """

    def __init__(self, database: Database, on_change: OnChange | None = None) -> None:
        self.database, self._on_change = database, on_change
        self._by_model: dict[type[Any], TableAdapter] = {}
        self._by_name: dict[str, TableAdapter] = {}

    def adapter(self, model: type[Any]) -> TableAdapter:
        """Return the adapter of a model. It need not be registered: this is for the program, not for agents.

        Raises:
            InvalidInput: it is no mapped class.
        """
        if not isinstance(model, type) or model not in self._by_model:  # what is no class is refused below
            self._by_model[model] = TableAdapter(model, self.database, on_change=self._on_change)
        return self._by_model[model]

    def register(self, model: type[Any], **options: Any) -> TableAdapter:
        """Register a model, with the options of its `TableAdapter`: `hidden=("secret",)`; again, to change them.

        Raises:
            CapabilityMissing: as for `TableAdapter`.
            InvalidRow: as for `TableAdapter`.
            InvalidInput: another registered model has one of its names.
        """
        adapter = TableAdapter(model, self.database, **{"on_change": self._on_change, **options})
        names = names_of(model.__name__, adapter.table)
        for name in names:
            if (taken := self._by_name.get(name)) is not None and taken.model is not model:
                raise InvalidInput(
                    f"the table {adapter.table} cannot be registered: {taken.table} has the name {name!r}"
                )
        self._by_model[model] = adapter
        self._by_name.update(dict.fromkeys(names, adapter))
        return adapter

    def find(self, name: str) -> TableAdapter | None:
        """Return the registered table that has this name."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[TableAdapter]:
        """Go through the registered tables in the order in which they came."""
        return iter(dict.fromkeys(self._by_name.values()))


def names_of(model: str, table: str) -> tuple[str, ...]:
    """Return what a registered table can be called, from the names of its model and of itself."""
    return _WORD.sub("_", model).lower(), model, table
