"""The filter that every backend answers to: its paths, its meaning, its cursors, and the end of a prefix."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dgent.cursor import open_cursor, seal_cursor
from dgent.datum import Datum, stamped
from dgent.exceptions import InvalidCursor, InvalidInput, InvalidQuery
from dgent.jsonvalue import MAX_PATH, comparable, comparable_or_none, follow, parse_path
from dgent.page import Page
from dgent.query import Query, prefix_end
from dgent.validation import check_limit

many = settings(max_examples=settings().max_examples * 5)  # pure functions are cheap to try

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# Paths

plain_names = st.from_regex(r"\A[^.\[\]\"\x00\ud800-\udfff]{1,6}\Z")
steps = st.lists(plain_names | texts | st.integers(-99_999, 99_999), min_size=1, max_size=5)


def written(path: list[str | int]) -> str:
    """Write a path, each name plain where that can be read and quoted where not."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif not step or set(step) & set('.[]"'):
            text += f"[{json.dumps(step)}]"
        else:
            text += f".{step}" if text else step
    return text


@many
@given(steps)
@example(["a", 0, "b.c", "", '"', "\\", "[0]", -1])
def test_a_written_path_is_read_back(path: list[str | int]) -> None:
    assert parse_path(written(path)) == tuple(path)


@many
@given(st.text(st.sampled_from('ab.[]"\\0-9\0\ud800 é'), max_size=12) | st.text(max_size=12))
def test_any_text_is_a_path_or_a_typed_error(text: str) -> None:
    try:
        path = parse_path(text)
    except InvalidQuery:
        return
    assert path
    assert parse_path(written(list(path))) == path


@pytest.mark.parametrize(
    "garbage",
    ["", ".", "a.", ".a", "a..b", "[", "]", "a[", "a]", "a[]", "a[b]", "a[1", 'a["b]', 'a["b"', 'a"b"', "a[1]b",
     "[--1]", "a[1.5]", "a[99999999999]", 'a["\\x"]', 'a["\\ud800"]', 'a["\\u0000"]', "a\0", "\ud800",
     "a" * (MAX_PATH + 1), None, 5, ["a"]],
)  # fmt: skip
def test_garbage_is_no_path(garbage: Any) -> None:
    with pytest.raises(InvalidQuery):
        parse_path(garbage)
    with pytest.raises(InvalidQuery):
        Query(where={garbage: 1} if isinstance(garbage, str) else garbage or 5)


def test_the_message_shows_where_a_path_ends() -> None:
    with pytest.raises(InvalidQuery, match="character 4"):
        parse_path("a.b]c")


@given(
    st.recursive(st.integers(0, 3), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("ab"), inner)),
    steps,
)
def test_follow_agrees_with_indexing(value: Any, path: list[str | int]) -> None:
    found, expected = follow(value, tuple(path)), value
    for step in path:
        try:
            if isinstance(expected, dict | list) and isinstance(step, str) == isinstance(expected, dict):
                expected = expected[step]
                continue
        except LookupError:
            pass
        assert comparable_or_none(found) is None  # the marker that equals nothing
        return
    assert found == expected


# The meaning of a query

names = st.sampled_from(["", "a", "b", "ab", "é"])
numbers = st.sampled_from([0, 1, 1.0, True, False, -0.0, 2**53 + 1, -(2**63), -(2.0**63), 1e300, None, "1"])
small = st.recursive(
    numbers | names, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2), max_leaves=4
)
moments = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])
metadatas = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(names, max_size=3) | names,
        "author": names | st.none(),
        "schema": names | st.integers(0, 1),
        "a": small,
    },
)
contents = st.binary(max_size=3) | small.map(orjson.dumps)
datums = st.builds(
    lambda datum, seq: stamped(datum, 1, seq),
    st.builds(Datum, names.filter(bool), contents, moments, st.none() | names.filter(bool), metadatas),
    st.integers(0, 4),
)
paths = st.sampled_from(
    ["a", "[0]", "a.b", "metadata.a", "metadata.a[-1]", "metadata.a.b", "content.a", "metadata", 'metadata["a"][0]']
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "schema": names,
        "tags": st.frozensets(names, max_size=2),
        "author": names | st.just("system"),
        "since": moments,
        "until": moments,
        "after": moments,
        "after_seq": st.integers(-1, 4),
        "before_seq": st.integers(-1, 5),
        "causal_parent": names,
        "prefix": names,
        "where": st.dictionaries(paths, small, max_size=2),
    },
)


