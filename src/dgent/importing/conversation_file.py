"""Read a conversation file, strictly: two people, and their sessions of dated turns and observations.

The file is one JSON object, of the shape that LoCoMo's conversations have (Maharana et al., ACL 2024):

    speaker_a, speaker_b      their names
    session_N_date_time       "1:47 pm on 18 May, 2023", read as UTC
    session_N                 a list of turns: speaker, dia_id ("D3:7"), text, and anything else
    session_N_observation     speaker to a list of [sentence, dia_id or a list of them]
    session_N_summary         text

A date without turns is no session. What else stands at the top of the file is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NoReturn

import orjson
from blake3 import blake3

from dgent.exceptions import InvalidDatum, InvalidFile, NotFound
from dgent.jsonvalue import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_BYTES: Final = 256 * 2**20
_DATE: Final = re.compile(r"(\d{1,2}):(\d{2}) ([ap]m) on (\d{1,2}) ([A-Z][a-z]+), (\d{4})", re.ASCII)
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_SESSION: Final = re.compile(r"session_([1-9]\d{0,5})(_date_time|_observation|_summary)?", re.ASCII)
_DIA_ID: Final = re.compile(r"D\d{1,6}:\d{1,6}", re.ASCII)
_NAMED: Final = ("speaker", "dia_id", "text")


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing that was said; `extra` is whatever else the file knows of it."""

    speaker: str
    dia_id: str
    text: str
    said_at: datetime
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Observation:
    """What somebody noticed about a speaker; `evidence` are the readable dia_ids that it rests on."""

    key: str
    speaker: str
    sentence: str
    seen_at: datetime
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Session:
    """One sitting. Its `key` says what was said in it: the same words by the same people at the same time are one."""

    key: str
    number: int
    started_at: datetime
    summary: str | None
    turns: tuple[Turn, ...]
    observations: tuple[Observation, ...]

    @property
    def size(self) -> int:
        """How many turns and observations it has."""
        return len(self.turns) + len(self.observations)


@dataclass(frozen=True)
class Conversation:
    """Everything that two people said to each other; `name` is made of theirs and fits into ids and tags."""

    speakers: tuple[str, str]
    sessions: tuple[Session, ...]

    @cached_property
    def name(self) -> str:
        """The two names in the small letters that an id can be typed with."""
        return "-".join(
            re.sub(r"\W+", "-", speaker.casefold()).strip("-_")[:40] or "someone" for speaker in self.speakers
        )

    @property
    def size(self) -> int:
        """How many turns and observations there are."""
        return sum(session.size for session in self.sessions)

    def spoken(self) -> Iterator[tuple[Session, int, Turn]]:
        """Go through all turns, each with its session and its place in that."""
        return ((session, at, turn) for session in self.sessions for at, turn in enumerate(session.turns))


def read_conversation(path: Path) -> Conversation:
    """Read a conversation file.

    Raises:
        NotFound: there is no such file.
        InvalidFile: it cannot be read, is no JSON, or no conversation; the message names the place and what is wrong.
    """
    return parse_conversation(_bytes_of(path), str(path))


