"""Law L-A1, and the promise that agents reach only what was granted."""

from __future__ import annotations

import inspect
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgent.agentese import AGENT_TABLES, Grant, Umwelt
from dgent.agentese.aspects import ASPECTS
from dgent.datum import Datum
from dgent.exceptions import (
    CapabilityMissing,
    DgentError,
    InvalidInput,
    InvalidPath,
    InvalidQuery,
    PathNotFound,
    PermissionDenied,
    TableNotFound,
)
from dgent.models import Crystal, GrowthProposal
from dgent.operations import Purge, Put
from dgent.store import DgentProtocol

if TYPE_CHECKING:
    from tests.agentese.conftest import House

SHARED = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = [model.__tablename__ for model in AGENT_TABLES]
_MODELS = dict.fromkeys(NAMES, ()) | {"brain_crystals": ("crystal", "Crystal"), "citizens": ("citizen", "Citizen")}
PROPER: dict[str, dict[str, Any]] = {
    "put": {"datum": {"id": "new", "text": "{}"}},
    "put_many": {"datums": []},
    "apply": {"operations": []},
    "get": {"id": "c1"},
    "get_many": {"ids": ["c1", "d1"]},
    "touch": {"ids": ["nothing"], "ttl": 60},
    "delete": {"id": "nothing"},
    "delete_many": {"ids": []},
    "exists": {"id": "c1"},
    "count": {},
    "list": {"limit": 5},
    "keys": {"limit": 5, "order": "-id"},
    "segments": {"delimiter": "/", "depth": 1},
    "query": {"query": {"limit": 5}},
    "causal_chain": {"id": "c1"},
    "history": {"id": "d1"},
    "as_of": {"time": 10.0},
    "head": {},
    "seq_at": {"time": 10.0},
    "changes": {"after_seq": 0},
    "purge": {"id": "nothing"},
    "purge_many": {"ids": ["nothing"]},
}
"""Arguments that each verb takes."""

HOSTILE = [
    "brain_crystals; DROP TABLE citizens",
    "brain_crystals'--",
    '"brain_crystals"',
    "sqlite_master",
    "self_grow_proposals",
    "__class__",
    "_memory",
    "brain_crystals.__init__",
    "crystal..get",
    "crystal.get.layout",
    "layout",
    "..",
    "*",
    "",
    " get",
    "ＧＥＴ",  # noqa: RUF001  # a twin of GET
    "get\n",
    "crystal\0",
    "a" * 2000,
]

rights = st.sampled_from([None, "read", "write", "purge"])
umwelts = st.builds(
    lambda memory, read, write, purge: Umwelt.of("a", memory=memory, read=read, write=write, purge=purge),
    rights,
    *(st.sampled_from(["*", (), ["brain_crystals"], [Crystal, "citizens"], ["Citizen", "crystal"]]) for _ in range(3)),
)
words = st.sampled_from([*NAMES, "crystal", "Crystal", "self", "data", "table", *ASPECTS, *HOSTILE]) | st.text(
    max_size=5
)
paths = st.one_of(
    st.text(max_size=30),
    st.lists(words, max_size=6).map(".".join),
    st.lists(words, max_size=3).map(lambda rest: ".".join(["self", "data", *rest])),
)
table_paths = st.lists(words, max_size=3).map(lambda rest: ".".join(["self", "data", "table", *rest]))
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
argument_names = st.sampled_from(
    sorted({name for aspect in ASPECTS.values() for name in (*aspect.needed, *aspect.optional)} | {"sql", "__class__"})
)
arguments = st.sampled_from(list(PROPER.values())) | st.dictionaries(argument_names, json, max_size=3)


@given(umwelt=umwelts)
@SHARED
def test_l_a1_what_is_listed_is_what_is_not_refused(house: House, umwelt: Umwelt) -> None:
    for place in ["self.data", *(f"self.data.table.{name}" for name in NAMES)]:
        answers = {name: house.outcome(f"{place}.{name}", umwelt, **PROPER[name]) for name in ASPECTS}
        refused = {n for n, answer in answers.items() if isinstance(answer, PermissionDenied | CapabilityMissing)}
        listed = house.resolve(place, umwelt)
        assert set(listed) - {"table"} == ASPECTS.keys() - refused
        assert (place == "self.data") == ("table" in listed)
    reachable = {name for name in NAMES if house.resolve(f"self.data.table.{name}", umwelt)}
    assert house.resolve("self.data.table", umwelt) == sorted(reachable)


