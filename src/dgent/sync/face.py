"""The synchronous face of an asynchronous object: the same names and arguments, without `await`.

No verb is written here. A face has what the class of its object has, read from that class: so a verb that a store gets
tomorrow is on the face, too. For the types see `faces.pyi`, which is generated.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dgent.agentese.aspects import ASPECTS
from dgent.bridge import TableRegistry, UnitOfWork
from dgent.crystal import Universe
from dgent.exceptions import StoreClosed
from dgent.memory.event_bus import BusSubscription, DataBus
from dgent.sql.sql_store import SqlStore
from dgent.storage import RelationalStore, StorageProvider
from dgent.store import DgentProtocol
from dgent.sync.road import Road, SyncBlock

T = TypeVar("T")

FACED: Final = (
    StorageProvider,
    UnitOfWork,
    DgentProtocol,
    SqlStore,
    RelationalStore,
    Universe,
    TableRegistry,
    DataBus,
    BusSubscription,
)
"""What is given out as a face; everything else, as data and settings, is given out as it is."""

READS: Final = frozenset(name for name, aspect in ASPECTS.items() if aspect.right == "read")
AFTER_THE_END: Final = {"is_available": False}
"""What the verbs that never raise answer once the loop of the store has ended."""


class Face:
    """Stands for an object that lives on an event loop elsewhere.

    Attributes:
        kind: the class of that object, or a base of it.
    """

    kind: type[Any]

    def __init__(self, target: Any, road: Road) -> None:
        self._target, self._road = target, road

    if not TYPE_CHECKING:  # for a checker a face has what is declared

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            return dressed(getattr(self._target, name), self._road)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._target!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Face) and other._target is self._target

    def __hash__(self) -> int:
        return hash(id(self._target))


class _UnitFace(Face):
    @property
    def session(self) -> Any:
        """A `Session` inside of this transaction, for the thread that opened it; its statements run on the loop."""
        road: Any = self._road  # that of its block
        return road.session(self._target.session)


class _Iteration(Iterator[T]):
    """Asks an asynchronous iterator for one after another."""

    def __init__(self, iterator: AsyncIterator[T], road: Road) -> None:
        self._iterator, self._road = iterator, road

    def __next__(self) -> T:
        try:
            return dressed(self._road.call(lambda: anext(self._iterator)), self._road)  # type: ignore[no-any-return]
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """End it, if it is a generator."""
        end = getattr(self._iterator, "aclose", None)
        if end is not None:
            self._road.call(end)


def dressed(value: Any, road: Road) -> Any:
    """Return what a thread gets for a value: its face, if it has one."""
    kind: Any = type(value)
    make = _maker(kind)
    return value if make is None else make(value, road)


def bare(value: Any) -> Any:
    """Return what a face stands for."""
    return value._target if isinstance(value, Face) else value


@cache
def _maker(kind: Any) -> Callable[[Any, Road], Any] | None:
    if is_faced(kind):
        return face_class(kind)
    if issubclass(kind, AbstractAsyncContextManager):
        return lambda manager, road: SyncBlock(road, manager, dressed)
    return _Iteration if issubclass(kind, AsyncIterator) else None


def is_faced(kind: type[Any]) -> bool:
    """Tell whether objects of a class are given out as faces."""
    return any(base in FACED for base in kind.__mro__)


@cache
def face_class(kind: Any) -> type[Face]:
    """Return the class of faces for a class; it inherits from the faces of its bases."""
    bases = tuple(face_class(base) for base in kind.__bases__ if is_faced(base))
    first = _UnitFace if kind is UnitOfWork else Face
    about = {"__doc__": kind.__doc__, "__module__": __name__, "kind": kind}
    return type(f"Sync{kind.__name__.removeprefix('Async')}", bases or (first,), about | _members(kind, first))


def _members(kind: type[Any], first: type[Face]) -> dict[str, Any]:
    """Return what a class defines itself, each as a face has it."""
    found: dict[str, Any] = {}
    for name, value in vars(kind).items():
        if name.startswith("_") or name in vars(first) or isinstance(value, classmethod | staticmethod):
            continue
        if isinstance(value, property):
            found[name] = property(partial(_attribute, name), doc=value.__doc__)
        elif inspect.isfunction(value):
            found[name] = _method(name, value)
    if "__iter__" in vars(kind):
        found["__iter__"] = lambda face: iter([dressed(item, face._road) for item in face._target])
    if "__exit__" in vars(kind):
        found |= {"__enter__": lambda face: face, "__exit__": _method("__exit__", vars(kind)["__exit__"])}
    if "__anext__" in vars(kind):
        found["__iter__"] = lambda face: _Iteration(face._target, face._road)
    return found


def _attribute(name: str, face: Face) -> Any:
    return dressed(getattr(face._target, name), face._road)


def _method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    way = "plain"
    if inspect.iscoroutinefunction(function):
        way = "read" if name in READS else "call"

    @wraps(function)
    def method(face: Face, /, *args: Any, **named: Any) -> Any:
        given = {key: bare(value) for key, value in named.items()} if named else named
        verb = partial(getattr(face._target, name), *map(bare, args), **given)
        try:
            return dressed(getattr(face._road, way)(verb), face._road)
        except StoreClosed:
            if name in AFTER_THE_END:
                return AFTER_THE_END[name]
            raise

    return method
