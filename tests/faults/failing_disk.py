"""Programs whose disk fails at a chosen call: fsync, write or ftruncate answer EIO, by a library that is preloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).with_name("failing.c")

CHILD = """
import asyncio, ctypes, os, signal, sys
from tests.faults import failing_writers

shim = ctypes.CDLL(None)

def child(kind, path, log, calls, suffix, number, forever):
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    suffix = suffix.replace("*", "")
    shim.follow(fd)
    say = lambda *words: os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    arm = lambda: shim.fail_at(calls.encode(), suffix.encode(), int(number), int(forever))
    try:
        asyncio.run(failing_writers.WRITERS[kind](path, arm, say))
    finally:
        os.kill(os.getpid(), signal.SIGKILL)

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        child(*line.split())
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


class Run(NamedTuple):
    """What a program said, and the calls that it made, in order: pairs of a word and what it is about.

    Words are `ack`, `unknown`, `error` with the id of a datum, and `s`, `w`, `t` (see failing.c) with a file and
    whether the call failed.
    """

    lines: list[list[str]]

    def ids(self, word: str) -> set[str]:
        return {line[1] for line in self.lines if line[0] == word}

    @property
    def failed(self) -> bool:
        """Whether the call that was to fail came at all."""
        return any(line[-1] == "failed" for line in self.lines)


class FailingDisk:
    """A program that forks one that writes, and dies, for each failure that is asked for."""

    def __init__(self, library: Path) -> None:
        environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(CHILD)]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
        )

    def run(self, kind: str, path: Path, calls: str, suffix: str, number: int, *, forever: bool = False) -> Run:
        """Write to a new store at a path until it is over, killed at the end, with a disk that fails so."""
        log = path.with_name(f"{path.name}.log")
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{kind} {path} {log} {calls} {suffix} {number} {int(forever)}\n")
        assert self._server.stdout.readline() == "ended\n"
        return Run([line.split() for line in log.read_text().splitlines()])

    def close(self) -> None:
        self._server.communicate()


def library(folder: Path) -> Path:
    """Compile it, or skip the test where that cannot be done."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler, with which to make a disk that fails")
    made = folder / "failing.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl"], check=True)
    return made
