"""A TCP proxy on loopback in front of a server, which can cut connections, fall silent, and cut at a chosen moment."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sqlalchemy.engine import make_url

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter


@dataclass(eq=False)
class _Pair:
    client: StreamWriter
    server: StreamWriter
    cut_at_answer: bool = False

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


@dataclass
class _Trap:
    pattern: bytes
    delivered: bool
    held: bool


class Proxy:
    """Runs on the loop that enters it. `url` leads through it."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trap: _Trap | None = None
        self._silent = self._refusing = False
        self.sprung = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cut every connection."""
        for pair in self._pairs:
            pair.cut()

    def fall_silent(self) -> None:
        """Go on taking connections and bytes, and pass none of them on."""
        self._silent = True

    def refuse(self) -> None:
        """Cut each new connection at once."""
        self._refusing = True

    def recover(self) -> None:
        """Cut what is there, and serve again."""
        self._silent = self._refusing = False
        self.cut()

    def cut_when(self, pattern: bytes, *, delivered: bool, held: bool = False) -> None:
        """Cut a connection, once, when the client sends these bytes.

        Args:
            pattern: What to wait for.
            delivered: Whether the server gets them, and only its answer is lost.
            held: Keep the server's side open, as when the network between is gone.
        """
        self._trap = _Trap(pattern, delivered, held)

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        from_server, to_server = await asyncio.open_connection(self._target.host, self._target.port)
        pair = _Pair(writer, to_server)
        self._pairs.add(pair)
        for pump in (self._pump_requests(pair, reader), self._pump_answers(pair, from_server)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump_requests(self, pair: _Pair, reader: StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                trap = self._trap
                if trap is not None and trap.pattern in data:
                    self._trap = None
                    self.sprung += 1
                    pair.cut_at_answer = True
                    if not trap.delivered:
                        pair.client.transport.abort()
                        if not trap.held:
                            pair.server.transport.abort()
                        return
                if not self._silent:
                    pair.server.write(data)
        if not pair.cut_at_answer:
            pair.cut()

    async def _pump_answers(self, pair: _Pair, reader: StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if pair.cut_at_answer:
                    break
                if not self._silent:
                    pair.client.write(data)
        pair.cut()
