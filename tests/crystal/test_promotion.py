"""From a contract to a model and a revision: what is written is what a person would have written, and true."""

from __future__ import annotations

import ast
import keyword
import string
from dataclasses import field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
import sqlalchemy as sa
import sqlalchemy.orm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel
from sqlalchemy.orm import Session
from tests.crystal.promotion_checkout import (
    DASH,
    HOSTILE,
    INDEXES,
    ON_POSTGRES,
    WIDE,
    Color,
    Inner,
    alembic,
    checkout_in,
    files,
    imported,
    run,
    schemas_of,
    table_of,
)
from tests.migrations.inspection import look, schema

import models.base
from dgent import migrations
from dgent.bridge import TableAdapter
from dgent.bridge.column_codec import unwrapped
from dgent.crystal import Ref, Schema
from dgent.crystal.promotion import promote, ruff_format
from dgent.crystal.promotion.model_source import model_source
from dgent.crystal.promotion.models_init import with_module
from dgent.crystal.promotion.plan import plan
from dgent.crystal.promotion.revision_source import revision_source
from dgent.crystal.default_schemas import WitnessMark, WitnessTrust
from dgent.datum import Datum
from dgent.exceptions import InvalidInput, InvalidRow, InvalidSchema, MigrationError, ReadOnly
from dgent.models import Base, CrystalMixin, ExactDecimal
from dgent.settings import Settings
from dgent.sql import open_database

