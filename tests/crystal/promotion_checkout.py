"""Contracts to promote, a checkout to promote them into, and a look at what came of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from alembic.migration import MigrationContext
from alembic.operations import Operations
from pydantic import BaseModel
from sqlalchemy import MetaData, Table, create_engine, event
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import DeclarativeBase
from tests.faults.processes import run_module
from tests.migrations.inspection import _schema

import models.base
from dgent.crystal import Ref, Schema
from dgent.models import Base
from dgent.models.base import _fill_defaults
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DASH = "\N{EN DASH}"  # ruff takes it for a mistake
HOSTILE = [
    'it\'s "quoted"',
    '"""',
    "'''",
    "\\",
    "\\n",
    "a\nb",
    "100% %s %(x)s",
    ":name ::x",
    "{x} ${y}",
    f"ü {DASH} ж 😀",
    " ",
]


class Color(Enum):
    RED = "r"
    BLUE = "b"


class Mood(StrEnum):
    FINE = "fine"
    BAD = "bad"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(Enum):
    ONE = 1
    TWO = "two"


class Day(Enum):
    FIRST = date(2026, 1, 1)


@dataclass(frozen=True)
class Inner:
    x: int


class Model(BaseModel):
    x: int


@dataclass(frozen=True)
class WideCrystal:
    """Every type that a contract can have.

    And more lines of text.
    """

    word: str
    user: str
    mark: Ref[Any]
    number: int
    flag: bool
    real: float
    exact: Decimal
    moment: datetime
    day: date
    hour: time
    span: timedelta
    uid: UUID
    raw: bytes
    color: Color
    mood: Mood
    choice: Literal["x", "y", "it's 100% :x"]
    level: Level
    level_of: Literal[1, 2]
    mixed: Mixed
    first: Day
    sequence: tuple[str, ...]
    numbers: list[int]
    letters: set[str]
    frozen: frozenset[date]
    pair: tuple[int, str]
    table: dict[str, int]
    mapping: Mapping[str, str]
    inner: Inner
    model: Model
    either: int | str
    seen: Annotated[Annotated[int, "deep"] | None, "deeper"]
    maybe_word: str | None
    maybe_exact: Decimal | None
    maybe_choice: Literal["x"] | None
    maybe_list: list[str] | None
    maybe_dict: Inner | None
    anything: Any
    said: str = 'it\'s "so"'
    counted: int = 3
    on: bool = True
    rate: float = 1
    felt: Mood = Mood.FINE
    leveled: Level = Level.HIGH
    none: str | None = None
    empty: tuple[str, ...] = ()
    listed: list[str] = field(default_factory=list)
    keyed: dict[str, str] = field(default_factory=dict)
    full: tuple[str, ...] = ("a",)
    price: Decimal = Decimal("1.5")
    tags: frozenset[str] = frozenset()


WIDE = Schema("test.wide", 2, WideCrystal)
INDEXES = ("user", "mark", "number", "exact", "moment", "color", "maybe_word")

# What PostgreSQL says of each column, and whether it can be null.
ON_POSTGRES = {
    **dict.fromkeys(["id", "word", "user", "mark", "said"], ('TEXT COLLATE "C"', False)),
    **dict.fromkeys(["causal_parent", "maybe_word", "none"], ('TEXT COLLATE "C"', True)),
    **dict.fromkeys(["number", "level", "level_of", "counted", "leveled"], ("BIGINT", False)),
    **dict.fromkeys(["flag", "on"], ("BOOLEAN", False)),
    **dict.fromkeys(["real", "rate"], ("DOUBLE PRECISION", False)),
    **dict.fromkeys(["exact", "price"], ("NUMERIC", False)),
    **dict.fromkeys(["moment", "created_at"], ("TIMESTAMP WITH TIME ZONE", False)),
    **dict.fromkeys(["sequence", "numbers", "letters", "frozen", "pair", "empty", "listed", "full"], ("JSONB", False)),
    **dict.fromkeys(["table", "mapping", "inner", "model", "keyed", "tags", "about"], ("JSONB", False)),
    **dict.fromkeys(["either", "mixed", "first"], ("JSONB", False)),
    **dict.fromkeys(["anything", "maybe_list", "maybe_dict"], ("JSONB", True)),
    "day": ("DATE", False),
    "hour": ("TIME WITHOUT TIME ZONE", False),
    "span": ("INTERVAL", False),
    "uid": ("UUID", False),
    "raw": ("BYTEA", False),
    "color": ("VARCHAR(1)", False),
    "mood": ("VARCHAR(4)", False),
    "felt": ("VARCHAR(4)", False),
    "choice": ("VARCHAR(12)", False),
    "maybe_choice": ("VARCHAR(1)", True),
    "seen": ("BIGINT", True),
    "maybe_exact": ("NUMERIC", True),
    "version": ("INTEGER", False),
}


def checkout_in(folder: Path) -> Path:
    """Copy what a deployment's checkout has."""
    made = folder / "checkout"
    for name in ("alembic", "models"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, made)
    return made


def run(folder: Path, *arguments: str, **environment: str) -> str:
    """Run a module of Python in a checkout and return what it printed; it must succeed."""
    given = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MYPYPATH": str(ROOT / "src"), **environment}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=given, capture_output=True, text=True, timeout=patience(300), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alembic(folder: Path, url: str, *arguments: str) -> str:
    given = {"KGENTS_DATABASE_URL": url, "KGENTS_ENVIRONMENT": "development"}
    code, out, err = run_module(folder, given, "alembic", *arguments)
    assert code == 0, out + err
    return out + err


def files(folder: Path) -> dict[str, str]:
    """Return the text of every source file of a checkout."""
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}


@contextmanager
def imported(source: str, name: str) -> Iterator[ModuleType]:
    """Run the source of a model as a module, over a base that is not that of D-gent's own tables."""

    class Fresh(AsyncAttrs, DeclarativeBase):
        metadata = MetaData(naming_convention=Base.metadata.naming_convention)
        type_annotation_map = Base.type_annotation_map

    event.listen(Fresh, "init", _fill_defaults, propagate=True)
    face, module = ModuleType("promoting_base"), ModuleType(name)
    face.__dict__.update({**vars(models.base), "Base": Fresh})
    sys.modules |= {face.__name__: face, name: module}
    try:
        code = source.replace("from models.base import", f"from {face.__name__} import")
        exec(compile(code, name, "exec"), vars(module))  # noqa: S102  # it is what is tested
        yield module
    finally:
        del sys.modules[face.__name__], sys.modules[name]


def table_of(module: ModuleType) -> Table:
    """Return the one table of a module."""
    (table,) = module.Base.metadata.tables.values()
    return table


def schemas_of(module: ModuleType, revision: str) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Return what SQLite says of the table of a model, of that of its revision, and what Alembic says of the two."""
    from alembic.autogenerate import compare_metadata

    script: dict[str, Any] = {}
    exec(compile(revision, "revision", "exec"), script)  # noqa: S102
    metadata = module.Base.metadata
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        of_model = _schema(connection, None)
        metadata.drop_all(connection)
        options = {"target_metadata": metadata, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        with Operations.context(context):
            script["upgrade"]()
            of_revision = _schema(connection, None)
            differences = list(compare_metadata(context, metadata))
            script["downgrade"]()
        assert _schema(connection, None) == {}
    engine.dispose()
    return of_model, of_revision, differences
