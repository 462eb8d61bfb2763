"""One part of one datum, or of one row, as a value to read and write beside others who write the rest of it."""

from __future__ import annotations

import json
import re
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

from dgent.compare_and_swap import compare_and_swap
from dgent.exceptions import DatumNotFound, InvalidFocus, VersionConflict
from dgent.jsonvalue import canonical_json, comparable
from dgent.optics.factories import path
from dgent.optics.optic import Lens, Optic, Prism
from dgent.store import Partial
from dgent.validation import check_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dgent.datum import Datum
    from dgent.operations import TTL
    from dgent.store import StateBackend

_LONG: Final = re.compile(rb"\d{19}")


class LensAgent:
    """An optic over the JSON content of one datum or row of a store.

    A write is a compare-and-swap that is tried again when somebody else was first, so writers of different foci both
    survive, and so do two of the same. A datum keeps its time, its cause and its metadata, and still expires when it
    would have. Of a typed row only the columns that change are written. Writing what is there writes nothing.

    Args:
        store: a `DgentProtocol`: agent memory, or a typed table.
        id: the datum, or the row. It need not be there yet, but the methods raise DatumNotFound as long as it is not.
        focus: a path, such as "user.address[0].city", or any optic of JSON values.

    Raises:
        InvalidFocus: the focus is neither a path nor an optic.
    """

    def __init__(self, store: StateBackend, id: str, focus: Optic[Any, Any] | str) -> None:
        check_id(id)
        if not isinstance(focus, Optic | str):
            raise InvalidFocus(f"{type(focus).__name__} is no focus: pass a path or an optic")
        self.store = store
        self.id = id
        self.focus = path(focus) if isinstance(focus, str) else focus

    async def get(self) -> Any:
        """Return the focus: of a prism it or MISSING, of a traversal the list of all.

        Raises:
            DatumNotFound: there is no such datum.
            FocusNotFound: its content has no such part.
            InvalidFocus: its content has no such part.
        """
        return self._seen(self._live(await self.store.get(self.id)).data)

    async def set(self, value: Any) -> None:
        """Write a JSON value into the focus, or into each.

        Raises:
            DatumNotFound: there is no such datum.
            FocusNotFound: its content has no such part.
            InvalidFocus: its content has no such part.
            InvalidDatum: the value is not JSON.
            InvalidRow: the column does not take it.
            StateConflict: others were first each time.
        """

        async def change(content: Any) -> Any:
            return self.focus.set(content, value)

        await self._swap(change)

    async def modify(self, function: Callable[[Any], Any | Awaitable[Any]]) -> Any:
        """Write what a function, async or not, makes of the focus, or of each, and return what `get` gives then.

        After a conflict it runs again on what is there by then: let it do nothing but compute. What it raises leaves
        all as it was. It raises what `set` does.

        Raises:
            InvalidFocus: it is no function.
        """
        if not callable(function):
            raise InvalidFocus(f"{type(function).__name__} is no function of the focus: pass one, or use set")

        async def change(content: Any) -> Any:
            results = [function(focus) for focus in self.focus.get_all(content)]
            return self.focus.set_all(content, [await each if isawaitable(each) else each for each in results])

        return await self._swap(change)

    def __repr__(self) -> str:
        return f"LensAgent({self.id!r}, {self.focus!r})"

    async def _swap(self, change: Callable[[Any], Awaitable[Any]]) -> Any:
        async def step(live: Datum | None) -> tuple[Datum | None, Any]:
            datum = self._live(live)
            before = _canonical(datum)
            content = await change(datum.data)
            after = canonical_json(content, f"the content of {self.id!r}")
            return (None if after == before else datum.replace(content=after.encode())), self._seen(content)

        store = _Row(self.store, self.focus) if isinstance(self.store, Partial) else self.store
        return await compare_and_swap(store, self.id, step)

    def _live(self, datum: Datum | None) -> Datum:
        if datum is None:
            raise DatumNotFound(f"there is no {self.id!r} to look into: put it first")
        return datum

    def _seen(self, content: Any) -> Any:
        if isinstance(self.focus, Lens):
            return self.focus.get(content)
        return self.focus.preview(content) if isinstance(self.focus, Prism) else self.focus.get_all(content)


class _Row:
    """A typed table as `compare_and_swap` sees it: a put writes what changes, if the focus is as it was read."""

    def __init__(self, table: Partial, focus: Optic[Any, Any]) -> None:
        self._table, self._column = table, focus.steps[0].key if focus.steps else None
        self._read: Datum | None = None

    async def get(self, id: str, *, version: int | None = None) -> Datum | None:
        """Return the row, and remember it."""
        self._read = await self._table.get(id)
        return self._read

    async def put(self, datum: Datum, *, expect: int | None = None, ttl: TTL = None) -> Datum:
        """Write the columns that differ from what was read."""
        assert self._read is not None  # noqa: S101  # there is no change of an absent row
        before, after = self._read.data, datum.data
        if not isinstance(after, dict) or before.keys() - after.keys():
            raise InvalidFocus(f"the row {datum.id!r} keeps all of its columns: set one to None instead of removing it")
        changes = {
            name: value
            for name, value in after.items()
            if name not in before or comparable(value) != comparable(before[name])
        }
        column = self._column
        given = {column: before[column]} if isinstance(column, str) and column in before else before
        try:
            return await self._table.update(datum.id, changes, given)
        except VersionConflict as conflict:
            raise VersionConflict(datum.id, self._read.version, conflict.actual) from None


def _canonical(datum: Datum) -> str:
    """Return the content as canonical JSON, or raise InvalidDatum if that would not be the same numbers."""
    text = canonical_json(datum.data, f"the content of {datum.id!r}")
    if _LONG.search(datum.content):  # longer integers than ours, which a decoder makes floats of
        canonical_json(json.loads(datum.content), f"the content of {datum.id!r}")
    return text
