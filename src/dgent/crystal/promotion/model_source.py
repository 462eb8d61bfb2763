"""The text of the model.

What comes from a contract gets into it in two ways only: as a name that was checked to be one, and as the literal that
`repr` makes of a text. The docstring is the exception, and holds no quotes.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

from dgent.crystal.promotion.columns import quoted
from dgent.crystal.promotion.plan import reserved
from dgent.exceptions import InvalidSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dgent.crystal.promotion.columns import Column
    from dgent.crystal.promotion.plan import TablePlan

_HOMES: Final = {
    "builtins": "builtins",
    "datetime as dt": "dt",
    "datetime": "date datetime time timedelta",
    "decimal": "Decimal",
    "typing": "Any",
    "uuid": "UUID",
    "sqlalchemy": "BigInteger Enum Index",
    "sqlalchemy.orm": "Mapped mapped_column",
    "models.base": "JSON Base CrystalMixin ExactDecimal JSONDict JSONList length",
}
"""Where each name that a model can use is imported from, in the order of the imports."""
_QUALIFIED: Final = {"dt": "date time timedelta", "builtins": "bool bytes float"}
"""What a field may be called all the same: then the type is written dt.date, builtins.bytes."""
_WHOLE: Final = ("builtins", "datetime as dt")


def model_source(plan: TablePlan) -> str:
    """Return the module of the model.

    Raises:
        InvalidSchema: the name of a field would hide what the columns after it are made with.
    """
    fields = {each.name for each in plan.columns}
    hidden = set().union(*_names(_class(plan, {}))) & fields
    qualified = {name: f"{home}.{name}" for home, names in _QUALIFIED.items() for name in hidden & set(names.split())}
    body = _class(plan, qualified)
    annotating, running = _names(body)
    if still := (annotating | running) & {*fields, plan.name}:
        raise InvalidSchema(
            f"{plan.schema}: {min(still)!r} would hide what the columns of its model are made with: rename it, "
            f"with a migration to version {plan.version + 1}"
        )
    return f'''"""Crystals of {plan.schema}, version {plan.version}, as rows."""

from __future__ import annotations

{_imports(annotating, running)}


{body}'''


def _class(plan: TablePlan, qualified: Mapping[str, str]) -> str:
    raw = "r" if "\\" in plan.summary else ""
    columns = "".join(f"    {_mapped(each, plan, qualified)}\n" for each in plan.columns)
    return f'''class {plan.name}(CrystalMixin, Base):
    {raw}"""{plan.summary}"""

    __tablename__ = {quoted(plan.table)}
    __table_args__ = (Index(None, "created_at", "id"),)
''' + (f"\n{columns}" if columns else "")


def _mapped(column: Column, plan: TablePlan, qualified: Mapping[str, str]) -> str:
    kind = column.kind
    is_any = kind.annotation == "Any"
    arguments = [_type(column)] if kind.model else []
    if column in plan.bounded:
        arguments.append(_length(column))
    if is_any and column.nullable:
        arguments.append("nullable=True")
    if column.default:
        arguments.append(f"default={column.default}")
    if column.name in plan.indexes:
        arguments.append("index=True")
    annotation = f"{kind.annotation} | None" if column.nullable and not is_any else kind.annotation
    made = f" = mapped_column({', '.join(arguments)})" if arguments else ""
    return f"{column.name}: Mapped[{_qualify(annotation, qualified)}]{made}"


def _type(column: Column) -> str:
    if not column.kind.labels:
        return column.kind.model
    labels = ", ".join(map(quoted, column.kind.labels))
    return f"Enum({labels}, native_enum=False, create_constraint=True, name={quoted(column.name)})"


def _length(column: Column) -> str:
    least = [] if column.least else ["least=0"]
    marks = ["quoted=True"] if reserved(column.name) else []
    return f"length({', '.join([quoted(column.name), *least, *marks])})"


def _qualify(source: str, qualified: Mapping[str, str]) -> str:
    return re.sub(r"\w+", lambda found: qualified.get(found[0], found[0]), source)


def _names(source: str) -> tuple[set[str], set[str]]:
    """Return the names that the annotations of a module use, and those that the rest of it does."""
    tree = ast.parse(source)
    annotations = {id(node.annotation) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}
    found: tuple[set[str], set[str]] = set(), set()

    def visit(node: ast.AST, running: bool) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[running].add(node.id)
        for child in ast.iter_child_nodes(node):
            visit(child, running and id(child) not in annotations)

    visit(tree, True)
    return found


def _imports(annotating: set[str], running: set[str]) -> str:
    groups: dict[str, list[str]] = {"standard": [], "sqlalchemy": [], "models": []}
    used = annotating | running
    for home, names in _HOMES.items():
        found = [name for name in names.split() if name in used]
        if found:
            line = f"import {home}" if home in _WHOLE else f"from {home} import {', '.join(found)}"
            if home != "typing" and not running.intersection(found):
                rule = "TC002" if home.startswith("sqlalchemy") else "TC003"
                line += f"  # noqa: {rule}  # SQLAlchemy reads the annotations at run time"
            groups.get(home.partition(".")[0], groups["standard"]).append(line)
    return "\n\n".join("\n".join(lines) for lines in groups.values() if lines)