MARK = WitnessMark.schema


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return checkout_in(tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    return f"sqlite:///{sqlite_path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


def texts_of(declared: Schema[Any], table: str, *indexes: str) -> tuple[str, str]:
    """Return the model and the revision as they are before ruff formats them."""
    planned = plan(declared, table, indexes)
    return model_source(planned), revision_source(planned, "005", "004")


def contract(**annotations: Any) -> Schema[Any]:
    return Schema("test.made", 1, make_dataclass("Made", annotations.items(), frozen=True))


MODEL = '''"""Crystals of witness.mark, version 3, as rows."""

from __future__ import annotations

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, CrystalMixin, JSONList, length


class WitnessMark(CrystalMixin, Base):
    """One thing that was done, why, by whom, and by which principles."""

    __tablename__ = "witness_marks"
    __table_args__ = (Index(None, "created_at", "id"),)

    action: Mapped[str]
    reasoning: Mapped[str]
    author: Mapped[str] = mapped_column(length("author", least=0), index=True)
    principles: Mapped[list[str]] = mapped_column(JSONList, default=list)
'''


def test_a_promoted_mark_reads_as_a_person_would_have_written_it(checkout: Path) -> None:
    before = files(checkout)
    promoted = promote(MARK, "witness_marks", indexes=["author"], into=checkout)
    assert promoted.model_source == MODEL
    assert (promoted.class_name, promoted.table, promoted.revision) == ("WitnessMark", "witness_marks", "005")
    assert promoted.model_path == checkout / "models" / "witness_marks.py"
    assert promoted.revision_path == checkout / "alembic" / "versions" / "005_witness_marks.py"
    assert files(checkout) == before | {
        "models/witness_marks.py": promoted.model_source,
        "alembic/versions/005_witness_marks.py": promoted.revision_source,
        "models/__init__.py": before["models/__init__.py"]
        .replace("self_grow, town", "self_grow, town, witness_marks")
        .replace('"town"', '"town", "witness_marks"'),
    }
    assert not list(checkout.rglob("*.new"))


def test_what_was_promoted_upgrades_checks_and_goes_back(checkout: Path, url: str) -> None:
    before = migrations_of(checkout, url)
    promote(MARK, "witness_marks", indexes=["author"], into=checkout)
    promoted = promote(WIDE, "wide_crystals", indexes=INDEXES, into=checkout)
    assert promoted.revision == "006"
    alembic(checkout, url, "upgrade", "head")
    assert "No new upgrade operations" in alembic(checkout, url, "check")
    made = schema(url)
    alembic(checkout, url, "downgrade", "004")
    assert schema(url) == before
    alembic(checkout, url, "upgrade", "head")
    assert schema(url) == made
    wide = made["wide_crystals"]
    if url.startswith("postgres"):
        assert {name: column[:2] for name, column in wide["columns"].items()} == {
            name: (kind, null) for name, (kind, null) in ON_POSTGRES.items()
        }
    else:
        assert {name: column[1] for name, column in wide["columns"].items()} == {
            name: null for name, (_, null) in ON_POSTGRES.items()
        }
        assert wide["columns"]["exact"][0] == "TEXT"
    expected = [[name] for name in [*INDEXES, "causal_parent"]] + [["created_at", "id"]]
    assert sorted(columns for _, columns, _ in wide["indexes"]) == sorted(expected)
    checked = {name.removeprefix("ck_wide_crystals_") for name, _ in wide["checks"]}
    lengths = {f"{name}_length" for name in ["id", "causal_parent", "user", "mark", "maybe_word"]}
    assert checked == lengths | {"color", "mood", "choice", "maybe_choice", "felt"}


def migrations_of(checkout: Path, url: str) -> dict[str, Any]:
    alembic(checkout, url, "upgrade", "004")
    return schema(url)


def test_what_was_promoted_is_clean_for_ruff_and_mypy(checkout: Path) -> None:
    for tool in ("ruff", "mypy"):
        pytest.importorskip(tool)
    promote(MARK, "witness_marks", into=checkout)
    promote(WIDE, "wide_crystals", indexes=INDEXES, into=checkout)
    promote(hostile(), "hostile", indexes=["date"], into=checkout)
    promote(contract(word=str), "calendar", into=checkout)
    promote(contract(), "empty", into=checkout)
    run(checkout, "ruff", "check", "models", "alembic")
    run(checkout, "ruff", "format", "--check", "models", "alembic")
    run(checkout, "mypy", "models", "--cache-dir", str(checkout / ".mypy_cache"))


def hostile() -> Schema[Any]:
    """A contract of names and texts that mean something elsewhere."""
    fields: list[Any] = [
        ("date", date | None),
        ("later", date),
        ("bytes", int, 7),
        ("raw", bytes, b""),
        ("others", list[str], field(default_factory=list)),
        ("word", str, '"""\\'),
        ("text", str | None, None),
        ("type", int),
        ("choice", Literal[tuple(HOSTILE)], HOSTILE[0]),  # type: ignore[valid-type]
        ("camelCase", bool, False),
        ("größe", float, 0.5),
    ]
    required = [each for each in fields if len(each) == 2]
    made = make_dataclass("Hostile", [*required, *(each for each in fields if len(each) == 3)], frozen=True)
    made.__doc__ = f'Ends with "quotes""" and \\N{{nothing}} ü {DASH} é\\'
    return Schema("test.hostile", 1, made)


def test_hostile_names_and_texts_are_data(checkout: Path) -> None:
    promoted = promote(hostile(), "hostile", indexes=["text", "type", "choice"], into=checkout)
    with imported(promoted.model_source, "hostile") as module:
        of_model, of_revision, differences = schemas_of(module, promoted.revision_source)
        assert (of_model, differences) == (of_revision, [])
        columns = table_of(module).columns
        assert columns["choice"].type.enums == HOSTILE
        assert columns["choice"].default.arg == HOSTILE[0]
        assert columns["word"].default.arg == '"""\\'
        assert module.Hostile.__doc__ == f"Ends with 'quotes''' and \\N{{nothing}} ü {DASH} é\\."


@given(
    doc=st.text() | st.sampled_from(HOSTILE),
    labels=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1),
)
def test_no_text_of_a_contract_becomes_code(doc: str, labels: list[str]) -> None:
    made = make_dataclass("Made", [("choice", Literal[tuple(labels)])], frozen=True)  # type: ignore[valid-type]
    made.__doc__ = doc
    model, revision = texts_of(Schema("test.made", 1, made), "mades")
    (made_class,) = [node for node in ast.parse(model).body if isinstance(node, ast.ClassDef)]
    kinds = [type(node) for node in made_class.body]
    assert kinds == [ast.Expr, ast.Assign, ast.Assign, ast.AnnAssign]
    assert len(ast.parse(revision).body) == 14
    if any(labels):
        constants = [node.value for node in ast.walk(made_class.body[3]) if isinstance(node, ast.Constant)]
        assert constants[: len(dict.fromkeys(labels))] == list(dict.fromkeys(labels))


