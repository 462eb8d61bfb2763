"""The faces by name, for annotations. Their types for a checker stand in `faces.pyi`, which `make docs` writes."""

from __future__ import annotations

from dgent.bridge import TableAdapter, TableRegistry, UnitOfWork
from dgent.causal import AsyncGeneration, AsyncLog
from dgent.crystal import Universe
from dgent.memory.event_bus import BusSubscription, DataBus, Listener
from dgent.memory.failover.router import DgentRouter
from dgent.sql.sql_store import SqlStore
from dgent.storage import RelationalStore, StorageProvider
from dgent.store import Backend, DgentProtocol
from dgent.store_base import BackendBase, StoreBase
from dgent.sync.face import face_class

SyncDgentProtocol = face_class(DgentProtocol)
SyncBackend = face_class(Backend)
SyncStoreBase = face_class(StoreBase)
SyncBackendBase = face_class(BackendBase)
SyncDgentRouter = face_class(DgentRouter)
SyncTableAdapter = face_class(TableAdapter)
SyncTableRegistry = face_class(TableRegistry)
SyncRelationalStore = face_class(RelationalStore)
SyncSqlStore = face_class(SqlStore)
SyncLog = face_class(AsyncLog)
SyncGeneration = face_class(AsyncGeneration)
SyncUniverse = face_class(Universe)
SyncBusSubscription = face_class(BusSubscription)
SyncListener = face_class(Listener)
SyncDataBus = face_class(DataBus)
SyncUnitOfWork = face_class(UnitOfWork)
SyncStorageProvider = face_class(StorageProvider)