@given(path=paths, umwelt=st.none() | umwelts, given=arguments)
@SHARED
def test_l_a1_resolve_is_total(house: House, path: str, umwelt: Umwelt | None, given: dict[str, Any]) -> None:
    house.outcome(path, umwelt, **given)  # anything but a DgentError fails the test
    assert house.outcome("self.data.table.citizens.count") == 1 or umwelt is not None


@given(path=paths, given=arguments)
@SHARED
def test_l_a1_resolve_is_deterministic(house: House, path: str, given: dict[str, Any]) -> None:
    first, second = house.outcome(path, None, **given), house.outcome(path, None, **given)
    assert type(first) is type(second)
    assert str(first) == str(second)


@given(path=table_paths, umwelt=st.just(Umwelt.owner()) | umwelts, given=arguments)
@SHARED
def test_l_a1_table_paths_never_reach_the_datum_store(
    house: House, path: str, umwelt: Umwelt, given: dict[str, Any]
) -> None:
    house.memory.calls.clear()
    house.outcome(path, umwelt, **given)
    assert house.memory.calls == []


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_refused_at_every_depth(house: House, path: str) -> None:
    for start in ("", "self.", "self.data.", "self.data.table.", "self.data.table.crystal."):
        answer = house.outcome(start + path, Umwelt.owner())
        if (start, path) != ("self.data.table.", "crystal"):
            assert isinstance(answer, InvalidPath | PathNotFound | TableNotFound), (start, path)
    assert house.resolve("self.data.table.citizens.count") == 1
    assert house.memory.calls == []


@pytest.mark.parametrize("path", [None, 5, b"self.data", ["self", "data"], ("self",)])
def test_a_path_is_text(house: House, path: object) -> None:
    assert isinstance(house.outcome(path), InvalidPath)


@given(umwelt=umwelts, right=st.sampled_from(["read", "write", "purge"]))
@SHARED
def test_agents_reach_exactly_what_was_granted(house: House, umwelt: Umwelt, right: str) -> None:
    for name, aspect in product(NAMES, ASPECTS.values()):
        place = f"self.data.table.{name}"
        named = [name, *_MODELS[name], "*"]
        granted = {Grant(f"self.data.table.{each}", aspect.right) for each in named} & umwelt.grants
        refused = isinstance(house.outcome(f"{place}.{aspect.name}", umwelt, **PROPER[aspect.name]), PermissionDenied)
        assert refused == (not granted)


def test_grants_are_plain_data() -> None:
    reader = Umwelt.reader("eve")
    assert reader.grants == {Grant("self.data", "read"), Grant("self.data.table.*", "read")}
    alice = Umwelt.of("alice", memory=None, read=(), write=[Crystal])
    place = "self.data.table.brain_crystals"
    assert alice.grants == {Grant(place, "read"), Grant(place, "write")}
    assert {Umwelt.owner().allows(place, right) for right in ("read", "write", "purge")} == {True}
    assert not Umwelt.of("bob", memory=None, purge="*").allows("self.data", "read")
    for wrong in ({"memory": "all"}, {"read": [5]}, {"write": 7}):
        with pytest.raises(InvalidInput):
            Umwelt.of("eve", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["brain_crystals", "Crystal", "crystal", Crystal])
