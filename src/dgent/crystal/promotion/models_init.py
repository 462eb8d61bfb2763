"""The checkout's `models/__init__.py`, where a module of tables is imported so that Alembic sees it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from dgent.crystal.promotion.columns import quoted
from dgent.exceptions import MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterable

_WIDTH: Final = 120


def with_module(source: str, module: str) -> str:
    """Return the source with one more module imported, and named in `__all__` where there is one.

    Raises:
        MigrationError: it is no Python that can be read.
    """
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise MigrationError(f"models/__init__.py cannot be read, at line {error.lineno}: mend it first") from None
    lines = source.splitlines()
    for node in reversed(body):  # from the end, so that the numbers of the lines before stay true
        if _is_all(node):
            names = {*ast.literal_eval(node.value), module}  # type: ignore[attr-defined]
            new = _list("__all__ = [", map(quoted, sorted(names, key=_as_ruff_sorts)), "]")
        elif _is_ours(node):
            aliases = {*(ast.unparse(each) for each in node.names), module}  # type: ignore[attr-defined]
            new = _list("from models import ", sorted(aliases), "")
        else:
            continue
        lines[node.lineno - 1 : node.end_lineno] = new
    if not any(map(_is_ours, body)):
        imports = [node.end_lineno or 0 for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        lines.insert(max(imports, default=_after_docstring(body)), f"from models import {module}")
    return "\n".join(lines) + "\n"


def _is_ours(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "models" and not node.level


def _is_all(node: ast.stmt) -> bool:
    named = isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == ["__all__"]
    return named and isinstance(node.value, ast.List | ast.Tuple)  # type: ignore[attr-defined]


def _after_docstring(body: list[ast.stmt]) -> int:
    return (body[0].end_lineno or 0) if body and isinstance(body[0], ast.Expr) else 0


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def _list(start: str, items: Iterable[str], end: str) -> list[str]:
    """Return a list on one line, or, where that is too long, on a line for each item."""
    listed = list(items)
    line = f"{start}{', '.join(listed)}{end}"
    if len(line) <= _WIDTH:
        return [line]
    return [start if end else f"{start}(", *(f"    {each}," for each in listed), end or ")"]
