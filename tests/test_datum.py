"""The laws of the atom: D1 (JSON round trip), D2 (content addresses), immutability, and what is refused at the door."""

from __future__ import annotations

import copy
import json
import os
import pickle
import threading
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dgent.datum import Datum, as_datetime, load_datum, stamped
from dgent.datum_id import IncreasingTime, content_address, uuid7
from dgent.exceptions import InvalidDatum, InvalidNamespace, LimitExceeded
from dgent.jsonvalue import MAX_DEPTH, canonical_metadata
from dgent.limits import Limits
from dgent.validation import ID_BYTES, check_id, check_namespace

many = settings(max_examples=settings().max_examples * 5)  # pure functions are cheap to try

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ids = texts.filter(bool)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
metadatas = st.dictionaries(texts, values, max_size=4)
times = st.floats(-62_135_596_800, 253_402_300_799, allow_nan=False)
datums = st.builds(Datum, ids, st.binary(max_size=60), times, st.none() | ids, metadatas)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# D1: what to_json wrote, from_json reads


@many
@given(datums, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_l_d1_json_round_trip(datum: Datum, version: int, seq: int) -> None:
    datum = stamped(datum, version, seq)
    line = datum.to_json()
    again = Datum.from_json(line)
    assert again == datum
    assert (again.version, again.seq) == (version, seq)
    assert again.metadata_json == datum.metadata_json
    assert Datum.from_json(line.encode()).content == datum.content


@many
@given(datums)
def test_l_d1_one_datum_is_one_line(datum: Datum) -> None:
    line = datum.to_json()
    assert "\n" not in line
    assert "\r" not in line
    assert json.loads(line)["id"] == datum.id  # any other JSON parser reads it, too


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1))
@example({"nul": "\0"})
@example({"\ud800": "a lone surrogate as a key"})
@example({"line": "one\ntwo\u2028three\r"})
def test_l_d1_any_text_in_metadata_comes_back_or_is_refused(metadata: dict[str, str]) -> None:
    try:
        datum = Datum.create(b"", metadata=metadata)
    except InvalidDatum:
        assert any(
            "\0" in text or any("\ud800" <= c <= "\udfff" for c in text)
            for text in "".join(metadata) + "".join(metadata.values())
        )
        return
    assert Datum.from_json(datum.to_json()).metadata == metadata


records = st.dictionaries(
    st.sampled_from(["id", "text", "base64", "created_at", "causal_parent", "metadata", "version", "seq", "extra"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4), st.lists, max_leaves=3),
)


@many
@given(records | st.integers() | st.lists(st.text(max_size=2), max_size=2))
@example({"id": "a", "text": "x", "created_at": 10**5000})
@example({"id": "a", "text": "x", "created_at": 0, "version": 2**63})
@example({"id": "a", "text": "x", "created_at": 0, "version": -1})
@example({"id": "a", "text": "x", "created_at": 0, "metadata": None})
@example({"id": "a", "text": "x", "base64": "eA==", "created_at": 0})
@example({"id": "a", "base64": "not base64!", "created_at": 0})
def test_l_d1_a_record_is_a_datum_or_a_typed_error(record: Any) -> None:
    try:
        datum = Datum.from_dict(record)
    except InvalidDatum:
        return
    assert Datum.from_dict(datum.to_dict()) == datum


@given(st.text() | st.binary())
@example("[" * 100_000)
@example('{"id": "a"}')
@example("\ud800")
@example("")
def test_l_d1_garbage_is_no_datum(line: str | bytes) -> None:
    with pytest.raises(InvalidDatum):
        Datum.from_json(line)


@given(datums, st.data())
def test_l_d1_a_shortened_line_is_no_datum(datum: Datum, data: st.DataObject) -> None:
    line = datum.to_json().encode()
    with pytest.raises(InvalidDatum):
        Datum.from_json(line[: data.draw(st.integers(0, len(line) - 1))])


# D2: equal addresses iff content, parent and metadata are equal; equal datums hash equal

