"""Write the generated tables of the documentation, the settings and the errors, and the types of the sync faces.

`make docs` writes them; `make check` runs this with --check and fails where a page is stale. The prose around a table
is written by hand: only what stands between its two marks is replaced.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import types
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import sync_faces
from pydantic import BaseModel

from dgent import exceptions, warnings
from dgent.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCS = Path(__file__).resolve().parent
XDG = {
    "data_dir": "`kgents` in XDG's data",
    "config_dir": "`kgents` in XDG's config",
    "cache_dir": "`kgents` in XDG's cache",
}


def settings_table() -> Iterator[str]:
    yield "| setting | variable | values | default | what it is for |"
    yield "|---|---|---|---|---|"
    for name, field in Settings.model_fields.items():
        default = XDG.get(name) or _default(field.get_default(call_default_factory=False))
        yield f"| `{name}` | `KGENTS_{name.upper()}` | {_values(field)} | {default} | {field.description} |"


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, BaseModel):
        value = value.model_dump_json()
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(field: Any) -> str:
    bounds = {
        name: getattr(mark, name) for mark in field.metadata for name in ("ge", "gt", "le") if hasattr(mark, name)
    }
    low = f"from {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}," if "gt" in bounds else ""
    high = f"up to {bounds['le']}" if "le" in bounds else ""
    return " ".join(part for part in (_kind(field.annotation), low, high) if part)


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        fields = (f"`{name}`, which is {_kind(field.annotation)}" for name, field in annotation.model_fields.items())
        return f"a mapping: {'; '.join(fields)}"
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return " or ".join(f"`{choice.value}`" for choice in annotation)
    if origin is tuple:
        return f"a list of {_kind(arguments[0])}"
    if origin in {Union, types.UnionType}:
        return _kind(arguments[0])
    if origin is not None and hasattr(annotation, "__metadata__"):
        return _kind(arguments[0])
    return {"Path": "a path", "URL": "a URL", "str": "text", "bool": "`true` or `false`"}.get(
        annotation.__name__, "a number"
    )


def errors_tree() -> Iterator[str]:
    errors = _drawn(exceptions, "DgentError", "A message says")
    yield from ("```text", *errors, "", *_drawn(warnings, "DgentWarning", "Work goes on"), "```")


def _drawn(module: types.ModuleType, first: str, after: str) -> list[str]:
    text = inspect.getdoc(module) or ""
    return inspect.cleandoc("    " + text[text.index(first) : text.index(after)]).splitlines()


def errors_table() -> Iterator[str]:
    yield "| class | is also | what happened |"
    yield "|---|---|---|"
    lazy = {"WrongLoop": exceptions.WrongLoop}
    for name, kind in ({**vars(exceptions), **lazy, **vars(warnings)}).items():
        if inspect.isclass(kind) and issubclass(kind, Exception):
            bases = [f"`{base.__name__}`" for base in kind.__bases__ if base is not Exception]
            yield f"| `{name}` | {', '.join(bases)} | {(kind.__doc__ or '').strip().splitlines()[0]} |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings_table,
    "errors-tree": errors_tree,
    "errors": errors_table,
}
MARKED = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def refreshed(text: str) -> str:
    """Return a page with every marked part written anew."""
    return MARKED.sub(lambda match: match[1] + "\n".join(TABLES[match["name"]]()) + "\n" + match[3], text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated tables of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is stale")
    check = parser.parse_args().check
    wanted = {page: refreshed(page.read_text("utf-8")) for page in sorted(DOCS.rglob("*.md"))}
    wanted[sync_faces.PATH] = sync_faces.text()
    stale = [page for page, text in wanted.items() if not page.exists() or page.read_text("utf-8") != text]
    for page in stale:
        if not check:
            page.write_text(wanted[page], "utf-8")
        print(f"{'stale' if check else 'written'}: {page.relative_to(DOCS.parent)}")
    if check and stale:
        print("run `make docs`")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
