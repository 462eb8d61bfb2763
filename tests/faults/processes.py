"""Processes for the tests to run side by side and to kill.

`started` forks them from a server that has imported everything, so that one is there in 20 ms; `python` runs a program
as a user would, with an interpreter of its own.
"""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "dgent.memory.sql.sqlite_backend",
        "dgent.memory.jsonl.backend",
        "dgent.storage",
        "dgent.causal",
        "dgent.testing",
        "asyncpg",
    ]
)

_SLOW = re.compile(r"^Executing <.*> took [\d.]+ seconds\n", re.MULTILINE)  # says asyncio of a busy machine

PATIENCE = patience(120.0)
"""Seconds after which a process counts as hung; nothing here is near it."""


class Child:
    """A running process and the pipe on which it answers."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.answers, theirs = _forks.Pipe()
        self.process = _forks.Process(target=target, args=(theirs, *args))
        self.process.start()
        theirs.close()

    def answer(self) -> Any:
        """Return the next thing that it says; EOFError if it ended without a word."""
        assert self.answers.poll(PATIENCE), "the process hangs"
        return self.answers.recv()

    def kill(self) -> list[Any]:
        """Kill it with SIGKILL and return what it had still said."""
        self.process.kill()
        said = []
        try:
            while True:
                said.append(self.answers.recv())
        except (EOFError, ConnectionResetError):
            return said
        finally:
            self.close()

    def close(self) -> None:
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()
        self.answers.close()


@contextmanager
def started(many: int, target: Callable[..., None], *args: Any) -> Iterator[list[Child]]:
    """Start that many processes of `target(pipe, number, *args)`, and see to their end."""
    children = [Child(target, number, *args) for number in range(many)]
    try:
        yield children
    finally:
        for child in children:
            child.close()


def ready(pipe: Connection) -> None:
    """Say so and wait until the others are ready too: called in the process."""
    pipe.send("ready")
    pipe.recv()


def together(children: list[Child]) -> None:
    """Let all go at once that are `ready`."""
    for child in children:
        assert child.answer() == "ready"
    for child in children:
        child.answers.send("go")


def complaints(err: str) -> str:
    """Return what a program wrote to stderr, but for what asyncio says of a busy machine."""
    return _SLOW.sub("", err)


def python(source: str, *args: object) -> subprocess.Popen[str]:
    """Run a program; warnings are errors in it."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(source), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(source: str, *args: object, timeout: float = PATIENCE) -> str:
    """Run a program to its end, which must be a good and silent one, and return what it printed."""
    with python(source, *args) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    err = complaints(err)
    assert (process.returncode, err) == (0, ""), err
    return out.strip()