def same(one: Any, other: Any) -> bool:
    """JSON equality: numbers by value, booleans only like booleans."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def naive(filters: dict[str, Any], datum: Datum) -> bool:
    """What a query means, said again in other words."""
    metadata = dict(datum.metadata)
    tags = metadata.get("tags")
    author = metadata.get("author")
    checks = {
        "schema": lambda wanted: metadata.get("schema") == wanted,
        "tags": lambda wanted: all(isinstance(tags, list) and tag in tags for tag in wanted),
        "author": lambda wanted: (author if isinstance(author, str) else "system") == wanted,
        "since": lambda wanted: wanted <= datum.created_at,
        "until": lambda wanted: datum.created_at < wanted,
        "after": lambda wanted: wanted < datum.created_at,
        "after_seq": lambda wanted: wanted < datum.seq,
        "before_seq": lambda wanted: datum.seq < wanted,
        "causal_parent": lambda wanted: datum.causal_parent == wanted,
        "prefix": lambda wanted: datum.id[: len(wanted)] == wanted,
        "where": lambda wanted: all(naive_where(path, value, datum) for path, value in wanted.items()),
    }
    return all(checks[name](wanted) for name, wanted in filters.items())


def naive_where(text: str, expected: Any, datum: Datum) -> bool:
    root, *path = parse_path(text)
    value: Any = dict(datum.metadata)
    if not (root == "metadata" and path):
        path = path if root == "content" and path else [root, *path]
        try:
            value = json.loads(datum.content)
        except ValueError:
            return False
    for step in path:
        if not isinstance(value, dict if isinstance(step, str) else list):
            return False
        try:
            value = value[step]
        except LookupError:
            return False
    return same(value, expected)


@settings(max_examples=settings().max_examples * 20)
@given(filters, datums)
@example({"where": {"a": 1}}, Datum("a", b'{"a": 1.0}', 0.0))
@example({"where": {"a": 1}}, Datum("a", b'{"a": true}', 0.0))
@example({"where": {"a": None}}, Datum("a", b"{}", 0.0))
@example({"where": {"metadata.a": [1.0]}}, Datum("a", b"", 0.0, None, {"a": [1]}))
@example({"where": {"a": -(2**63)}}, Datum("a", b'{"a": -9223372036854775808.0}', 0.0))
def test_matches_agrees_with_a_naive_reading(filters: dict[str, Any], datum: Datum) -> None:
    assert Query(**filters).matches(datum) == naive(filters, datum)


@given(datums)
def test_an_empty_query_matches_everything(datum: Datum) -> None:
    assert Query().matches(datum)


@pytest.mark.parametrize("depth", [31, 33, 300, 600, 1_000, 100_000])
def test_deep_content_matches_nothing_and_overflows_nothing(depth: int) -> None:
    content = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    assert Query(where={"a": nested(31)}).matches(Datum("deep", content, 0.0)) == (depth == 31)
    if depth > 32:
        with pytest.raises(InvalidQuery, match="deeper"):
            Query(where={"a": nested(depth)})


def test_times_are_the_same_in_every_zone() -> None:
    noon = datetime(2026, 3, 29, 12, tzinfo=UTC)
    elsewhere = noon.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert Query(since=noon) == Query(since=elsewhere) == Query(since=noon.timestamp())
    assert Query(since=noon).matches(Datum("a", b"", noon.timestamp()))
    assert not Query(until=noon).matches(Datum("a", b"", noon.timestamp()))
    assert not Query(after=noon.timestamp()).matches(Datum("a", b"", noon.timestamp()))


# What is refused

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - naive on purpose
REFUSED: list[dict[str, Any]] = [
    {"limit": -1}, {"limit": -(10**5000)}, {"limit": True}, {"limit": 1.0}, {"limit": None}, {"limit": "5"},
    {"limit": 2**63}, {"since": NAIVE}, {"until": NAIVE}, {"since": "2026"}, {"since": float("nan")},
    {"until": float("inf")}, {"after": True}, {"after": 10**400}, {"after": -(10**5000)}, {"after": "0"},
    {"after_seq": 1.0}, {"after_seq": True}, {"after_seq": 2**63}, {"before_seq": "1"}, {"before_seq": -(2**63)},
    {"offset": -1}, {"offset": 1.0}, {"offset": None}, {"causal_parent": 5}, {"causal_parent": "a\0"},
    {"order": "sideways"}, {"order": None},
    {"order": ["newest"]},
    {"prefix": 5}, {"prefix": "a\0"}, {"prefix": "\ud800"}, {"schema": b"x"}, {"author": ["x"]}, {"cursor": 5},
    {"tags": 5}, {"tags": [5]}, {"tags": [["x"]]}, {"tags": [None]}, {"tags": ["a\0"]}, {"tags": None},
    {"where": 5}, {"where": "a"}, {"where": [("a", 1)]}, {"where": {"a": object()}}, {"where": {"a": float("nan")}},
    {"where": {"a": 2**64}}, {"where": {"a": {1: 2}}}, {"where": {"a": "\0"}}, {"where": {5: 1}}, {"where": {"": 1}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED, ids=lambda wrong: next(iter(wrong)))
def test_what_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidQuery):
        Query(**wrong)


def test_a_limit_is_a_whole_number_from_0() -> None:
    assert [check_limit(limit) for limit in (0, 1, 10_000)] == [0, 1, 10_000]


@given(filters, filters)
def test_equal_queries_hash_equal_and_share_their_cursors(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = Query(**one), Query(**other)
    assert first == Query(**one)
    assert hash(first) == hash(Query(**one))
    if first == second:
        assert hash(first) == hash(second)
    assert Query(**one, limit=1) != Query(**one, limit=2)
    assert Query(**one, limit=1).fingerprint == Query(**one, limit=2).fingerprint


ANOTHER: dict[str, Any] = {
    "schema": "a",
    "tags": "a",
    "author": "a",
    "since": 1.0,
    "until": 1.0,
    "after": 1.0,
    "where": {"a": 1},
    "prefix": "a",
    "expired": True,
    "order": "oldest",
    "causal_parent": "a",
    "after_seq": 1,
    "before_seq": 1,
    "as_of": 1.0,
    "limit": 1,
    "cursor": "a",
    "offset": 1,
}


@pytest.mark.parametrize("name", [field.name for field in fields(Query)])
def test_each_field_makes_another_query_and_each_filter_refuses_the_cursor_of_the_other(name: str) -> None:
    other = Query(**{name: ANOTHER[name]})
    assert other != Query()
    assert other.asked == {name}
    assert (other.fingerprint != Query().fingerprint) == (name not in {"limit", "cursor", "offset"})
    for second in ANOTHER.keys() - {name}:
        assert Query(**{second: ANOTHER[second]}) != other


@dataclass(frozen=True, eq=False)
class Matching(Query):
    """A filter of somebody's own, without a default."""

    pattern: object = field(kw_only=True)


