"""What a store can do, as data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from dgent.exceptions import CapabilityMissing


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, as data: tests and callers ask here, never by name or dialect.

    Attributes:
        durable: an acknowledged write survives the process.
        history: superseded versions stay readable.
        transactions: it takes part in a transaction with the typed tables.
        shared: several processes may write it at once.
        ttl: a datum can expire.
        schema_free: any content and any metadata are stored as they are.
        causal: it keeps causal parents.
        versioned: `expect=` is honoured.
        indexed: queries by tag and metadata path use an index.
        writable: it takes writes now; a standby, or a role that may only read, does not.
        notify: another process hears of a commit without polling.
        full_text: it searches text.
        vector: it searches vectors.
    """

    durable: bool = True
    history: bool = True
    transactions: bool = True
    shared: bool = True
    ttl: bool = True
    schema_free: bool = True
    causal: bool = True
    versioned: bool = True
    indexed: bool = True
    writable: bool = True
    notify: bool = False
    full_text: bool = False
    vector: bool = False

    def missing(self, *names: str) -> list[str]:
        """Return which of these capabilities are absent.

        Raises:
            AttributeError: a name is no capability.
        """
        return [name for name in names if not getattr(self, name)]

    def require(self, name: str, who: str) -> None:
        """Raise CapabilityMissing if the capability is absent; `who` is named in the message."""
        if not getattr(self, name):
            raise self.refusal(name, who)

    def refusal(self, name: str, who: str) -> CapabilityMissing:
        """Return the error for what a store without the capability is asked."""
        lacks, remedy = (_OF_STORES if self.schema_free else _OF_TABLES).get(name, _OTHER)
        return CapabilityMissing(f"{who} {lacks.format(name=name)}: {remedy}")

    def __str__(self) -> str:
        return ", ".join(entry.name for entry in fields(self) if getattr(self, entry.name)) or "none"


_OTHER: Final = ("cannot do {name}", "ask its capabilities, and use a store that can")
_OF_STORES: Final = {
    "durable": ("forgets all when the program ends", "use the SQLite, the PostgreSQL or the JSONL store"),
    "history": (
        "keeps one version of each datum",
        "use a store that has a history, such as SQLite, PostgreSQL or JSONL",
    ),
    "transactions": ("takes no part in a transaction", "keep it in the database of the tables, SQLite or PostgreSQL"),
    "ttl": ("lets nothing expire", "leave out ttl, and delete it when its time has come"),
    "causal": ("keeps no causal parents", "use a store that does, such as SQLite, PostgreSQL or JSONL"),
    "versioned": ("compares no versions", "leave out expect, or use SQLite, PostgreSQL or JSONL directly"),
    "notify": ("does not tell other processes of a commit", "use PostgreSQL, or ask now and then by seq"),
    "full_text": ("has no index of text", "query by tag, metadata or JSON path"),
    "vector": ("has no index of vectors", "keep the vectors in a store that is made for them"),
}
_OF_TABLES: Final = {
    **_OF_STORES,
    "versioned": ("counts no versions of its rows", "add VersionMixin to its model, and a migration for the column"),
    "causal": ("keeps no parent of a row", "add CausalMixin to its model, and a migration for the column"),
    "history": ("keeps one version of each row", "put into agent memory what needs a history"),
    "ttl": ("lets no row expire", "put into agent memory what should, or delete the row when its time has come"),
}
"""For each capability: what a store without it does, and what to do about it."""
