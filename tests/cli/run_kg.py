"""Run `kg` as a person or a script would."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dgent.cli import main

SAMPLE = Path(main.__code__.co_filename).with_name("sample.json")
COMMAND = [sys.executable, "-m", "dgent.cli"]


@dataclass(frozen=True)
class Done:
    """How a run of `kg` ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Runner:
    """Calls `kg` in this process: quick, and its coroutines are seen by the clean room."""

    def __call__(self, *arguments: object, stdin: bytes = b"", code: int | None = 0) -> Done:
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
                main([str(each) for each in arguments])
        out.flush()
        done = Done(int(end.value.code or 0), out.buffer.getvalue(), err.getvalue())
        assert "Traceback" not in done.err or "--traceback" in arguments
        if code is not None:
            assert done.code == code, done
        return done

    def json(self, *arguments: object, stdin: bytes = b"") -> Any:
        return self(*arguments, "--json", stdin=stdin).json


def spawned(*arguments: object, **given: Any) -> subprocess.Popen[bytes]:
    """Start `kg` in a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], env=dict(os.environ), **(pipes | given))