parts = st.tuples(st.binary(max_size=6), st.none() | ids, metadatas)


def address(part: tuple[bytes, str | None, dict[str, Any]]) -> str:
    content, parent, metadata = part
    return Datum.create(content, causal_parent=parent, metadata=metadata, addressed=True).id


def canonical(part: tuple[bytes, str | None, dict[str, Any]]) -> tuple[bytes, str | None, str]:
    return part[0], part[1], json.dumps(part[2], sort_keys=True)


@many
@given(parts, parts)
@example((b"", None, {"a": 1}), (b"", None, {"a": 1.0}))
@example((b"", None, {"a": 1}), (b"", None, {"a": True}))
@example((b"", None, {"a": 0.0}), (b"", None, {"a": -0.0}))
@example((b"", None, {"a": None}), (b"", None, {}))
def test_l_d2_addresses_are_equal_iff_the_parts_are(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (address(one) == address(other)) == (canonical(one) == canonical(other))


@many
@given(st.binary(min_size=1, max_size=12), st.data())
def test_l_d2_bytes_that_move_between_the_parts_change_the_address(raw: bytes, data: st.DataObject) -> None:
    text = raw.hex()  # the same characters, cut at two places
    cuts = st.integers(1, len(text))
    first, second = data.draw(cuts), data.draw(cuts)
    assume(first != second)
    split = [content_address(text[:at].encode(), text[at:] or None) for at in (first, second)]
    assert split[0] != split[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((b"ab", None), (b"a", "b")),
        ((b"", "ab"), (b"a", "b")),
        ((b"=a", None), (b"", "a")),
        ((b"a{}", None), (b"a", None)),
        ((b"a\0b", None), (b"a", "b")),
        ((b"a" + (1).to_bytes(8, "big") + b"b", None), (b"a", "b")),
    ],
)
def test_l_d2_no_two_ways_to_write_the_same_bytes(
    one: tuple[bytes, str | None], other: tuple[bytes, str | None]
) -> None:
    assert content_address(*one) != content_address(*other)


@given(metadatas, st.randoms())
def test_l_d2_the_order_of_metadata_keys_does_not_count(metadata: dict[str, Any], random: Any) -> None:
    shuffled = list(metadata.items())
    random.shuffle(shuffled)
    assert content_address(b"x", None, metadata) == content_address(b"x", None, dict(shuffled))
    assert canonical_metadata(metadata) == canonical_metadata(dict(shuffled))


@many
@given(datums, st.integers(0, 99), st.integers(0, 99))
def test_l_d2_equal_datums_hash_equal_whatever_the_store_assigned(datum: Datum, version: int, seq: int) -> None:
    twin = stamped(Datum(datum.id, datum.content, datum.created_at, datum.causal_parent, datum.metadata), version, seq)
    assert twin == datum
    assert hash(twin) == hash(datum)
    assert len({twin, datum}) == 1


@given(datums, datums)
def test_l_d2_equality_goes_by_value(one: Datum, other: Datum) -> None:
    same = one.to_dict() | {"metadata": one.metadata_json} == other.to_dict() | {"metadata": other.metadata_json}
    assert (one == other) == same
    assert one != one.to_json()


def test_the_address_is_what_it_was() -> None:
    """Addresses are stored and shared: a change of the algorithm is a new version of it, never an edit."""
    assert content_address(b"", None) == ADDRESS_OF_NOTHING
    assert content_address("Übung".encode(), "parent", {"tags": ["a"], "n": 1.5}) == ADDRESS_OF_SOMETHING


ADDRESS_OF_NOTHING = "3566d9469e86402ce867080693742a057daae82015fbc2f68244b5e840102cdd"
ADDRESS_OF_SOMETHING = "a736fa70c42c8d55ef7577394d5ac8f8bc258f120d7a7fab1e198ce085ee0b8f"


# Immutability


