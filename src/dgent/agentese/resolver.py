"""Follow an agent path to its value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dgent.agentese.aspects import ASPECTS, Aspect, capable
from dgent.agentese.umwelt import EVERY_TABLE, MEMORY, RIGHTS, Umwelt, table_place
from dgent.error_messages import nearest
from dgent.exceptions import InvalidInput, InvalidPath, InvalidQuery, PathNotFound, PermissionDenied, TableNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dgent.bridge import TableRegistry
    from dgent.store import DgentProtocol

MAX_PATH: Final = 1000
_NOTHING: Final = ": nothing is granted there"
_SEGMENT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


class _Place(NamedTuple):
    """A store and where it lies."""

    path: str
    store: DgentProtocol


class Resolver:
    """Resolves `self.data.<verb>` over agent memory and `self.data.table.<table>.<verb>` over the typed tables.

    A table is named by its name in the database or by its model: `brain_crystals`, `Crystal`, `crystal`. A path that
    stops early lists what is there for the one who asks: `self.data`, `self.data.table`, `self.data.table.crystal`.
    """

    def __init__(self, memory: DgentProtocol, tables: TableRegistry) -> None:
        self._memory = _Place(MEMORY, memory)
        self._tables = tables

    async def resolve(self, path: str, umwelt: Umwelt | None = None, /, **arguments: Any) -> Any:
        """Return what the path leads to: the verb's answer, or a list of names.

        Without an `umwelt` it is `Umwelt.reader()`. A datum may be given as its record or as JSON text, a query too.
        What the verb raises comes through.

        Raises:
            InvalidPath: the path cannot be read.
            PathNotFound: it leads nowhere; the message has the nearest names.
            TableNotFound: it names no registered table, also where the umwelt grants it.
            PermissionDenied: the umwelt does not grant it.
            CapabilityMissing: the store cannot do that.
            InvalidQuery: an argument is unknown, missing or wrong.
        """
        asking = self._met(Umwelt.reader() if umwelt is None else umwelt)
        match _segments(path):
            case ["self", "data"]:
                return _listing(path, arguments, [*_affordances(self._memory, asking), "table"])
            case ["self", "data", "table"]:
                return _listing(path, arguments, self._reachable(asking))
            case ["self", "data", "table", table]:
                return _listing(path, arguments, _affordances(self._table(table, asking), asking))
            case ["self", "data", "table", table, aspect]:
                return await _invoke(self._table(table, asking), aspect, asking, arguments)
            case ["self", "data", aspect]:
                return await _invoke(self._memory, aspect, asking, arguments)
        raise PathNotFound(f"no path {_shown(path)}: a path is self.data.<verb> or self.data.table.<table>.<verb>")

    def _met(self, umwelt: Umwelt) -> Umwelt:
        """Return the umwelt with its tables under their names in the database; a grant of no table is an error."""
        if not isinstance(umwelt, Umwelt):
            raise InvalidInput(f"an umwelt is an Umwelt, not {type(umwelt).__name__}: make one with Umwelt.of(...)")

        def place_of(place: str) -> str:
            if place in {MEMORY, EVERY_TABLE}:
                return place
            name = place.removeprefix(table_place(""))
            adapter = self._tables.find(name)
            if adapter is None:
                names = {each for one in self._tables for each in (one.table, one.model.__name__)}
                near = nearest(name, sorted(names))
                raise TableNotFound(f"{umwelt.who!r} is granted the table {_shown(name)}: it is not registered{near}")
            return table_place(adapter.table)

        return umwelt.naming(place_of)

    def _table(self, name: str, umwelt: Umwelt) -> _Place:
        adapter = self._tables.find(name)
        if adapter is None:
            raise TableNotFound(
                f"no table {_shown(name)} is registered{nearest(name, self._reachable(umwelt), _NOTHING)}"
            )
        return _Place(table_place(adapter.table), adapter)

    def _reachable(self, umwelt: Umwelt) -> list[str]:
        """Return the tables where anything at all is granted, sorted."""
        names = sorted(adapter.table for adapter in self._tables)
        return [name for name in names if any(umwelt.allows(table_place(name), right) for right in RIGHTS)]


async def _invoke(place: _Place, name: str, umwelt: Umwelt, arguments: Mapping[str, Any]) -> Any:
    aspect = ASPECTS.get(name)
    if aspect is None:
        raise PathNotFound(f"{place.path} has no {_shown(name)}{nearest(name, _affordances(place, umwelt), _NOTHING)}")
    if not umwelt.allows(place.path, aspect.right):
        raise PermissionDenied(_refusal(place, aspect, umwelt))
    if aspect.capability is not None:
        place.store.capabilities.require(aspect.capability, place.path)
    return await aspect.verb(place.store)(**aspect.read(f"{place.path}.{name}", arguments))


def _affordances(place: _Place, umwelt: Umwelt) -> list[str]:
    """Return the aspects that are granted and that the store can do, in the order of the protocol."""
    return [
        aspect.name
        for aspect in ASPECTS.values()
        if umwelt.allows(place.path, aspect.right) and capable(place.store, aspect)
    ]


def _listing(path: str, arguments: Mapping[str, Any], names: list[str]) -> list[str]:
    if arguments:
        raise InvalidQuery(f"{path} lists what is there and has no argument {min(arguments)!r}")
    return names


def _segments(path: object) -> list[str]:
    if not isinstance(path, str) or len(path) > MAX_PATH:
        raise InvalidPath(f"a path is text of up to {MAX_PATH:,} characters")
    segments = path.split(".")
    for segment in segments:
        if _SEGMENT.fullmatch(segment) is None:
            raise InvalidPath(f"{_shown(path)} is no path at {_shown(segment)}: write names joined by single dots")
    return segments


def _refusal(place: _Place, aspect: Aspect, umwelt: Umwelt) -> str:
    table = place.path.removeprefix(table_place(""))
    grant = f'memory="{aspect.right}"' if place.path == MEMORY else f'{aspect.right}=["{table}"]'
    return f"{umwelt.who!r} may not {aspect.name} at {place.path}: grant it with Umwelt.of({umwelt.who!r}, {grant})"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