# Each kind of annotation, and the SQL type that a column of it has in SQLAlchemy.
KINDS: list[tuple[Any, Any]] = [
    (str, sa.Text),
    (Ref[Any], sa.Text),
    (int, sa.BigInteger),
    (bool, sa.Boolean),
    (float, sa.Double),
    (Decimal, sa.Numeric),
    (datetime, sa.DateTime),
    (date, sa.Date),
    (time, sa.Time),
    (timedelta, sa.Interval),
    (UUID, sa.Uuid),
    (bytes, sa.LargeBinary),
    (Color, sa.Enum),
    (Literal["a", "b"], sa.Enum),
    (Literal[1, 2], sa.BigInteger),
    (tuple[str, ...], sa.JSON),
    (list[Color], sa.JSON),
    (dict[str, int], sa.JSON),
    (Inner, sa.JSON),
    (int | str, sa.JSON),
    (RootModel[int], sa.BigInteger),
]
NAMES = [
    "user",
    "order",
    "group",
    "index",
    "key",
    "date",
    "time",
    "bytes",
    "type",
    "text",
]
TAKEN = ["id", "created_at", "causal_parent", "version", "about", "metadata", "registry", "derive", "awaitable_attrs"]
HIDING = ["str", "int", "list", "dict", "datetime", "Any", "mapped_column", "Index", "Mapped", "JSON"]
_IMPORTED = {"dt", "builtins", *dir(models.base), *dir(sa), *dir(sa.orm)}
_REFUSED = {*TAKEN, *HIDING, *dir(CrystalMixin), *dir(Base), *_IMPORTED}
names = st.sampled_from(NAMES) | st.text(string.ascii_letters + "_09äß", min_size=1, max_size=12).filter(
    lambda name: (
        name.isidentifier() and not (name.startswith("_") or keyword.iskeyword(name) or {name, name.lower()} & _REFUSED)
    )
)


@settings(max_examples=100)
@given(data=st.data(), drawn=st.lists(names, max_size=8, unique_by=str.lower))
def test_the_table_of_the_model_is_that_of_the_revision(data: st.DataObject, drawn: list[str]) -> None:
    kinds = {name: data.draw(st.tuples(st.sampled_from(KINDS), st.booleans())) for name in drawn}
    annotations = {name: kind | None if nullable else kind for name, ((kind, _), nullable) in kinds.items()}
    indexable = [name for name, ((_, sql), _) in kinds.items() if sql not in {sa.JSON, sa.LargeBinary}]
    indexes = [name for name in indexable if data.draw(st.booleans())]
    model, revision = texts_of(contract(**annotations), "mades", *indexes)
    with imported(model, "made") as module:
        of_model, of_revision, differences = schemas_of(module, revision)
        assert (of_model, differences) == (of_revision, [])
        table = table_of(module)
        assert [each.name for each in table.columns if each.name in annotations] == drawn
        for name, ((_, sql), nullable) in kinds.items():
            kind = table.columns[name].type
            assert isinstance(kind, sql) or isinstance(unwrapped(kind), sql), name
            assert table.columns[name].nullable is nullable, name
        found = {tuple(each.columns.keys()) for each in table.indexes}
        assert found == {*((name,) for name in indexes), ("causal_parent",), ("created_at", "id")}


def test_plain_defaults_are_kept_and_others_are_not() -> None:
    with imported(texts_of(WIDE, "wides")[0], "wides") as module:
        row = module.WideCrystal(word="x")
        kept = {name: getattr(row, name) for name in ["said", "counted", "on", "rate", "felt", "leveled", "none"]}
        assert kept == {
            "said": "it's \"so\"", "counted": 3, "on": True, "rate": 1.0, "felt": "fine", "leveled": 2, "none": None
        }  # fmt: skip
        assert (row.empty, row.listed, row.keyed, row.tags, row.about) == ([], [], {}, [], {})
        assert table_of(module).columns["full"].default is None
        assert table_of(module).columns["price"].default is None
        assert module.WideCrystal.__doc__ == "Every type that a contract can have."