def parse_conversation(source: bytes, name: str) -> Conversation:
    """Read the content of a conversation file, which the messages call `name`.

    Raises:
        InvalidFile: as for `read_conversation`.
    """
    source = source.removeprefix(b"\xef\xbb\xbf")
    try:
        record = orjson.loads(source)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: " if error.doc else ""
        raise InvalidFile(f"{name}: {where}not JSON: {error.msg}") from None
    return _FileReader(name).conversation(record)


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            source = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InvalidFile(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(source) > MAX_BYTES:
        raise InvalidFile(f"{path} is larger than {MAX_BYTES >> 20} MiB: no conversation is; split it")
    return source


class _FileReader:
    """Walks the record and knows where in it each value stands."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: dict[str, str] = {}

    def conversation(self, record: Any) -> Conversation:
        top = self._mapping(record, "the file")
        speakers = self._text(top, "speaker_a"), self._text(top, "speaker_b")
        for at, speaker in zip(("speaker_a", "speaker_b"), speakers, strict=True):
            if not speaker.strip():
                self._refuse(at, "is empty: it is somebody's name")
        if speakers[0] == speakers[1]:
            self._refuse("speaker_b", "is the same as speaker_a: a conversation has two people")
        numbers = self._numbers(top)
        return Conversation(speakers, tuple(self._session(top, number, speakers) for number in numbers))

    def _numbers(self, top: Mapping[str, Any]) -> list[int]:
        parts: dict[int, set[str]] = {}
        for key in top:
            found = _SESSION.fullmatch(key)
            if found:
                parts.setdefault(int(found[1]), set()).add(found[2] or "")
            elif key.startswith("session_"):
                self._refuse(key, "is no part of a session: those are session_N, _date_time, _observation and _summary")
        for number, found_parts in sorted(parts.items()):
            if "" not in found_parts and "_observation" in found_parts:
                self._refuse(f"session_{number}", "is missing, but there are observations of it")
        numbers = sorted(number for number, found_parts in parts.items() if "" in found_parts)
        if not numbers:
            self._refuse("session_1", "is missing: a conversation has at least one session, a list of turns")
        return numbers

    def _session(self, top: Mapping[str, Any], number: int, speakers: tuple[str, str]) -> Session:
        at = f"session_{number}"
        started = self._date(top, f"{at}_date_time")
        turns = tuple(
            self._turn(entry, f"{at}[{index}]", started + timedelta(seconds=index), speakers)
            for index, entry in enumerate(self._list(top[at], at))
        )
        said = [[turn.speaker, turn.dia_id, turn.text, turn.extra] for turn in turns]
        key = _digest([*speakers, number, started.isoformat(), said])
        summary = self._text(top, f"{at}_summary") if f"{at}_summary" in top else None
        after = started + timedelta(seconds=len(turns))
        return Session(key, number, started, summary, turns, tuple(self._observations(top, at, after, speakers)))

    def _turn(self, entry: Any, at: str, said_at: datetime, speakers: tuple[str, str]) -> Turn:
        record = self._mapping(entry, at)
        speaker = self._text(record, "speaker", at)
        if speaker not in speakers:
            self._refuse(f"{at}.speaker", f"is {_short(speaker)}, who is neither speaker_a nor speaker_b")
        dia_id = self._text(record, "dia_id", at)
        if not _DIA_ID.fullmatch(dia_id):
            self._refuse(f"{at}.dia_id", f'is {_short(dia_id)}, not of the form "D3:7"')
        if dia_id in self._seen:
            self._refuse(f"{at}.dia_id", f"is {dia_id}, as that of {self._seen[dia_id]} is: each turn has its own")
        self._seen[dia_id] = at
        extra = {key: value for key, value in record.items() if key not in _NAMED}
        self._storable(extra, at)
        return Turn(speaker, dia_id, self._text(record, "text", at), said_at, extra)

    def _observations(
        self, top: Mapping[str, Any], at: str, after: datetime, speakers: tuple[str, str]
    ) -> list[Observation]:
        at = f"{at}_observation"
        found: list[Observation] = []
        twins: Counter[str] = Counter()
        for speaker, entries in self._mapping(top.get(at, {}), at).items():
            if speaker not in speakers:
                self._refuse(at, f"is about {_short(speaker)}, who is neither speaker_a nor speaker_b")
            for index, entry in enumerate(self._list(entries, f"{at}.{speaker}")):
                sentence, evidence = self._observation(entry, f"{at}.{speaker}[{index}]")
                key = _digest([speaker, sentence, evidence])
                twins[key] += 1  # the same sentence twice is two observations
                key = key if twins[key] == 1 else _digest([key, twins[key]])
                found.append(Observation(key, speaker, sentence, after + timedelta(seconds=len(found)), evidence))
        return found

    def _observation(self, entry: Any, at: str) -> tuple[str, tuple[str, ...]]:
        match entry:
            case [str(sentence), str(named)]:
                named = [named]
            case [str(sentence), [*named]] if all(isinstance(each, str) for each in named):
                pass
            case _:
                self._refuse(at, "is not [sentence, dia_id] or [sentence, [dia_id, ...]]")
        self._storable(sentence, at)
        if not sentence.strip():
            self._refuse(at, "has an empty sentence")
        # People wrote these by hand: "D8:6; D9:17" is two.
        return sentence, tuple(dict.fromkeys(id for each in named for id in _DIA_ID.findall(each)))

    def _date(self, top: Mapping[str, Any], key: str) -> datetime:
        found = _DATE.fullmatch(self._text(top, key).strip())
        try:
            if found is None:
                raise ValueError("no date")  # noqa: TRY301  # one answer for whatever is wrong with it
            hour, minute, day, year = (int(found[group]) for group in (1, 2, 4, 6))
            if not (1 <= hour <= 12 and year < 9999):  # turns follow by the second, and years end at 9999
                raise ValueError("no date")  # noqa: TRY301
            month = _MONTHS.index(found[5]) + 1
            return datetime(year, month, day, hour % 12 + 12 * (found[3] == "pm"), minute, tzinfo=UTC)
        except ValueError:
            self._refuse(key, f'is {_short(top[key])}, not a time like "1:47 pm on 18 May, 2023"')

    def _mapping(self, value: Any, at: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self._refuse(at, f"is {_kind(value)}, not an object")
        return value

    def _list(self, value: Any, at: str) -> list[Any]:
        if not isinstance(value, list):
            self._refuse(at, f"is {_kind(value)}, not a list")
        return value

    def _text(self, record: Mapping[str, Any], key: str, at: str | None = None) -> str:
        where = f"{at}.{key}" if at else key
        if key not in record:
            self._refuse(where, "is missing")
        if not isinstance(record[key], str):
            self._refuse(where, f"is {_kind(record[key])}, not text")
        self._storable(record[key], where)
        return str(record[key])

    def _storable(self, value: Any, at: str) -> None:
        try:
            canonical_json(value, at)
        except InvalidDatum as error:
            raise InvalidFile(f"{self._name}: {error}") from None

    def _refuse(self, at: str, problem: str) -> NoReturn:
        raise InvalidFile(f"{self._name}: {at} {problem}")


def _digest(value: Any) -> str:
    return blake3(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]


def _short(value: Any) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