def test_a_filter_without_a_default_is_asked_and_one_that_no_cursor_can_name_is_refused() -> None:
    assert Matching(pattern="a").asked == {"pattern"}
    assert Matching(pattern="a") != Matching(pattern="b")
    with pytest.raises(InvalidQuery, match="pattern is a Pattern"):
        _ = Matching(pattern=re.compile("a")).fingerprint


def test_true_and_1_are_two_queries() -> None:
    assert Query(where={"a": True}) != Query(where={"a": 1}) == Query(where={"a": 1.0})


def test_a_query_does_not_change_with_what_it_was_made_from() -> None:
    where: dict[str, Any] = {"a": [1]}
    tags = ["x"]
    query = Query(where=where, tags=tags)  # type: ignore[arg-type]
    before = query.fingerprint
    where["a"].append(2)
    where["b"] = 1
    tags.append("y")
    assert query.fingerprint == before == Query(where={"a": [1]}, tags=frozenset("x")).fingerprint
    with pytest.raises(TypeError):
        query.where["b"] = 1  # type: ignore[index]


def test_a_single_tag_is_one_tag() -> None:
    assert Query(tags="maps").tags == {"maps"}  # type: ignore[arg-type]


# Pages and cursors

positions = st.tuples(st.floats(-1e11, 1e11), texts) | st.tuples(st.integers(0, 2**63 - 1), st.just(""))
fingerprints = st.binary(min_size=16, max_size=16)


@many
@given(positions, fingerprints)
def test_a_cursor_holds_its_position(position: tuple[float | int, str], fingerprint: bytes) -> None:
    cursor = seal_cursor(position, fingerprint)
    assert open_cursor(cursor, fingerprint) == position
    assert cursor.isascii()
    assert not set(cursor) & set("+/=& ?#")  # it goes into a URL as it is


