"""Writing a model and a revision into a checkout: both files and the import, or nothing."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic.script import ScriptDirectory
from alembic.util import CommandError, rev_id

from dgent import migrations
from dgent.crystal.promotion.model_source import model_source
from dgent.crystal.promotion.models_init import with_module
from dgent.crystal.promotion.plan import plan
from dgent.crystal.promotion.revision_source import revision_source
from dgent.crystal.promotion.ruff_format import styled
from dgent.exceptions import InvalidInput, MigrationError, ReadOnly

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dgent.crystal.schema import Schema

_FACE: Final = Path("models", "__init__.py")


@dataclass(frozen=True, slots=True)
class PromotionReport:
    """What a promotion wrote, or would write.

    Attributes:
        table: of the model.
        class_name: of the model.
        revision: the id of the revision that makes the table.
        model_path: where `model_source` is written.
        revision_path: where `revision_source` is written.
    """

    table: str
    class_name: str
    revision: str
    model_path: Path
    model_source: str
    revision_path: Path
    revision_source: str


def promote(
    schema: Schema[Any], table: str, *, indexes: Iterable[str] = (), into: Path | None = None, dry_run: bool = False
) -> PromotionReport:
    """Write a model for the crystals of a schema, and the revision that makes its table, into a checkout of D-gent.

    The model is imported in `models/__init__.py`; `alembic upgrade head` makes the table. The texts are what a person
    would write: look at them, change them, commit them. They are formatted where ruff is installed.

    Args:
        schema: whose contract the columns follow.
        table: how the table is called, `witness_marks`.
        indexes: the columns that get an index besides id, cause and time; a text in one has 512 characters at most.
        into: the checkout; the one that this code runs in, unless it is given.
        dry_run: return the texts and write nothing; an installed package can do that as well.

    Raises:
        InvalidInput: the table exists, or cannot be called that, or an index is asked for that there cannot be.
        InvalidSchema: a field of the contract cannot be a column.
        MigrationError: there is no checkout to write into, its revisions have more than one head, or its
            `models/__init__.py` cannot be read.
        ReadOnly: a file cannot be written; none was.
    """
    planned = plan(schema, table, indexes)
    scripts = migrations.script_location() if into is None else into / "alembic"
    checkout = scripts.parent
    written = (checkout / "alembic.ini").is_file() and (checkout / _FACE).is_file() and scripts.is_dir()
    if not written and (into is not None or not dry_run):
        raise MigrationError(
            f"a model is written into a checkout of D-gent, and {checkout} is none: call promote(into=) with its folder"
        )
    revision, previous = _next(scripts)
    names = Path("models", f"{table}.py"), Path("alembic", "versions", f"{revision}_{table}.py")
    model_path, revision_path = (checkout / name if written else name for name in names)
    if written:
        _check_free(checkout, table, revision_path)
    promoted = PromotionReport(
        table,
        planned.name,
        revision,
        model_path,
        styled(model_source(planned), model_path),
        revision_path,
        styled(revision_source(planned, revision, previous), revision_path),
    )
    if not dry_run:
        _write(checkout, promoted)
    return promoted


def _next(scripts: Path) -> tuple[str, str | None]:
    """Return the id of the next revision, and that of the one before."""
    try:
        heads = ScriptDirectory(str(scripts)).get_heads()
    except CommandError as error:
        raise MigrationError(str(error)) from None
    if len(heads) > 1:
        raise MigrationError(f"{scripts} has the heads {', '.join(heads)}: merge them first, `alembic merge heads`")
    if not heads:
        return "001", None
    return f"{int(heads[0]) + 1:03d}" if heads[0].isdecimal() else rev_id(), heads[0]


def _check_free(checkout: Path, table: str, revision_path: Path) -> None:
    """Refuse a table that has a file or a class already, whether the class is imported or not."""
    named = re.compile(rf"""^\s*__tablename__\s*(:[^=]*)?=\s*["']{table}["']""", re.MULTILINE)
    for path in sorted((checkout / "models").glob("*")):
        if path.stem == table or (path.suffix == ".py" and named.search(path.read_text("utf-8", "replace"))):
            raise InvalidInput(f"{path} is there already: choose another name than {table}, or remove it")
    if revision_path.exists():
        raise InvalidInput(f"{revision_path} is there already: remove it")


def _write(checkout: Path, promoted: PromotionReport) -> None:
    face = checkout / _FACE
    new = {promoted.model_path: promoted.model_source, promoted.revision_path: promoted.revision_source}
    try:
        _write_all(new, face, styled(with_module(face.read_text("utf-8"), promoted.table), face))
    except OSError as error:
        raise ReadOnly(f"{error.filename or checkout} cannot be written ({error.strerror}): nothing was") from None


def _write_all(new: Mapping[Path, str], face: Path, text: str) -> None:
    """Write new files, then replace a file, which makes them count; remove them again if one of it fails."""
    beside = face.with_name(f".{face.name}.new")
    with ExitStack() as undo:
        for path, source in {**new, beside: text}.items():
            with path.open("x", encoding="utf-8") as file:
                undo.callback(_remove, path)
                file.write(source)
        beside.chmod(face.stat().st_mode & 0o777)
        beside.replace(face)
        undo.pop_all()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
