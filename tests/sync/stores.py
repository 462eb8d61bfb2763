"""Stores behind the synchronous face, and behind `anywhere`, as asynchronous ones again: what the contract takes."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from typing import Any, ClassVar

from dgent.exceptions import StoreClosed
from dgent.store import Backend
from dgent.sync.face import Face, face_class
from dgent.sync.loop_thread import LoopThread
from dgent.sync.road import Road


def faced(backend: Any, what: str = "a store") -> Any:
    """Return the face of a store, on a loop of its own."""
    return face_class(type(backend))(backend, Road(LoopThread(what)))


def directly(call: Callable[[], Any]) -> Any:
    """Call where the loop of the test runs, as in a notebook: it stands still meanwhile."""
    return call()


def without_a_loop(call: Callable[[], Any]) -> Any:
    """Call as on a thread that runs no loop; on one of its own each call would take ten times as long."""
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return call()
    finally:
        asyncio._set_running_loop(loop)


def on_a_thread(call: Callable[[], Any]) -> Any:
    """Call on a new thread, and wait for it."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


class Awaited:
    """A synchronous store whose verbs can be awaited, from each of these places in turn."""

    places: ClassVar[tuple[Callable[..., Any], ...]] = (*(directly, without_a_loop) * 20, on_a_thread)

    def __init__(self, face: Face) -> None:
        self.face = face
        self._places = cycle(self.places)

    def __getattr__(self, name: str) -> Any:
        return self._found(name)

    def _found(self, name: str) -> Any:
        found = getattr(self.face, name)
        if not inspect.iscoroutinefunction(inspect.getattr_static(type(self.face._target), name, None)):
            return found

        async def verb(*args: Any, **named: Any) -> Any:
            return next(self._places)(lambda: found(*args, **named))

        return verb

    def within(self, namespace: str) -> Awaited:
        return Awaited(self.face.within(namespace))

    async def close(self) -> None:
        thread = self.face._road.thread

        def close() -> None:
            with thread.closing:
                with suppress(StoreClosed):
                    self.face.close()
                thread.end()

        await asyncio.to_thread(close)


class OnLoops:
    """A store of `anywhere`, whose verbs are awaited on the loop of the test, and now and then on one of their own."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self._places = cycle((directly,) * 20 + (on_a_thread,))

    def __getattr__(self, name: str) -> Any:
        return self._found(name)

    def _found(self, name: str) -> Any:
        found = getattr(self.store, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def verb(*args: Any, **named: Any) -> Any:
            if next(self._places) is directly:
                return await found(*args, **named)
            return on_a_thread(lambda: asyncio.run(found(*args, **named)))

        return verb

    def within(self, namespace: str) -> OnLoops:
        return OnLoops(self.store.within(namespace))


def _declare(kind: Any) -> None:
    """Let a class have what a backend has: from 3.12 on `isinstance` with a protocol passes over `__getattr__`."""
    for name in dir(Backend):
        if not name.startswith("_") and name not in vars(kind):
            setattr(kind, name, property(lambda store, name=name: store._found(name)))


_declare(Awaited)
_declare(OnLoops)
