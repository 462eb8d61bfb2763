"""What an agent may reach: its surroundings, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from dgent.exceptions import InvalidInput

Right: TypeAlias = Literal["read", "write", "purge"]
"""What may be done: look; also put and delete; also erase for good. Each holds those before it."""

RIGHTS: Final[tuple[Right, ...]] = get_args(Right)
MEMORY: Final = "self.data"
EVERY_TABLE: Final = "self.data.table.*"
TableNames: TypeAlias = "str | type | Iterable[str | type]"
"""Names of tables or model classes, one or many; "*" is every registered table."""


class Grant(NamedTuple):
    """One right at one place: "self.data", "self.data.table.<table>" or "self.data.table.*".

    A table goes by any of its names until the umwelt meets the tables, by its name in the database from then on.
    """

    place: str
    right: Right


def table_place(table: str) -> str:
    """Return where a table lies, by its name in the database."""
    return f"{MEMORY}.table.{table}"


@dataclass(frozen=True, slots=True)
class Umwelt:
    """Who asks, and every right that it has; what is not granted is refused.

    Make it with `reader`, `of` or `owner`. Grants name a table as paths do: `brain_crystals`, `Crystal`, `crystal`.
    """

    who: str
    grants: frozenset[Grant]

    @classmethod
    def reader(cls, who: str = "agent") -> Umwelt:
        """Return one that reads agent memory and every registered table, and writes nothing: the default."""
        return cls.of(who)

    @classmethod
    def owner(cls, who: str = "owner") -> Umwelt:
        """Return one that may do everything everywhere, for a person at the command line."""
        return cls.of(who, memory="purge", purge="*")

    @classmethod
    def of(
        cls,
        who: str,
        *,
        memory: Right | None = "read",
        read: TableNames = "*",
        write: TableNames = (),
        purge: TableNames = (),
    ) -> Umwelt:
        """Return one with these rights: `Umwelt.of("alice", write=["brain_crystals"], memory="write")`.

        `memory` is the right on agent memory, None for none. `write` grants reading too, `purge` both. That a table is
        registered is looked at when a path is followed, and one that is not is an error there.

        Raises:
            InvalidInput: `memory` is no right, or a table is neither a name nor a model.
        """
        grants = set() if memory is None else set(_ladder(MEMORY, memory))
        for right, tables in (("read", read), ("write", write), ("purge", purge)):
            for table in _names(tables):
                grants.update(_ladder(table_place(table), right))
        return cls(who, frozenset(grants))

    def allows(self, place: str, right: Right) -> bool:
        """Tell whether this right is granted at this place."""
        everywhere = Grant(EVERY_TABLE, right) in self.grants and place.startswith(table_place(""))
        return everywhere or Grant(place, right) in self.grants

    def naming(self, place_of: Callable[[str], str]) -> Umwelt:
        """Return one whose grants name each place as `place_of` does, which raises where there is none."""
        return replace(self, grants=frozenset(Grant(place_of(grant.place), grant.right) for grant in self.grants))


def _ladder(place: str, right: str) -> list[Grant]:
    if right not in RIGHTS:
        raise InvalidInput(f"{right!r} is no right: use one of {', '.join(RIGHTS)}")
    return [Grant(place, held) for held in RIGHTS[: RIGHTS.index(right) + 1]]


def _names(tables: TableNames) -> list[str]:
    several = [tables] if isinstance(tables, str | type) else tables
    if not isinstance(several, Iterable):
        raise InvalidInput(f"tables are named by text or model, not by {type(several).__name__}")
    return [_name(table) for table in several]


def _name(table: object) -> str:
    name = getattr(table, "__tablename__", None) if isinstance(table, type) else table
    if not isinstance(name, str):
        raise InvalidInput(f"{table!r} is neither the name of a table nor a model")
    return name