@given(positions, fingerprints, fingerprints)
def test_a_cursor_of_another_query_is_refused(position: tuple[float | int, str], mine: bytes, other: bytes) -> None:
    assume(mine != other)
    with pytest.raises(InvalidCursor):
        open_cursor(seal_cursor(position, mine), other)


@many
@given(positions, st.data())
def test_a_tampered_cursor_is_refused(position: tuple[float | int, str], data: st.DataObject) -> None:
    cursor = seal_cursor(position, b"f" * 16)
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = cursor[:at] + data.draw(st.sampled_from("ABab01-_é=\0")) + cursor[at + 1 :]
    try:
        assert open_cursor(other, b"f" * 16) == position  # the last character has bits that base64 ignores
    except InvalidCursor:
        assert other != cursor


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@example("")
@example("=")
@example("\ud800")
@example("A" * 10_000)
def test_garbage_is_no_cursor(garbage: str) -> None:
    with pytest.raises(InvalidCursor):
        open_cursor(garbage, b"f" * 16)


@pytest.mark.parametrize(
    "forged",
    [[], [1], [1, "", 3], ["1", "a"], [1, 2], [None, "a"], [True, "a"], [1, None], [1e300, "a"], [2**63, ""],
     [1, "a\0b"], {"at": 1}, "1a", 5, None],
)  # fmt: skip
def test_a_cursor_sealed_by_somebody_who_read_the_source_holds_a_position_or_nothing(forged: Any) -> None:
    with pytest.raises(InvalidCursor):
        open_cursor(seal_cursor(forged, b"f" * 16), b"f" * 16)


@given(filters, filters, st.sampled_from(["newest", "oldest", "seq"]), st.sampled_from(["newest", "oldest", "seq"]))
def test_a_cursor_opens_only_for_the_same_filters_and_order(
    one: dict[str, Any], other: dict[str, Any], order: Any, second: Any
) -> None:
    datums = [stamped(Datum(str(number), b"", float(number)), 1, number) for number in range(3)]
    page = Query(**one, order=order, limit=2).page(datums)
    assert page.cursor is not None
    following = Query(**one, order=order, limit=9, cursor=page.cursor)
    assert following.start() == following.position(datums[1])
    stranger = Query(**other, order=second, cursor=page.cursor)
    if stranger.fingerprint != following.fingerprint:
        with pytest.raises(InvalidCursor):
            stranger.start()


@given(st.integers(0, 6), st.integers(0, 6))
def test_a_page_says_whether_there_is_more(limit: int, available: int) -> None:
    datums = [Datum(str(number), b"", 0.0) for number in range(available)]
    page = Query(limit=limit).page(datums[: limit + 1])
    assert isinstance(page, Page)
    assert page == datums[:limit]
    assert (page.cursor is not None) == (0 < limit < available)


def test_a_first_page_starts_nowhere() -> None:
    assert Query().start() is None


# Prefixes

edges = st.text(st.sampled_from("a%_\\[*'\x7f\x80\xff\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"), max_size=4)


@settings(max_examples=settings().max_examples * 20)
@given(edges | texts, edges | texts, st.booleans())
@example("\ud7ff", "\ue000", False)
@example("\U0010ffff", "\U0010ffff\U0010ffff", False)
@example("a\U0010ffff", "b", False)
@example("", "anything", False)
def test_a_prefix_is_a_range(prefix: str, text: str, related: bool) -> None:
    text = prefix + text if related else text
    end = prefix_end(prefix)
    assert text.startswith(prefix) == (prefix <= text and (end is None or text < end))
    low, high, stored = prefix.encode(), None if end is None else end.encode(), text.encode()
    assert text.startswith(prefix) == (low <= stored and (high is None or stored < high))  # as a database compares it


# Comparison


@many
@given(small, small)
def test_comparable_texts_are_equal_iff_the_values_are(one: Any, other: Any) -> None:
    assert (comparable(one) == comparable(other)) == same(one, other)


def test_what_is_not_json_compares_with_nothing() -> None:
    for value in (object(), float("nan"), 2**64, nested(40), nested(100_000)):
        assert comparable_or_none(value) is None
        with pytest.raises(InvalidInput):
            comparable(value)