class Setting(BaseModel, frozen=True):
    """A pydantic model is a contract as well"""

    key: str = Field(alias="the_key")
    value: int | None = None
    words: list[str] = Field(default_factory=list)


def test_a_pydantic_model_is_promoted_like_a_dataclass() -> None:
    model, revision = texts_of(Schema("test.setting", 1, Setting), "settings_kept", "key")
    with imported(model, "settings_kept") as module:
        of_model, of_revision, _ = schemas_of(module, revision)
        assert of_model == of_revision
        assert module.Setting.__doc__ == "A pydantic model is a contract as well."
        assert [each.name for each in table_of(module).columns][1:4] == ["key", "value", "words"]
        assert module.Setting(key="a").words == []


VALUES: dict[str, Any] = {
    "word": "ü", "user": "", "mark": "m", "number": -(2**63), "flag": False, "real": 0.1,
    "exact": Decimal("12345678901234567890123456789012345678901234567890.000000000000000000001"),
    "moment": datetime(2026, 1, 31, 8, 15, 0, 123456, UTC), "day": date(1, 1, 1), "hour": time(23, 59, 59, 999999),
    "span": timedelta(days=-1, microseconds=1), "uid": UUID(int=7), "raw": b"\0\xff", "color": "b", "mood": "bad",
    "choice": "it's 100% :x", "level": 1, "level_of": 2, "mixed": "two", "first": "2026-01-01", "sequence": ["a"],
    "numbers": [1], "letters": ["a"], "frozen": ["2026-01-01"], "pair": [1, "a"], "table": {"a": 1},
    "mapping": {"a": "b"}, "inner": {"x": 1}, "model": {"x": 2}, "either": 7, "full": ["b"],
    "price": Decimal("0E-7"), "about": {"author": "ada"},
}  # fmt: skip


def test_a_row_of_every_type_comes_back_as_it_was(url: str) -> None:
    with imported(texts_of(WIDE, "wides", *INDEXES)[0], "wides") as module:

        def work(connection: sa.Connection) -> dict[str, Any]:
            module.Base.metadata.create_all(connection)
            with Session(connection) as session:
                session.add(module.WideCrystal(id="r", **VALUES))
                session.flush()
                session.expire_all()
                found = session.get(module.WideCrystal, "r")
                return {name: getattr(found, name) for name in VALUES}

        assert look(url, work) == VALUES


async def test_a_value_that_the_contract_does_not_have_is_refused_by_the_database(url: str) -> None:
    with imported(texts_of(WIDE, "wides")[0], "wides") as module:

        def work(connection: sa.Connection) -> None:
            module.Base.metadata.create_all(connection)
            table = table_of(module)
            connection.execute(table.insert().values(id="r", **{**VALUES, "mood": "fine"}))
            connection.execute(sa.text("UPDATE wides SET mood = 'sad'"))

        with pytest.raises(Exception, match="ck_wides_mood"):
            look(url, work)


decimals = st.builds(
    lambda sign, digits, places: Decimal((sign, digits, -places)),
    st.integers(0, 1),
    st.lists(st.integers(0, 9), min_size=1, max_size=70).map(tuple),
    st.integers(-40, 90),
)


class Priced(BaseModel, frozen=True):
    price: Decimal


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prices=st.lists(decimals, max_size=5))
async def test_no_digit_of_a_decimal_is_lost(prices: list[Decimal], exact_table: Any) -> None:
    adapter, model, database = exact_table
    for price in prices:
        datum = await adapter.put(Datum.create(data={"price": str(price), "id": "p"}, id="p"))
        assert Decimal(datum.data["price"]) == price
        assert "E" not in datum.data["price"]
        found = await adapter.get("p")
        assert found == datum

        def work(connection: sa.Connection) -> tuple[Decimal, int]:
            with Session(connection) as session:
                same = session.scalar(sa.select(sa.func.count()).where(model.price == price))  # noqa: B023
                return session.get(model, "p").price, same

        assert await database.read(work) == (price, 1)
        await adapter.purge("p")