def test_a_grant_takes_every_name_that_a_path_takes(house: House, name: str | type) -> None:
    writer = Umwelt.of("a", memory=None, read=(), write=[name])
    assert house.resolve("self.data.table", writer) == ["brain_crystals"]
    for called in ("brain_crystals", "Crystal", "crystal"):
        assert house.resolve(f"self.data.table.{called}.exists", writer, id="c1") is True
        assert house.resolve(f"self.data.table.{called}.delete", writer, id="nothing") is False
        assert isinstance(house.outcome(f"self.data.table.{called}.purge", writer, id="c1"), PermissionDenied)
    assert isinstance(house.outcome("self.data.table.citizens.count", writer), PermissionDenied)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("Crytsal", "did you mean Crystal"),
        ("brain_crystal", "did you mean brain_crystals"),
        (GrowthProposal, "citizens"),
        ("", "citizens"),
        ("*.brain_crystals", "brain_crystals"),
    ],
)
@pytest.mark.parametrize("right", ["read", "write", "purge"])
def test_a_grant_of_no_table_is_an_error_at_every_path(house: House, wrong: Any, near: str, right: str) -> None:
    umwelt = Umwelt.of("eve", memory="write", **{right: ["citizens", wrong]})
    paths = {"self.data": {}, "self.data.table": {}, "self.data.list": {}, "self.data.table.citizens.count": {}}
    for path, arguments in {**paths, "self.data.put": {"datum": {"text": "x"}}}.items():
        with pytest.raises(TableNotFound, match=f"'eve' is granted the table .*{near}"):
            house.resolve(path, umwelt, **arguments)
    assert house.run(house.memory.count()) == 1
    with pytest.raises(TableNotFound, match="'nowhere'"):
        house.resolve("self.data", Umwelt("eve", frozenset({Grant("nowhere", "read")})))


def test_no_batch_purges_for_who_may_only_write(house: House) -> None:
    """Mutant: `apply` takes whatever is an operation."""
    writer, anybody = Umwelt.of("a", memory="write"), Umwelt.of("a", memory="purge")
    bad: Any
    for bad in (Purge("d1"), {"purge": "d1"}, '{"purge": "d1"}'):
        for umwelt in (writer, anybody):
            with pytest.raises(InvalidInput):
                house.resolve("self.data.apply", umwelt, operations=[bad])
    with pytest.raises(PermissionDenied, match='memory="purge"'):
        house.resolve("self.data.purge_many", writer, ids=["d1"])
    told = [{"touch": "d1", "ttl": 60, "expect": 1}, {"delete": "d1", "author": "ann", "reason": "why"}]
    outcomes = house.resolve("self.data.apply", writer, operations=told)
    assert [outcome.changed for outcome in outcomes] == [True, True]
    assert house.resolve("self.data.history", id="d1")[-1].author == "ann"
    assert house.resolve("self.data.purge_many", anybody, ids='["d1"]') == 2


def test_a_refusal_says_what_to_grant(house: House) -> None:
    with pytest.raises(PermissionDenied, match=r"write=\[\"brain_crystals\"\]"):
        house.resolve("self.data.table.crystal.delete", id="c1")
    with pytest.raises(PermissionDenied, match='memory="purge"'):
        house.resolve("self.data.purge", Umwelt.of("a", memory="write"), id="d1")
    assert house.resolve("self.data.table.crystal.exists", id="c1")
    with pytest.raises(InvalidInput, match="umwelt"):
        house.resolve("self.data", "root")  # type: ignore[arg-type]


def test_a_path_that_leads_nowhere_names_the_nearest(house: House) -> None:
    nearest = {
        "self.data.table.brain_crystal.list": (TableNotFound, "did you mean brain_crystals"),
        "self.data.table.crystal.gett": (PathNotFound, "did you mean get"),
        "self.data.lst": (PathNotFound, "did you mean list"),
        "other.data": (PathNotFound, "self.data"),
        "self.data.get.d1": (PathNotFound, "self.data"),
    }
    for path, (error, text) in nearest.items():
        with pytest.raises(error, match=text):
            house.resolve(path)
    with pytest.raises(TableNotFound) as caught:  # what is not granted is not even named
        house.resolve("self.data.table.brain_crystal", Umwelt.of("eve", read=["citizens"]))
    assert "brain_crystals" not in str(caught.value)


