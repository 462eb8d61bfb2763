"""A real backend behind a switch: what a test turns off does not answer, as a server that is gone."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Self

from dgent.exceptions import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgent.store import Backend


class Switch:
    """`on`: whether the store answers; `calls`: the verbs that were asked; `before`: is called first, and may raise.

    A verb in `held` waits for its event.
    """

    def __init__(self) -> None:
        self.on = True
        self.calls: list[str] = []
        self.before: Callable[[str], None] | None = None
        self.held: dict[str, asyncio.Event] = {}

    def pass_by(self, verb: str) -> None:
        self.calls.append(verb)
        if self.before is not None:
            self.before(verb)
        if not self.on:
            raise BackendUnavailable("the test has switched it off")


class Switchable:
    def __init__(self, inner: Backend, switch: Switch | None = None) -> None:
        self.inner, self.switch = inner, switch or Switch()

    @property
    def __class__(self) -> type[Backend]:  # type: ignore[override]  # what `isinstance` goes by from Python 3.12 on
        return type(self.inner)

    def within(self, namespace: str) -> Self:
        return type(self)(self.inner.within(namespace), self.switch)

    async def is_available(self) -> bool:
        return self.switch.on and await self.inner.is_available()

    async def close(self) -> None:
        await self.inner.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def ask(*args: Any, **named: Any) -> Any:
            self.switch.pass_by(name)
            if name in self.switch.held:
                await self.switch.held[name].wait()
            return await found(*args, **named)

        return ask
