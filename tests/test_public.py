"""The public face, what an import costs, and the house rules that no linter checks."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dgent

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(dgent.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def within(*folders: str) -> list[Path]:
    return [path for path in MODULES if path.relative_to(PACKAGE).parts[0] not in folders]


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_public_names_are_sorted_and_there() -> None:
    assert list(dgent.__all__) == sorted(set(dgent.__all__))
    assert {"Datum", "DgentRouter", "StorageProvider"} <= set(dgent.__all__)
    assert set(dgent.__all__) <= set(dir(dgent))
    undocumented = [
        each for each in dgent.__all__ if callable(getattr(dgent, each)) and not inspect.getdoc(getattr(dgent, each))
    ]
    assert undocumented == []
    with pytest.raises(AttributeError):
        dgent.NoSuchName  # noqa: B018


def test_an_import_loads_no_driver_no_command_line_and_no_test_tool() -> None:
    script = "import json, sys, dgent; print(json.dumps(sorted({each.partition('.')[0] for each in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"asyncpg", "aiosqlite", "typer", "rich", "click", "numpy", "pytest", "hypothesis", "alembic", "pickle5"}
    assert heavy & set(json.loads(done.stdout)) == set()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_code_from_data(path: Path) -> None:
    banned = {
        "eval",
        "exec",
        "compile",
        "__import__",
        "pickle",
        "marshal",
        "shelve",
        "dill",
        "yaml.load",
        "yaml.unsafe_load",
    }
    banned |= {"pickle.loads", "pickle.load", "marshal.loads", "os.system", "subprocess.run", "subprocess.Popen"}
    excused = {"subprocess.run"} if name(path) == "crystal/promotion/style.py" else set()  # ruff, which has no API
    assert banned & set(calls(path)) == excused


@pytest.mark.parametrize("path", within("settings", "testing", "cli"), ids=name)
def test_only_the_settings_read_the_environment(path: Path) -> None:
    assert re.findall(r"os\.environ|os\.getenv|getenv\(|platformdirs|Path\.home", path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", within("database"), ids=name)
def test_only_the_database_floor_asks_for_the_dialect(path: Path) -> None:
    assert re.findall(r"dialect(?:\.name)?\s*[!=]=", path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree)
    assert len(path.read_text("utf-8").splitlines()) <= 500