@pytest.fixture
async def exact_table(url: str) -> Any:
    with imported(texts_of(Schema("test.priced", 1, Priced), "priced")[0], "priced") as module:
        database = open_database(Settings.load(database_url=url, synchronous="NORMAL"))
        try:
            await database.write(module.Base.metadata.create_all)
            yield TableAdapter(module.Priced, database), module.Priced, database
        finally:
            await database.close()


async def test_what_is_no_exact_number_is_refused(exact_table: Any) -> None:
    adapter, model, database = exact_table
    for wrong in ["NaN", "Infinity", "1e131072", "1e-16384", "x", True]:
        with pytest.raises(InvalidRow):
            await adapter.put(Datum.create(data={"price": wrong}, id="p"))
    for wrong in [0.1, "1", Decimal("NaN"), Decimal("1e131072"), True]:

        def work(connection: sa.Connection) -> None:
            with Session(connection) as session:
                session.add(model(id="p", price=wrong))  # noqa: B023
                session.flush()

        with pytest.raises(InvalidRow, match=r"digits|JSON cannot"):
            await database.write(work)
    largest = await adapter.put(Datum.create(data={"price": "1e131071"}, id="p"))
    assert len(largest.data["price"]) == 131_072
    assert ExactDecimal().process_bind_param(7, None) == Decimal(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "indexes", "reason"),
    [
        ("Marks", [], "small letters"),
        ("mar ks; DROP TABLE", [], "small letters"),
        ("", [], "small letters"),
        ("dgent_marks", [], "a meaning already"),
        ("schema_version", [], "a meaning already"),
        ("sqlite_marks", [], "a meaning already"),
        ("order", [], "a meaning already"),
        ("class", [], "a meaning already"),
        ("citizens", [], "there is a table citizens"),
        ("brain", [], "is there already"),
        ("pk_citizens", [], "two of the name pk_citizens"),
        ("crystal", [], "called crystal as well"),
        ("m" * 40, [], "63 bytes"),
        ("brain_crystals_created_at", [], None),
        ("witness_marks", ["autor"], "did you mean author"),
        ("witness_marks", ["principles"], "cannot be indexed"),
        ("witness_marks", ["tags"], "cannot be indexed"),
        ("m" * 39, ["reasoning"], None),
        ("m" * 39, [], None),
        ("witness_marks", ["created_at", "id", "author", "author"], None),
    ],
)
def test_a_table_or_an_index_that_cannot_be_is_refused(
    checkout: Path, name: str, indexes: list[str], reason: str | None
) -> None:
    before = files(checkout)
    if reason is None:
        assert promote(MARK, name, indexes=indexes, into=checkout, dry_run=True).table == name
    else:
        with pytest.raises(InvalidInput, match=reason):
            promote(MARK, name, indexes=indexes, into=checkout)
    assert files(checkout) == before


def test_a_table_that_a_module_has_already_is_refused_though_nobody_imports_it(checkout: Path) -> None:
    (checkout / "models" / "shop.py").write_text('class Order:\n    __tablename__ = "orders"\n')
    with pytest.raises(InvalidInput, match=r"shop\.py is there already"):
        promote(MARK, "orders", into=checkout)
    promote(MARK, "marks", into=checkout)
    with pytest.raises(InvalidInput, match=r"marks\.py is there already"):
        promote(MARK, "marks", into=checkout)


@pytest.mark.parametrize("name", [*TAKEN, *HIDING, "ID", "About", "_own"])
def test_a_field_that_cannot_be_a_column_is_refused(name: str) -> None:
    with pytest.raises(InvalidSchema, match="with a migration to version 2"):
        texts_of(contract(**{name: int, "other": int | str, "words": list[str]}), "mades")


def test_two_fields_that_sqlite_takes_for_one_are_refused() -> None:
    with pytest.raises(InvalidSchema, match="SQLite takes"):
        texts_of(contract(name=int, Name=int), "mades")


def test_two_checks_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInput, match="two of the name ck_mades_a_length"):
        texts_of(contract(a=str, a_length=Color), "mades", "a")


