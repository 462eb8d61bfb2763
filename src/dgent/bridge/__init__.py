"""The bridge between the two tracks: typed tables as stores of datums, and transactions over both."""

from __future__ import annotations

from dgent.bridge.maintenance import MaintainedTables
from dgent.bridge.outbox import Outbox
from dgent.bridge.table_adapter import TableAdapter
from dgent.bridge.table_registry import TableRegistry
from dgent.bridge.unit_of_work import UnitOfWork, unit_of_work

__all__ = ["MaintainedTables", "Outbox", "TableAdapter", "TableRegistry", "UnitOfWork", "unit_of_work"]
