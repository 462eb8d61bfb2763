"""The text of `dgent/sync/faces.pyi`: the types of the synchronous faces, from the source of what they stand for.

For each class its own methods, without `async`, with the types of other faces where they are given out, and without
defaults; what its constructor sets to a type that can be read from the text; and imports of all that is named.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dgent.sync import faces

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = Path(str(faces.__file__)).with_suffix(".pyi")
HEAD = '"""The types of the faces, which `make docs` writes from those of the classes that they stand for."""'
FACES: dict[type[Any], str] = {face.kind: name for name, face in vars(faces).items() if name.startswith("Sync")}
OTHERS = {
    "AsyncSession": ("sqlalchemy.orm", "Session"),
    "AbstractAsyncContextManager": ("contextlib", "AbstractContextManager"),
    "AsyncIterator": ("collections.abc", "Iterator"),
}
"""What stands for a type that is asynchronous."""


@cache
def module_of(kind: type[Any]) -> ast.Module:
    return ast.parse(Path(inspect.getfile(kind)).read_text("utf-8"))


@cache
def imported(kind: type[Any]) -> dict[str, str]:
    """Return from which module each name comes that is imported beside a class."""
    nodes = [node for node in ast.walk(module_of(kind)) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in nodes for alias in node.names}


class Types(ast.NodeTransformer):
    """Turns the types of one class into those of its face, and notes what they need."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.imports: set[tuple[str, str]] = set()
        self.variables: set[str] = set()

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        name = ast.unparse(node.value)
        if name == "Joinable":
            return self.visit(node.slice)  # type: ignore[no-any-return]
        if name == "AsyncGenerator":
            self.imports.add(OTHERS["AsyncIterator"])
            yields: Any = node.slice
            return ast.Subscript(ast.Name("Iterator"), self.visit(yields.elts[0]))
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if hasattr(builtins, node.id):
            return node
        module = imported(self.kind).get(node.id, self.kind.__module__)
        value = getattr(sys.modules.get(module), node.id, None)
        if isinstance(value, type) and value in FACES:
            return ast.Name(FACES[value])
        if isinstance(value, TypeVar):
            self.variables.add(node.id)
        elif node.id in OTHERS:
            self.imports.add(OTHERS[node.id])
            return ast.Name(OTHERS[node.id][1])
        else:
            self.imports.add((module, node.id))
        return node

    def face(self) -> ast.ClassDef:
        (node,) = [
            one for one in module_of(self.kind).body if isinstance(one, ast.ClassDef) and one.name == self.kind.__name__
        ]
        body = [*self._fields(node), *self._methods(node)]
        face: Any = getattr(faces, FACES[self.kind])
        bases: list[ast.expr] = [
            ast.Name(name) for base in face.__bases__ for name, one in vars(faces).items() if one is base
        ]
        return ast.ClassDef(FACES[self.kind], bases or [ast.Name("Face")], [], body or [ast.Pass()], [])

    def _methods(self, node: ast.ClassDef) -> Iterator[ast.stmt]:
        found = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        overloaded = {one.name for one in found if "overload" in map(ast.unparse, one.decorator_list)}
        for one in found:
            marks = [mark for mark in map(ast.unparse, one.decorator_list) if mark in {"property", "overload"}]
            is_made_otherwise = one.name in overloaded and "overload" not in marks
            if one.name.startswith("_") or len(marks) < _binds(one) or is_made_otherwise:
                if one.name in {"__iter__", "__enter__", "__exit__"}:
                    yield self._method(one, [])
                continue
            yield self._method(one, marks)
        if any(one.name == "__anext__" for one in found):
            yield from self._iteration(found)

    def _method(self, one: ast.FunctionDef | ast.AsyncFunctionDef, marks: list[str]) -> ast.FunctionDef:
        if "overload" in marks:
            self.imports.add(("typing", "overload"))
        given = one.args
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
            if argument is not None and argument.annotation is not None:
                argument.annotation = self.visit(argument.annotation)
        given.defaults = [ast.Constant(...) for _ in given.defaults]
        given.kw_defaults = [default and ast.Constant(...) for default in given.kw_defaults]
        returns = None if one.returns is None else self.visit(one.returns)
        body: list[ast.stmt] = [ast.Expr(ast.Constant(...))]
        return ast.FunctionDef(one.name, given, body, [ast.Name(mark) for mark in marks], returns)

    def _iteration(self, found: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> Iterator[ast.stmt]:
        (step,) = [one for one in found if one.name == "__anext__"]
        item: Any = self.visit(step.returns) if step.returns is not None else ast.Name("Any")
        self.imports.add(OTHERS["AsyncIterator"])
        step.name, step.returns = "__iter__", ast.Subscript(ast.Name("Iterator"), item)
        yield ast.FunctionDef("__iter__", step.args, [ast.Expr(ast.Constant(...))], [], step.returns)

    def _fields(self, node: ast.ClassDef) -> Iterator[ast.stmt]:
        for one in node.body:
            if isinstance(one, ast.AnnAssign) and not ast.unparse(one.target).startswith("_"):
                yield self._field(ast.unparse(one.target), one.annotation)
        for one in node.body:
            if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                given = {argument.arg: argument.annotation for argument in (*one.args.args, *one.args.kwonlyargs)}
                for name, kind in _set_by(one, given):
                    yield self._field(name, kind)

    def _field(self, name: str, kind: ast.expr) -> ast.AnnAssign:
        return ast.AnnAssign(ast.Name(name), self.visit(kind), None, 1)


def _binds(one: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return 1 for what is called on a class, which no face has."""
    return int(any(ast.unparse(mark) in {"classmethod", "staticmethod"} for mark in one.decorator_list))


def _set_by(init: ast.FunctionDef, given: dict[str, ast.expr | None]) -> Iterator[tuple[str, ast.expr]]:
    """Read what a constructor sets: with a type, from an argument, or to a new object of a class."""
    for node in ast.walk(init):
        if isinstance(node, ast.AnnAssign):
            pairs: list[tuple[ast.expr, ast.expr | None]] = [(node.target, node.annotation)]
        elif isinstance(node, ast.Assign):
            pairs = [
                (target, value)
                for target, value in zip(_parts(node.targets[0]), _parts(node.value), strict=False)
                for value in [_type_of(value, given)]
            ]
        else:
            continue
        for target, kind in pairs:
            if isinstance(target, ast.Attribute) and not target.attr.startswith("_") and kind is not None:
                yield target.attr, kind


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _type_of(value: ast.expr, given: dict[str, ast.expr | None]) -> ast.expr | None:
    if isinstance(value, ast.Name):
        return given.get(value.id)
    made = value.func if isinstance(value, ast.Call) else None
    return made if isinstance(made, ast.Name) and made.id[:1].isupper() else None


def text() -> str:
    """Return what stands in the file."""
    types = [Types(kind) for kind in FACES]
    classes = [one.face() for one in types]
    found = {("dgent.sync.face", "Face"), *(pair for one in types for pair in one.imports)}
    home = {name: module for module, name in sorted(found, key=lambda pair: -len(pair[0]))}  # the shortest
    variables = sorted({name for one in types for name in one.variables})
    lines = [HEAD, *(f"from {module} import {name}" for name, module in home.items())]
    lines += ["from typing import TypeVar"] if variables else []
    lines += [f"{name} = TypeVar({name!r})" for name in variables]
    lines += [ast.unparse(ast.fix_missing_locations(node)) for node in classes]
    return _ruff(_ruff("\n".join(lines), "check", "--fix", "--select", "I"), "format")


def _ruff(source: str, command: str, *options: str) -> str:
    ruff = [sys.executable, "-m", "ruff", command, *options, "--quiet", "--stdin-filename", str(PATH), "-"]
    return subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout  # noqa: S603  # ours
