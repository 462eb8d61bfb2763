"""`kg crystal`: what it shows, rewrites and copies, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from dgent.crystal.default_schemas import BrainSettingCrystal, WitnessMark

if TYPE_CHECKING:
    from tests.cli.run_kg import Runner

MODULE = """
from dataclasses import dataclass
from dgent import schema
from dgent.crystal import Contract

@schema("shop.order", version=2)
@dataclass(frozen=True)
class Order(Contract):
    what: str
    many: int = 1

@Order.migration(1)
def counted(data):
    return {"what": data["what"], "many": 10 // data.get("divisor", 1)}
"""


@pytest.fixture
def ready(kg: Runner) -> Runner:
    """Return a `kg` whose tables are there."""
    kg("db", "upgrade")
    return kg


def put(kg: Runner, id: str, data: dict[str, Any], schema: str, version: int = 1, **more: Any) -> None:
    metadata = {"schema": schema, "schema_version": version, **more}
    kg("memory", "put", "-", orjson.dumps(metadata).decode(), "--id", id, stdin=orjson.dumps(data))


def mark(kg: Runner, id: str, action: str = "looked", **more: Any) -> None:
    put(kg, id, {"action": action, "reasoning": "because", "author": "Ada"}, "witness.mark", author="Ada", **more)


def test_schemas_are_listed_with_what_they_can_read(kg: Runner) -> None:
    listed = {each["name"]: each for each in kg.json("crystal", "schemas")}
    assert listed["witness.mark"]["version"] == 3
    assert listed["witness.mark"]["fields"] == list(WitnessMark.schema.fields)
    assert listed["witness.mark"]["gaps"] == []
    told = kg("crystal", "schemas").text
    assert "1 to 3" in told
    assert "trail.step" in told


def test_a_crystal_is_shown_as_its_schema_has_it_now(ready: Runner) -> None:
    mark(ready, "m1")
    found = ready.json("crystal", "show", "m1")
    assert found["value"] == {"action": "looked", "reasoning": "because", "author": "Ada", "tags": [], "principles": []}
    assert (found["schema_version"], found["crystallized_from"], found["metadata"]["schema_version"]) == (3, "m1", 1)
    assert '"principles": []' in ready("crystal", "show", "m1").text
    put(ready, "other", {"x": 1}, "un.known")
    assert ready.json("crystal", "show", "other")["text"] == '{"x":1}'
    assert "un.known is not known here" in ready("crystal", "show", "other").text
    assert "no live crystal 'nothing'" in ready("crystal", "show", "nothing", code=3).err


def test_crystals_are_found_and_paged(ready: Runner) -> None:
    for number in range(5):
        mark(ready, f"m{number}", f"act {number}")
    put(ready, "k", {"key": "k", "value": 7}, "brain.setting")
    first = ready.json("crystal", "query", "witness.mark", "--limit", 3, "--author", "Ada")
    assert [each["value"]["action"] for each in first["crystals"]] == ["act 4", "act 3", "act 2"]
    rest = ready.json("crystal", "query", "witness.mark", "--limit", 3, "--author", "Ada", "--cursor", first["cursor"])
    assert [each["id"] for each in rest["crystals"]] == ["m1", "m0"]
    assert [each["id"] for each in ready.json("crystal", "query", "--where", "value=7")["crystals"]] == ["k"]
    told = ready("crystal", "query").text
    assert "witness.mark 3" in told
    assert "act 2" in told


def test_an_upgrade_is_tried_and_then_done(ready: Runner) -> None:
    mark(ready, "m1")
    assert (
        "1 of version 1; 1 would be upgraded to version 3"
        in ready("crystal", "upgrade", "witness.mark", "--dry-run").text
    )
    assert ready.json("memory", "get", "m1")["version"] == 1
    assert ready.json("crystal", "upgrade", "witness.mark")["upgraded"] == 1
    assert ready.json("memory", "get", "m1")["version"] == 2
    assert ready.json("crystal", "upgrade", "witness.mark")["upgraded"] == 0
    assert "did you mean witness.mark" in ready("crystal", "upgrade", "witnes.mark", code=3).err


def test_the_schemas_of_an_application_come_with_its_module(
    ready: Runner, clean_room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("shop_of_the_cli_test.py").write_text(MODULE)
    put(ready, "good", {"what": "tea"}, "shop.order")
    put(ready, "bad", {"what": "tea", "divisor": 0}, "shop.order")
    assert "no schema 'shop.order'" in ready("crystal", "upgrade", "shop.order", code=3).err
    tried = ready("--import", "shop_of_the_cli_test", "crystal", "upgrade", "shop.order", "--dry-run", code=1)
    assert "bad: shop.order: the migration from version 1 raised ZeroDivisionError" in tried.text
    monkeypatch.setenv("KGENTS_MODULES", "shop_of_the_cli_test")
    failed = ready("crystal", "upgrade", "shop.order", code=1)
    assert "'bad'" in failed.err
    assert "nothing was written" in failed.err
    assert ready.json("crystal", "show", "good")["value"] == {"what": "tea", "many": 10}
    assert ready.json("memory", "get", "good")["version"] == 1
    assert "cannot be imported" in ready("--import", "no_such_module_here", "crystal", "schemas", code=1).err


def test_crystals_go_into_their_table_and_come_back(ready: Runner) -> None:
    put(ready, "depth", {"key": "depth", "value": {"most": 3}}, "brain.setting")
    pair = ("brain.setting", "--table", "brain_settings")
    assert "1 would be copied" in ready("crystal", "backfill", *pair, "--dry-run").text
    assert "1 written now, 1 read back and equal" in ready("crystal", "backfill", *pair).text
    row = ready.json("data", "self.data.table.brain_settings.get", "id=depth")
    assert orjson.loads(row["text"])["value"] == {"most": 3}
    changed = {"datum": {"id": "depth", "text": '{"key":"depth","value":{"most":4}}'}}
    ready("data", "self.data.table.brain_settings.put", orjson.dumps(changed).decode(), "--write")
    differs = ready("crystal", "backfill", *pair, code=1)
    assert "say something else and stay as they are: depth" in differs.text
    assert "1 written now, 1 read back and equal" in ready("crystal", "demote", *pair).text
    assert ready.json("crystal", "show", "depth")["value"] == {"key": "depth", "value": {"most": 4}}
    assert (
        "did you mean brain_settings"
        in ready("crystal", "demote", BrainSettingCrystal.schema.name, "--table", "brain_setting", code=3).err
    )


def test_what_is_no_crystal_is_shown_as_a_datum_with_the_reason(ready: Runner) -> None:
    mark(ready, "good")
    ready("memory", "put", "plain text", '{"schema": "witness.mark"}', "--id", "odd")
    told = ready("crystal", "query").text
    assert "looked" in told
    assert "no crystal of witness.mark: odd: " in told
    found = ready.json("crystal", "query")
    assert [each["id"] for each in found["crystals"]] == ["odd", "good"]
    assert [(each["id"], each["schema"]) for each in found["unreadable"]] == [("odd", "witness.mark")]
