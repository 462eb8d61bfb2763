"""Source text as ruff formats it, where ruff is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_NAMES: Final = ("N", "A0", "E501", "E741", "PLC24", "RUF001", "RUF002")
"""What ruff may say of names and texts that are those of the contract."""
_LONGEST: Final = 60.0  # seconds


def styled(source: str, path: Path) -> str:
    """Return source as ruff writes it for this path; as it is where there is no ruff, or it fails."""
    if find_spec("ruff") is None or not path.parent.is_dir():
        return source
    source = _ruff("check", "--fix-only", "--quiet", source=source, path=path) or source
    source = _ruff("format", "--quiet", source=source, path=path) or source
    return _excused(source, path)


def _excused(source: str, path: Path) -> str:
    """Return source in which each line says what ruff may leave alone: it says nothing of code that we wrote."""
    report = _ruff("check", "--output-format", "json", source=source, path=path)
    codes: dict[int, set[str]] = {}
    for found in json.loads(report or "[]"):
        if str(found["code"]).startswith(_NAMES):
            codes.setdefault(found["noqa_row"] - 1, set()).add(found["code"])
    lines = source.splitlines()
    for row, found in codes.items():
        lines[row] += f"  # noqa: {', '.join(sorted(found))}  # as the contract has it"
    return "\n".join(lines) + "\n"


def _ruff(*arguments: str, source: str, path: Path) -> str:
    # -P: no file of the folder that somebody works in stands in for a module of Python's.
    command = [sys.executable, "-P", "-m", "ruff", *arguments, "--stdin-filename", str(path), "-"]
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter, and a path, as arguments of no shell
            command, input=source, capture_output=True, text=True, timeout=_LONGEST, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