@pytest.mark.parametrize(
    "name", ["id", "content", "created_at", "causal_parent", "metadata", "metadata_json", "version", "seq", "new"]
)
def test_immutable_attributes(name: str) -> None:
    datum = Datum.create(b"x", metadata={"tags": ["a"]})
    before = datum.to_json()
    with pytest.raises(AttributeError, match="immutable"):
        setattr(datum, name, "other")
    with pytest.raises(AttributeError, match="immutable"):
        delattr(datum, name)
    assert datum.to_json() == before


def test_immutable_metadata() -> None:
    given_metadata = {"tags": ["a"], "deep": {"list": [1]}}
    datum = Datum.create(b"x", metadata=given_metadata)
    before = hash(datum)
    given_metadata["tags"].append("b")  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        datum.metadata["tags"] = []  # type: ignore[index]
    datum.metadata["tags"].append("b")
    datum.metadata["deep"]["list"].clear()
    assert datum.metadata == {"tags": ["a"], "deep": {"list": [1]}}
    assert hash(datum) == before


@given(datums, st.integers(0, 9))
def test_pickle_and_copy(datum: Datum, version: int) -> None:
    datum = stamped(datum, version, version)
    for twin in (pickle.loads(pickle.dumps(datum)), copy.copy(datum), copy.deepcopy(datum)):  # noqa: S301 - our own bytes
        assert twin == datum
        assert (twin.version, twin.seq) == (version, version)


def test_replace() -> None:
    datum = stamped(Datum.create(b"x", metadata={"a": 1}, causal_parent="p"), 3, 7)
    changed = datum.replace(content=b"y")
    assert (changed.content, changed.id, changed.causal_parent, changed.metadata) == (b"y", datum.id, "p", {"a": 1})
    assert (changed.version, changed.seq) == (0, 0)  # no store has seen it
    assert datum.replace(causal_parent=None).causal_parent is None
    with pytest.raises(InvalidDatum, match="colour"):
        datum.replace(colour="red")


# What is refused

HOSTILE_TEXTS = ["", "a\0b", "\0", "\ud800", "x\udfff", "x" * 2400, "x" * 10_240, "é" * 1200]


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, None, 5, b"bytes", ["list"], float("nan")])
def test_hostile_ids_are_refused(text: Any) -> None:
    with pytest.raises(InvalidDatum):
        check_id(text)
    with pytest.raises(InvalidDatum):
        Datum(text, b"", 0.0)
    if text is not None:
        with pytest.raises(InvalidDatum, match="causal_parent"):
            Datum("id", b"", 0.0, text)
        with pytest.raises(InvalidDatum):
            Datum.create(b"", causal_parent=text, addressed=True)


@pytest.mark.parametrize(
    "text", ["../x", "/etc/passwd", "a/../b", "'; DROP TABLE x; --", "%_*[", " ", "\n", "é", "e\u0301", "x" * ID_BYTES]
)
def test_ids_are_any_other_text_and_never_normalised(text: str) -> None:
    assert Datum(text, b"", 0.0).id == text


@pytest.mark.parametrize(
    "namespace", [*HOSTILE_TEXTS, ".", "..", "../x", "a/..", "a/./b", "a//b", "/a", "a/", "/", "//", None, 5, ["a"]]
)
def test_hostile_namespaces_are_refused(namespace: Any) -> None:
    with pytest.raises(InvalidNamespace):
        check_namespace(namespace)


@pytest.mark.parametrize("namespace", ["default", "team/agent", "...", ".hidden", "a b", "é", "%", "a\\..\\b"])
def test_good_namespaces(namespace: str) -> None:
    assert check_namespace(namespace) == namespace


@given(st.text(max_size=12))
@example("a/../b")
def test_namespace_rule(namespace: str) -> None:
    bad = any("\ud800" <= c <= "\udfff" for c in namespace) or "\0" in namespace
    if bad or {"", ".", ".."} & set(namespace.split("/")):
        with pytest.raises(InvalidNamespace):
            check_namespace(namespace)
    else:
        assert check_namespace(namespace) == namespace


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        pytest.param(10**5000, id="huge"),
        float("nan"),
        float("inf"),
        b"bytes",
        object(),
        {1, 2},
        (1, 2),
        1j,
        {1: 2},
        "\0",
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_metadata_that_no_json_holds_is_refused_with_its_path(value: Any) -> None:
    with pytest.raises(InvalidDatum, match=r"metadata\.list\[1\]"):
        Datum.create(b"", metadata={"list": [0, value]})


