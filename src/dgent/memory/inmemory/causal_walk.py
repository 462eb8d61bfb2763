"""Causal chains in memory: what led to a datum, as it is live, as it was at a time, or when a version was stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgent.exceptions import LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dgent.datum import Datum
    from dgent.memory.inmemory.namespace_state import NamespaceState, StoredVersion


def causal_chain(
    state: NamespaceState, id: str, version: int | None, as_of: float | None, limit: int | None, most: int
) -> list[Datum]:
    """Return the nearest `limit` of the datum and its ancestors, oldest first: see `DgentProtocol.causal_chain`.

    Raises:
        LimitExceeded: there are more than `most`.
    """
    chain: dict[tuple[str, int], Datum] = {}  # each once: a clock that went back may have brought a cycle to life
    for stored in _upwards(state, id, version, as_of):
        key = (stored.id, stored.version)
        if stored.datum is None or key in chain or len(chain) == limit:
            break
        if len(chain) == most:
            raise LimitExceeded(f"the causal chain of {id!r} is longer than {most:,}: raise the setting max_chain")
        chain[key] = stored.datum
    return list(chain.values())[::-1]


def _upwards(state: NamespaceState, id: str, version: int | None, as_of: float | None) -> Iterator[StoredVersion]:
    """Go from a version to its parent, and on; round and round in a cycle."""

    def found(id: str) -> StoredVersion | None:
        return state.stored(id, version) if as_of is None else state.stored_at_time(id, as_of)

    stored = found(id)
    while stored is not None:
        yield stored
        above = stored.parent
        if above is None:
            return
        stored = found(above) if version is None else state.stored_before(above, stored.seq, stored.stored_at)
