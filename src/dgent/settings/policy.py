"""Which database serves, as a program states it. The names are those of the `agent-store` crate."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict


class BackendKind(StrEnum):
    """What keeps the data: a file of this machine, which needs no daemon, or a server."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


Dialect: TypeAlias = BackendKind
"""The SQL that a backend speaks: each speaks its own."""
Value: TypeAlias = int | float | str | bytes | None
"""What goes into a statement and comes out of a row."""


class StorePolicy(BaseModel):
    """A flat policy, each field of which may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    backend: BackendKind = BackendKind.SQLITE