@pytest.mark.parametrize("depth", [MAX_DEPTH, 1_000, 100_000])
def test_metadata_of_any_depth_is_refused_not_overflowed(depth: int) -> None:
    with pytest.raises(InvalidDatum, match="deeper"):
        Datum.create(b"", metadata={"deep": nested(depth)})
    with pytest.raises(InvalidDatum, match="deeper"):
        Datum.create(data=nested(depth + 1))
    assert Datum.create(b"", metadata={"deep": nested(MAX_DEPTH - 1)}).metadata["deep"]


def test_metadata_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(InvalidDatum, match="deeper"):
        Datum.create(b"", metadata=loop)


@pytest.mark.parametrize("metadata", [None, 5, "text", [], [("a", 1)], {1: 2}, {"\0": 1}, {"\ud800": 1}, {None: 1}])
def test_metadata_is_a_mapping_of_text(metadata: Any) -> None:
    with pytest.raises(InvalidDatum):
        Datum("id", b"", 0.0, None, metadata)
    with pytest.raises(InvalidDatum):
        Datum.create(b"", metadata=metadata)
    with pytest.raises(InvalidDatum):
        Datum.create(b"", metadata=metadata, author="me", addressed=True)


@pytest.mark.parametrize(
    "moment",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        True,
        "now",
        None,
        1e300,
        10**400,
        pytest.param(10**5000, id="huge"),
        pytest.param(-(10**5000), id="-huge"),
        253_402_300_800,
    ],
)
def test_times_are_finite_seconds_between_the_years_1_and_9999(moment: Any) -> None:
    with pytest.raises(InvalidDatum, match="created_at"):
        Datum("id", b"", moment)


@given(times)
def test_every_time_is_a_datetime(moment: float) -> None:
    assert as_datetime(Datum("id", b"", moment).created_at).utcoffset().total_seconds() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [5, None, ["x"], bytearray(b"x"), memoryview(b"x"), object()])
@pytest.mark.parametrize("addressed", [True, False])
def test_content_is_bytes_or_text(content: Any, addressed: bool) -> None:
    with pytest.raises(InvalidDatum):
        Datum("id", content, 0.0)
    with pytest.raises(InvalidDatum):
        Datum.create(content, addressed=addressed)


@pytest.mark.parametrize("name", ["author", "source", "schema", "tags"])
@pytest.mark.parametrize("odd", [5, b"x", True, ["x"], [None], [1], [["x"]], b"maps"])
def test_what_is_named_is_text_and_else_refused(name: str, odd: Any) -> None:
    given: dict[str, Any] = {name: odd}
    if name == "tags" and odd == ["x"]:
        assert Datum.create("x", **given).tags == {"x"}
        return
    with pytest.raises(InvalidDatum, match="text"):
        Datum.create("x", **given)
    assert Datum.create("x", metadata={name: 5}).metadata == {name: 5}  # the metadata itself is free


def test_create_takes_content_or_data() -> None:
    assert Datum.create("Übung").content == "Übung".encode()
    assert Datum.create(data={"b": 1, "a": [None]}).content == b'{"a":[null],"b":1}'
    for wrong in ({"content": b"", "data": 1}, {}, {"content": "\ud800"}, {"data": {1}}, {"content": b"", "tags": 5}):
        with pytest.raises(InvalidDatum):
            Datum.create(**wrong)


