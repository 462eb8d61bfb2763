"""A conversation file is read whole, or refused with the place and the reason."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.exceptions import InvalidFile, NotFound
from dgent.importing import conversation_file
from dgent.importing.conversation_file import parse_conversation, read_conversation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD: dict[str, Any] = {
    "speaker_a": "Ann",
    "speaker_b": "Bo",
    "session_1_date_time": "12:05 am on 1 May, 2026",
    "session_1": [
        {
            "speaker": "Ann",
            "dia_id": "D1:1",
            "text": "Look!",
            "img_url": ["https://example.org/a"],
            "blip_caption": "a",
        },
        {"speaker": "Bo", "dia_id": "D1:2", "text": "Oh."},
    ],
    "session_1_observation": {
        "Ann": [["Ann has a photo.", "D1:1"], ["Both saw it.", ["D1:1", "D1:2"]]],
        "Bo": [["Bo is impressed.", "D1:2; D9:17"]],
    },
    "session_1_summary": "Ann shows a photo.",
    "events_session_1": {"Ann": [], "Bo": [], "date": "1 May, 2026"},
    "session_2_date_time": "3:00 pm on 2 May, 2026",
    "session_3_date_time": "11:59 pm on 3 May, 2026",
    "session_3": [],
    "qa": [{"question": "?", "category": 5}],
}


def parse(record: Any) -> conversation_file.Conversation:
    return parse_conversation(json.dumps(record).encode(), "c.json")


def test_everything_that_is_in_the_file_is_read() -> None:
    read = parse(GOOD)
    assert (read.speakers, read.name) == (("Ann", "Bo"), "ann-bo")
    first, third = read.sessions
    assert (first.number, first.started_at) == (1, datetime(2026, 5, 1, 0, 5, tzinfo=UTC))
    assert [(turn.speaker, turn.dia_id, turn.text) for turn in first.turns] == [
        ("Ann", "D1:1", "Look!"),
        ("Bo", "D1:2", "Oh."),
    ]
    assert first.turns[0].extra == {"img_url": ["https://example.org/a"], "blip_caption": "a"}
    assert [found.evidence for found in first.observations] == [("D1:1",), ("D1:1", "D1:2"), ("D1:2", "D9:17")]
    moments = [turn.said_at for turn in first.turns] + [found.seen_at for found in first.observations]
    assert [(moment - first.started_at).total_seconds() for moment in moments] == [0, 1, 2, 3, 4]
    assert (third.number, third.turns, third.started_at) == (3, (), datetime(2026, 5, 3, 23, 59, tzinfo=UTC))
    assert read.size == 5


def test_keys_say_what_was_said() -> None:
    def keys(change: Callable[[Any], None] = lambda _: None) -> tuple[str, str]:
        record = deepcopy(GOOD)
        change(record)
        session = parse(record).sessions[0]
        return session.key, session.observations[0].key

    same = keys()
    assert keys(lambda r: r.update(qa=[], session_1_summary="Other.")) == same
    assert keys(lambda r: r["session_1"][1].update(text="Ah."))[0] != same[0]
    assert keys(lambda r: r["session_1"][1].update(mood="glad"))[0] != same[0]
    assert keys(lambda r: r.update(session_1_date_time="12:06 am on 1 May, 2026"))[0] != same[0]
    changed = keys(lambda r: r["session_1_observation"]["Ann"][0].__setitem__(0, "Ann has two photos."))
    assert changed[0] == same[0]
    assert changed[1] != same[1]


def test_the_same_sentence_twice_is_two_observations() -> None:
    record = deepcopy(GOOD)
    record["session_1_observation"]["Ann"] *= 2
    keys = [found.key for found in parse(record).sessions[0].observations]
    assert len(set(keys)) == len(keys) == 5


def place(*path: Any, value: Any = ...) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        for step in path[:-1]:
            record = record[step]
        if value is ...:
            del record[path[-1]]
        else:
            record[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (place("speaker_a"), "speaker_a is missing"),
        (place("speaker_b", value=7), "speaker_b is a number, not text"),
        (place("speaker_b", value="Ann"), "speaker_b is the same as speaker_a"),
        (place("speaker_a", value=" "), "speaker_a is empty"),
        (place("session_1_date_time"), "session_1_date_time is missing"),
        (place("session_1_date_time", value="13:00 pm on 1 May, 2026"), "session_1_date_time is '13:00 pm"),
        (place("session_1_date_time", value="1:00 pm on 31 June, 2026"), "session_1_date_time is '1:00 pm"),
        (place("session_1_date_time", value="1:00 pm on 1 Mai, 2026"), 'not a time like "1:47 pm on 18 May, 2023"'),
        (place("session_1_date_time", value="1:00 pm on 1 May, 9999"), "session_1_date_time is"),
        (place("session_1", value={}), "session_1 is an object, not a list"),
        (place("session_1", 1, value="Oh."), "session_1[1] is text, not an object"),
        (place("session_1", 1, "text"), "session_1[1].text is missing"),
        (place("session_1", 1, "text", value=None), "session_1[1].text is null, not text"),
        (place("session_1", 1, "text", value="a\0b"), "session_1[1].text holds a NUL"),
        (place("session_1", 1, "speaker", value="Cy"), "session_1[1].speaker is 'Cy'"),
        (place("session_1", 1, "dia_id", value="3"), "session_1[1].dia_id is '3', not of the form"),
        (place("session_1", 1, "dia_id", value="D1:1"), "session_1[1].dia_id is D1:1, as that of session_1[0] is"),
        (place("session_1", 1, "mood", value={"a\0": 1}), "a key of session_1[1].mood holds a NUL"),
        (place("session_1_observation", value=[]), "session_1_observation is a list, not an object"),
        (place("session_1_observation", "Cy", value=[]), "session_1_observation is about 'Cy'"),
        (place("session_1_observation", "Bo", value="x"), "session_1_observation.Bo is text, not a list"),
        (place("session_1_observation", "Bo", 0, value=["x"]), "session_1_observation.Bo[0] is not [sentence, dia_id]"),
        (place("session_1_observation", "Bo", 0, value=["x", [3]]), "session_1_observation.Bo[0] is not"),
        (place("session_1_observation", "Bo", 0, value=[" ", "D1:1"]), "has an empty sentence"),
        (place("session_1_summary", value=1), "session_1_summary is a number"),
        (place("session_2_observation", value={}), "session_2 is missing"),
        (place("session_1_observatoin", value={}), "session_1_observatoin is no part of a session"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: Callable[[Any], None], told: str) -> None:
    record = deepcopy(GOOD)
    change(record)
    with pytest.raises(InvalidFile) as refused:
        parse(record)
    assert str(refused.value).startswith("c.json: ")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"speaker_a": "Ann",\n "speaker_b" "Bo"}', "line 2, column 14: not JSON"),
        (b'{"speaker_a": "\\ud800"}', "line 1"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "the file is a list, not an object"),
        (b"NaN", "not JSON"),
        (b'{"speaker_a": "Ann", "speaker_b": "Bo"}', "session_1 is missing"),
    ],
)
def test_what_is_no_conversation_is_refused(source: bytes, told: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        parse_conversation(source, "c.json")
    assert told in str(refused.value)


def test_a_byte_order_mark_is_no_reason_to_refuse() -> None:
    assert parse_conversation(b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "c.json") == parse(GOOD)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="there is no such file"):
        read_conversation(tmp_path / "nowhere.json")
    with pytest.raises(InvalidFile, match="cannot be read: Is a directory"):
        read_conversation(tmp_path)
    monkeypatch.setattr(conversation_file, "MAX_BYTES", 10)
    (tmp_path / "large.json").write_bytes(b" " * 11)
    with pytest.raises(InvalidFile, match="is larger than"):
        read_conversation(tmp_path / "large.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = [(key,) for key in GOOD] + [("session_1", 0), ("session_1", 0, "dia_id"), ("session_1_observation", "Ann", 0)]


@given(st.sampled_from(PATHS), JSON)
def test_no_value_anywhere_is_more_than_refused(path: tuple[Any, ...], value: Any) -> None:
    record = deepcopy(GOOD)
    place(*path, value=value)(record)
    told = None
    try:
        parse(record)
    except InvalidFile as refused:
        told = str(refused)
    assert told is None or told.startswith("c.json: ")


@given(st.binary(max_size=60))
def test_no_bytes_are_more_than_refused(source: bytes) -> None:
    with pytest.raises(InvalidFile):
        parse_conversation(source, "c.json")