@pytest.mark.parametrize("kind", [str, list[int], tuple[str, ...] | None, tuple[str, str], Any])
def test_tags_of_another_type_are_refused(kind: Any) -> None:
    with pytest.raises(InvalidSchema, match="tags of a row are texts"):
        texts_of(contract(tags=kind), "mades")
    for fine in [tuple[str, ...], list[str], set[str], frozenset[str]]:
        assert "    tags" not in texts_of(contract(tags=fine), "mades")[0]


def test_a_text_that_no_column_keeps_is_refused() -> None:
    with pytest.raises(InvalidSchema, match="which no column keeps"):
        texts_of(contract(choice=Literal["fine", "a\0"]), "mades")


def test_a_contract_whose_name_is_taken_gets_another() -> None:
    taken = Schema("test.taken", 1, make_dataclass("BrainSetting", [("a", int)], frozen=True))
    assert "class BrainSettingRow(" in texts_of(taken, "settings_kept")[0]
    made = Schema("test.made", 1, make_dataclass("Index", [("a", int)], frozen=True))
    with pytest.raises(InvalidSchema, match="'Index' would hide"):
        texts_of(made, "mades")


def test_nothing_is_written_where_something_fails(checkout: Path) -> None:
    before = files(checkout)
    (checkout / "models" / ".__init__.py.new").mkdir()
    with pytest.raises(ReadOnly, match="nothing was"):
        promote(MARK, "witness_marks", into=checkout)
    assert files(checkout) == before
    (checkout / "models" / ".__init__.py.new").rmdir()
    (checkout / "models" / "__init__.py").write_text("from models import (")
    with pytest.raises(MigrationError, match="mend it first"):
        promote(MARK, "witness_marks", into=checkout)
    assert {*files(checkout)} == {*before}


def test_an_installed_package_shows_the_texts_and_writes_nothing(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = (checkout / "alembic").rename(tmp_path / "_alembic")
    monkeypatch.setattr(migrations, "script_location", lambda: installed)
    with pytest.raises(MigrationError, match="into="):
        promote(MARK, "witness_marks")
    shown = promote(MARK, "witness_marks", dry_run=True)
    assert (shown.model_path, shown.revision) == (Path("models/witness_marks.py"), "005")
    assert "class WitnessMark(CrystalMixin, Base):" in shown.model_source
    with pytest.raises(MigrationError, match="is none"):
        promote(MARK, "witness_marks", into=tmp_path, dry_run=True)


def test_nothing_breaks_where_ruff_is_not_installed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruff_format, "find_spec", lambda _: None)
    promoted = promote(WIDE, "wide_crystals", indexes=INDEXES, into=checkout)
    assert promoted.model_path.read_text("utf-8") == promoted.model_source
    with imported(promoted.model_source, "wide_crystals") as module:
        of_model, of_revision, differences = schemas_of(module, promoted.revision_source)
        assert (of_model, differences) == (of_revision, [])


def test_two_heads_are_refused_and_a_head_without_a_number_is_followed(checkout: Path) -> None:
    versions = checkout / "alembic" / "versions"
    (versions / "abc_own.py").write_text('revision, down_revision = "abc", "004"\n')
    promoted = promote(MARK, "witness_marks", into=checkout)
    assert 'down_revision = "abc"' in promoted.revision_source
    assert promoted.revision not in {"005", "abc"}
    (versions / "abd_own.py").write_text('revision, down_revision = "abd", "004"\n')
    with pytest.raises(MigrationError, match="merge them first"):
        promote(WitnessTrust.schema, "witness_trusts", into=checkout)


def test_the_face_of_a_deployment_keeps_what_it_has() -> None:
    assert with_module("", "a") == "from models import a\n"
    assert with_module('"""Doc."""\nX = 1\n', "a") == '"""Doc."""\nfrom models import a\nX = 1\n'
    assert with_module("from models import (\n    c,\n    b as bee,\n)\n", "a") == "from models import a, b as bee, c\n"
    assert with_module('import x\n__all__ = ["B", "A_B", "z"]\n', "a") == (
        'import x\nfrom models import a\n__all__ = ["A_B", "B", "a", "z"]\n'
    )
    many = ", ".join(f"module_{number}" for number in range(20))
    assert with_module(f"from models import {many}\n", "a").startswith("from models import (\n    a,\n    module_0,\n")