@given(
    datums, st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers() | st.text(max_size=2), max_size=3)
)
def test_crystal_properties_never_raise(datum: Datum, odd: Any) -> None:
    try:
        datum = datum.replace(metadata={"tags": odd, "author": odd, "source": odd, "schema": odd})
    except InvalidDatum:
        return
    assert (
        datum.tags == frozenset(tag for tag in odd if isinstance(tag, str)) if isinstance(odd, list) else not datum.tags
    )
    assert datum.author == (odd if isinstance(odd, str) else "system")
    assert datum.source == datum.schema == (odd if isinstance(odd, str) else None)
    assert datum.parent_id == datum.causal_parent


@given(st.binary(max_size=20))
@example(b"[" * 100_000)
@example(b'{"a": 1}')
def test_data_is_json_or_a_typed_error(content: bytes) -> None:
    datum = Datum("id", content, 0.0)
    try:
        data = datum.data
    except InvalidDatum:
        data = None
    assert data is None or data == json.loads(content)
    assert isinstance(datum.text, str)


def test_limits_name_the_datum_and_the_setting() -> None:
    limits = Limits(max_content=4, max_metadata=12)
    limits.admit(Datum("fits", b"1234", 0.0, None, {"a": "é"}))  # {"a":"é"} has 9 characters in 10 bytes
    with pytest.raises(LimitExceeded, match=r"'big'.*5 bytes.*max_content"):
        limits.admit(Datum("big", b"12345", 0.0))
    with pytest.raises(LimitExceeded, match=r"'wide'.*14 bytes.*max_metadata"):
        limits.admit(Datum("wide", b"", 0.0, None, {"a": "ééé"}))


# uuid7


def test_uuid7_has_the_format_of_rfc_9562() -> None:
    before = time.time_ns() // 1_000_000
    made = [UUID(uuid7()) for _ in range(500)]
    after = time.time_ns() // 1_000_000
    assert {(each.version, each.variant) for each in made} == {(7, "specified in RFC 4122")}
    assert all(before <= each.int >> 80 <= after for each in made)
    assert len(set(made)) == len(made)
    random = [each.int & (2**62 - 1) for each in made]
    assert all(any(value >> bit & 1 for value in random) for bit in range(62))  # no bit of the random part is stuck
    assert all(any(not value >> bit & 1 for value in random) for bit in range(62))


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=8))
def test_uuid7_increases_whatever_the_clock_does(moments: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgent.datum_id._moments", IncreasingTime())
        made, latest = [], 0
        for moment in moments:
            patch.setattr("dgent.datum_id.time.time_ns", lambda moment=moment: moment * 1_000_000)
            made.append(uuid7())
            latest = max(latest, moment)
            assert 0 <= (UUID(made[-1]).int >> 80) - latest <= 1  # the clock's time, as far as it does not go back
    assert made == sorted(set(made))


def test_uuid7_increases_across_threads() -> None:
    made = [list[str]() for _ in range(4)]
    order: list[str] = []
    start = threading.Barrier(4)

    def make(mine: list[str]) -> None:
        start.wait()
        for _ in range(2_000):
            mine.append(uuid7())
            order.append(mine[-1])

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len(set(order)) == 8_000
    assert uuid7() > max(order)


def test_uuid7_increases_across_a_fork_while_threads_make_some() -> None:
    """The child goes on from the last moment of its parent, and waits for no lock of a thread that it has not."""
    done = threading.Event()

    def make() -> None:
        while not done.is_set():
            uuid7()

    thread = threading.Thread(target=make)
    thread.start()
    try:
        for _ in range(20):
            before, (read, write) = uuid7(), os.pipe()
            child = os.fork()
            if not child:
                os.write(write, "".join(uuid7() for _ in range(3)).encode())
                os._exit(0)
            os.close(write)
            with os.fdopen(read) as pipe:
                text = pipe.read()
            os.waitpid(child, 0)
            born = [text[at : at + 36] for at in range(0, 108, 36)]
            assert [before, *born] == sorted({before, *born})
    finally:
        done.set()
        thread.join()


def test_load_datum_trusts_the_store() -> None:
    datum = load_datum("", b"", 0.0, None, '{"a":1}', 4, 9)
    assert (datum.id, datum.metadata, datum.version, datum.seq) == ("", {"a": 1}, 4, 9)