@pytest.mark.parametrize("name", ["brain_crystals", "Crystal", "crystal"])
def test_a_table_has_three_names(house: House, name: str) -> None:
    datum = house.resolve(f"self.data.table.{name}.get", id="c1")
    assert (datum.id, datum.data["summary"]) == ("c1", "the map")


def test_hidden_columns_stay_hidden(house: House) -> None:
    datum = house.resolve("self.data.table.citizen.get", id="z1")
    assert datum.data["name"] == "Caroline"
    assert b"secret" not in datum.content
    for guess in ("traits.secret", "no_such_column.secret"):
        found = house.outcome("self.data.table.citizen.query", query={"where": {guess: "yes"}})
        assert isinstance(found, InvalidQuery)
        assert str(found).startswith(f"citizens has no column {guess.partition('.')[0]!r}")


def test_conditions_come_as_json(house: House) -> None:
    query = '{"where": {"$or": [{"name": {"$in": ["Caroline"]}}, {"name": {"$gt": "\U0010ffff"}}]}}'
    (found,) = house.resolve("self.data.table.citizen.query", query=query)
    assert found.id == "z1"
    for wrong in ({"name": {"$gt": 1}}, {"name": {"$like": "C%"}}, {"traits.secret": {"$exists": True}}):
        assert isinstance(house.outcome("self.data.table.citizen.query", query={"where": wrong}), InvalidQuery)


def test_every_verb_is_reached_with_its_own_arguments() -> None:
    for aspect in ASPECTS.values():
        parameters = dict(inspect.signature(getattr(DgentProtocol, aspect.name)).parameters)
        del parameters["self"]
        assert {*aspect.needed, *aspect.optional} == parameters.keys()
        assert set(aspect.needed) == {n for n, p in parameters.items() if p.default is inspect.Parameter.empty}
    verbs = {name for name, member in vars(DgentProtocol).items() if inspect.iscoroutinefunction(member)}
    assert verbs | {"get", "put"} == ASPECTS.keys()


def test_verbs_answer_as_the_store_does(house: House) -> None:
    owner = Umwelt.owner()
    for place, store in (("self.data", house.memory), ("self.data.table.citizens", house.tables.find("citizens"))):
        for name in ("exists", "get", "causal_chain", "history"):
            if name in house.resolve(place, owner):
                assert house.resolve(f"{place}.{name}", owner, id="d1") == house.run(getattr(store, name)("d1"))
        assert list(house.resolve(f"{place}.list", limit=3)) == list(house.run(store.list(limit=3)))  # type: ignore[union-attr]
    row = house.resolve("self.data.table.citizens.get", id="z1")
    changed = row.replace(content=row.content.replace(b"Caroline", b"Melanie"))
    assert house.resolve("self.data.table.citizens.put", owner, datum=changed).data["name"] == "Melanie"
    assert house.resolve("self.data.table.citizens.delete", owner, id="z1") is True
    assert house.resolve("self.data.table.citizens.count") == 0
    assert house.resolve("self.data.put", owner, datum={"id": "d1", "text": "x"}, ttl="keep").version == 2
    assert house.resolve("self.data.purge", owner, id="d1") == 2


def test_puts_and_deletes_are_applied_together(house: House) -> None:
    owner = Umwelt.owner()
    given = '[{"put": {"id": "n", "text": "new"}, "expect": 0, "ttl": 60}, {"delete": "d1", "expect": 1}]'
    put, deleted = house.resolve("self.data.apply", owner, operations=given)
    assert (put.datum.text, put.datum.version, deleted.changed) == ("new", 1, True)
    outcomes = house.resolve("self.data.apply", owner, operations=[Put(Datum("n", b"newer", 5.0)), {"delete": "d1"}])
    assert [outcome.changed for outcome in outcomes] == [True, False]
    for wrong in (
        [{"put": {"text": "x"}, "id": "n"}],
        [{"delete": "n", "ttl": 1}],
        [{}],
        ["n"],
        [{"put": "n", "delete": "n"}],
    ):
        with pytest.raises(InvalidInput):
            house.resolve("self.data.apply", owner, operations=wrong)
    assert house.resolve("self.data.get", owner, id="n").text == "newer"
    with pytest.raises(PermissionDenied):
        house.resolve("self.data.apply", Umwelt.reader("eve"), operations=given)


