"""Processes for the tests to run side by side and to kill.

`started` forks them from a server that has imported everything, so that one is there in 20 ms, and `run_module` runs
`python -m` in such a fork; `python` runs a program as a user would, with an interpreter of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import textwrap
import traceback
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
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
        "dgent.migrations",
        "dgent.services",
    ]
)

_SLOW = re.compile(r"^Executing <.*> took [\d.]+ seconds\n", re.MULTILINE)  # says asyncio of a busy machine

PATIENCE = patience(120.0)
"""Seconds after which a process counts as hung; nothing here is near it."""


def _run(environment: dict[str, str], target: Callable[..., None], *args: Any) -> None:
    """Run it where the test runs: the server was started by another one, in a home that is gone."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["HOME"])
    target(*args)


class Child:
    """A running process and the pipe on which it answers."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.answers, theirs = _forks.Pipe()
        self.process = _forks.Process(target=_run, args=(dict(os.environ), target, theirs, *args))
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


def run_module(folder: Path, environment: dict[str, str], *words: str) -> tuple[int, str, str]:
    """Run `python -m ...` in a folder; return its exit code and what it wrote to stdout and stderr."""
    with TemporaryDirectory() as kept:
        out, err = Path(kept, "out"), Path(kept, "err")
        with started(1, _module, folder, environment, words, out, err) as (child,):
            code = child.answer()
        return code, out.read_text(), err.read_text()


def _module(
    pipe: Connection, _: int, folder: Path, environment: dict[str, str], words: tuple[str, ...], *outputs: Path
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = list(words)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    code = 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    pipe.send(code % 256)


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
