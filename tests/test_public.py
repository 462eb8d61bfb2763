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
from tests.slow_twins import SLOW_TWINS

import dgent

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(dgent.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ONE_ENTRY = re.compile(r"[\w.]+: (?!.*[.;] (?:[A-Z][a-z]+[A-Z]\w+|Corrupt|Conflict|\w+Error): ).*")
"""A name and what it stands for, without a second exception behind it."""


def docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return ast.get_docstring(node) or ""


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def matches(pattern: str, *excused: str) -> dict[str, list[str]]:
    """Return what matches in which file, outside of the rooms that are excused."""
    files = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] not in excused]
    found = {name(path): re.findall(pattern, path.read_text("utf-8")) for path in files}
    return {file: words for file, words in found.items() if words}


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


def test_the_slow_twins_that_are_left_to_the_long_form_exist() -> None:
    tests = Path(__file__).parent
    found = {str(path.relative_to(tests)): path.read_text("utf-8") for path in tests.rglob("test_*.py")}
    for pattern, reason in SLOW_TWINS.items():
        file = re.compile(pattern.partition("::")[0])
        assert [name for name in found if file.search(name)], pattern
        assert reason, pattern


def test_an_import_loads_no_driver_no_command_line_and_no_test_tool() -> None:
    script = "import json, sys, dgent; print(json.dumps(sorted({each.partition('.')[0] for each in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"asyncpg", "aiosqlite", "typer", "rich", "click", "numpy", "pytest", "hypothesis", "alembic", "pickle5"}
    assert heavy & set(json.loads(done.stdout)) == set()


def test_docstrings_name_one_exception_and_one_field_a_line() -> None:
    wrong = []
    for path in MODULES:
        nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, DOCUMENTED)]
        for section in re.findall(r"(?:Raises|Attributes):\n((?: {4}.*\n?)+)", "\n".join(map(docstring, nodes))):
            entries = re.findall(r"^ {4}(?! ).*(?:\n {5,}.*)*", section, re.MULTILINE)
            wrong += [f"{name(path)}: {entry}" for entry in entries if not ONE_ENTRY.fullmatch(" ".join(entry.split()))]
    assert wrong == []


def test_no_file_is_longer_than_400_lines() -> None:
    assert [name(path) for path in MODULES if path.read_text("utf-8").count("\n") > 400] == []


BANNED = {
    *("eval", "exec", "compile", "__import__", "pickle", "marshal", "shelve", "dill", "yaml.load", "yaml.unsafe_load"),
    *("pickle.loads", "pickle.load", "marshal.loads", "os.system", "subprocess.run", "subprocess.Popen"),
}


def test_no_code_from_data() -> None:
    excused = {"crystal/promotion/ruff_format.py": {"subprocess.run"}}  # ruff, which has no API
    found = {name(path): BANNED & set(calls(path)) for path in MODULES}
    assert {file: banned for file, banned in found.items() if banned} == excused


def test_only_the_settings_read_the_environment() -> None:
    assert matches(r"os\.environ|os\.getenv|getenv\(|platformdirs|Path\.home", "settings", "testing", "cli") == {}


def test_only_the_sql_package_asks_for_the_dialect() -> None:
    assert matches(r"dialect(?:\.name)?\s*[!=]=", "sql") == {}


def test_a_module_says_what_it_is() -> None:
    assert [name(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []
    long = {name(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {file: lines for file, lines in long.items() if lines > 500} == {}