@pytest.mark.parametrize(
    "datum",
    [
        Datum("x", b'{"a":1}', 5.0),
        {"id": "x", "text": '{"a":1}', "created_at": 5.0},
        {"id": "x", "data": {"a": 1}, "created_at": 5},
        '{"id": "x", "data": {"a": 1}, "created_at": 5.0}',
    ],
)
def test_a_datum_may_be_given_as_a_record(house: House, datum: Any) -> None:
    writer = Umwelt.of("a", memory="write")
    stored = house.resolve("self.data.put", writer, datum=datum, expect="0")
    assert (stored.id, stored.content, stored.created_at, stored.version) == ("x", b'{"a":1}', 5.0, 1)
    (same,) = house.resolve("self.data.put_many", writer, datums=[datum])
    assert same.version == 1
    made = house.resolve("self.data.put", writer, datum='{"text": "hi"}')
    assert (made.content, len(made.id)) == (b"hi", 36)


def test_arguments_may_come_as_text(house: House) -> None:
    assert list(house.resolve("self.data.get_many", ids='["d1", "d2"]')) == ["d1"]
    assert len(house.resolve("self.data.list", limit="1", after="0.5")) == 1
    assert list(house.resolve("self.data.keys", prefix="d")) == list(house.resolve("self.data.segments", prefix="d"))
    assert len(house.resolve("self.data.query", query='{"tags": ["t"], "since": "1970-01-01T00:00:00Z"}')) == 1
    assert len(house.resolve("self.data.query", query={"until": "1970-01-01T00:00:01Z"})) == 0
    assert house.resolve("self.data.as_of", time="1971-01-01T00:00:00Z") == []
    assert house.resolve("self.data.count", prefix=None) == 1


@pytest.mark.parametrize(
    ("verb", "arguments", "named"),
    [
        ("get", {}, "id"),
        ("get", {"id": None}, "id"),
        ("get", {"id": 5}, "id"),
        ("get", {"id": "d1", "sql": "x"}, "sql"),
        ("get", {"id": "d1", "version": "one"}, "version"),
        ("get", {"id": "d1", "version": 1.5}, "version"),
        ("get", {"id": "d1", "version": True}, "version"),
        ("get_many", {"ids": "d1"}, "ids"),
        ("get_many", {"ids": {"d1": 1}}, "ids"),
        ("list", {"limit": []}, "limit"),
        ("list", {"limit": -1}, "limit"),
        ("list", {"order": "random"}, "order"),
        ("list", {"before_seq": "1.5"}, "before_seq"),
        ("segments", {"depth": "deep"}, "depth"),
        ("segments", {"delimiter": ""}, "delimiter"),
        ("query", {"query": "not json"}, "query"),
        ("query", {"query": {"order_by": "1; DROP TABLE x"}}, "order_by"),
        ("query", {"query": {"since": "yesterday"}}, "query"),
        ("as_of", {"time": "2026-01-01T00:00:00"}, "time"),
        ("put", {"datum": "[]"}, "datum"),
        ("put", {"datum": {"text": "x", "size": 1}}, "size"),
        ("put", {"datum": {"id": "", "text": "x"}}, "datum"),
        ("put", {"datum": {"data": float("nan")}}, "datum"),
        ("put", {"datum": {"text": "x"}, "ttl": "kept"}, "ttl"),
        ("put_many", {"datums": 7}, "datums"),
    ],
)
def test_a_wrong_argument_is_named(house: House, verb: str, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidQuery, match=named):
        house.resolve(f"self.data.{verb}", Umwelt.owner(), **arguments)
    assert house.run(house.memory.count()) == 1


def test_listings_take_no_arguments(house: House) -> None:
    for path in ("self.data", "self.data.table", "self.data.table.crystal"):
        with pytest.raises(InvalidQuery, match="limit"):
            house.resolve(path, limit=5)
    assert "table" in house.resolve("self.data")
    assert issubclass(InvalidQuery, DgentError)
