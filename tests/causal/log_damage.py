"""A small log, each bit of it, and what else can be done to it past the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, exc
from tests.causal.log_locations import Row, chain, first_bad, split

if TYPE_CHECKING:
    from dgent.causal.hash_chain import Format

LOGS = {
    ("s1", "a"): [b"one", b"", b"\xff3"],
    ("s1", "bé"): [b"x" * 40, b"one"],
    ("t", "a"): [b"\0", b"two", b"two", b"2"],
}
TOP = 2**63


def small(format: Format) -> list[Row]:
    return [row for place, payloads in LOGS.items() for row in chain(format.name, *place, payloads)]


def is_prefix(rows: list[Row], format: Format) -> bool:
    """Tell whether rows are what was written, but for the ends of logs."""
    return all(
        found == chain(format.name, *place, LOGS.get(place, []))[: len(found)] for place, found in split(rows).items()
    )


def bad(format: Format, rows: list[Row]) -> dict[Any, int | None]:
    return {place: first_bad(format.name, log) for place, log in split(rows).items()}


def flips(value: Any) -> int:
    if value is None:
        return 0
    return 64 if isinstance(value, int) else 8 * len(value.encode() if isinstance(value, str) else value)


def flipped(value: Any, bit: int) -> Any:
    """Return a value with one bit changed; a text that is none any more as bytes."""
    if isinstance(value, int):
        return ((value ^ (1 << bit)) + TOP) % (2 * TOP) - TOP
    data = bytearray(value.encode() if isinstance(value, str) else value)
    data[bit // 8] ^= 1 << bit % 8
    if isinstance(value, bytes):
        return bytes(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return bytes(data)


def store(connection: Connection, format: Format, row: Row, column: str, value: Any) -> bool:
    """Change a column of a row past the library; False if the database does not take it."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    if mark == "%s" and column in {"stream", "writer"} and isinstance(value, bytes):
        return False
    new = f"CAST({mark} AS TEXT)" if mark == "?" and column in {"stream", "writer"} else mark
    update = (
        f"UPDATE {format.table.name} SET {column} = {new} WHERE stream = {mark} AND writer = {mark} AND seq = {mark}"
    )
    if mark == "?" and isinstance(value, str):
        value = value.encode()  # CAST takes the bytes as they are
    try:
        return connection.exec_driver_sql(update, (value, *row[:3])).rowcount == 1
    except exc.DBAPIError:  # the seq is taken, or PostgreSQL refuses a text that is none
        return False


def without(rows: list[Row], i: int) -> list[Row]:
    return rows[:i] + rows[i + 1 :]


def move_log(rows: list[Row], i: int, j: int) -> list[Row]:
    """Give a whole log the name of another stream, or of another writer."""
    stream, writer = rows[i][:2]
    to = ("elsewhere", writer) if j % 2 else (stream, "else")
    return [(*to, *row[2:]) if row[:2] == (stream, writer) else row for row in rows]


def renumbered(rows: list[Row], i: int, change: Any) -> list[Row]:
    return [(*row[:2], change(row[2]), *row[3:]) if row[:2] == rows[i][:2] else row for row in rows]


def last_of(rows: list[Row], j: int) -> Row:
    return max((row for row in rows if row[:2] == rows[j][:2]), key=lambda row: row[2])


def with_column(rows: list[Row], i: int, column: int, value: Any) -> list[Row]:
    return [(*row[:column], value, *row[column + 1 :]) if at == i else row for at, row in enumerate(rows)]


def swapped(rows: list[Row], i: int, j: int) -> list[Row]:
    """Exchange what two entries hold, of one log or of two; their places stay."""
    found = list(rows)
    found[i], found[j] = (*rows[i][:3], *rows[j][3:]), (*rows[j][:3], *rows[i][3:])
    return found


def add_copy(rows: list[Row], i: int, j: int) -> list[Row]:
    place = last_of(rows, j)
    return [*rows, (*place[:2], place[2] + 1, *rows[i][3:])]


DAMAGE = {
    "swap two entries": swapped,
    "swap two payloads": lambda rows, i, j: with_column(with_column(rows, i, 5, rows[j][5]), j, 5, rows[i][5]),
    "take one out": lambda rows, i, j: without(rows, i),
    "take the front out": lambda rows, i, j: [row for row in rows if row[:2] != rows[i][:2] or row[2] > rows[i][2]],
    "leave a gap": lambda rows, i, j: renumbered(rows, i, lambda seq: seq + (seq >= rows[i][2])),
    "close a gap": lambda rows, i, j: renumbered(without(rows, i), i - 1, lambda seq: seq - (seq > rows[i][2])),
    "reverse": lambda rows, i, j: renumbered(rows, i, lambda seq: last_of(rows, i)[2] + 1 - seq),
    "count from 0": lambda rows, i, j: renumbered(rows, i, lambda seq: seq - 1),
    "begin below all": lambda rows, i, j: with_column(rows, i, 2, -TOP),
    "write one again": add_copy,
    "move one behind another log": lambda rows, i, j: without(add_copy(rows, i, j), i),
    "move one to a log of its own": lambda rows, i, j: with_column(with_column(rows, i, 0, "new"), i, 2, 1),
    "move a log": move_log,
    "no hash before": lambda rows, i, j: with_column(rows, i, 3, None),
    "an empty hash before": lambda rows, i, j: with_column(rows, i, 3, b""),
    "a short hash": lambda rows, i, j: with_column(rows, i, 4, rows[i][4][: j + 1]),
    "another's payload": lambda rows, i, j: with_column(rows, i, 5, rows[j][5]),
}  # fmt: skip
OTHER_TYPES = {
    "payload as text": lambda rows, i, j: with_column(rows, i, 5, ["one", "", "é"][j % 3]),
    "payload as a number": lambda rows, i, j: with_column(rows, i, 5, j),
    "hash as text": lambda rows, i, j: with_column(rows, i, 4, "x"),
    "hash before as text": lambda rows, i, j: with_column(rows, i, 3, "x"),
    "seq as a fraction": lambda rows, i, j: with_column(rows, i, 2, rows[i][2] + 0.5),
    "seq below every number": lambda rows, i, j: with_column(rows, i, 2, float("-inf")),
    "seq as text": lambda rows, i, j: with_column(rows, i, 2, f"x{i}"),
}
