"""The engine of a synchronous program on PostgreSQL: psycopg, by the same URL and settings as the asynchronous one."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from dgent.exceptions import CapabilityMissing
from dgent.sql.postgres.session_settings import local_settings, make_schema, opening_settings
from dgent.sql.postgres.url_options import read_url

if TYPE_CHECKING:
    from dgent.settings import Settings

_OURS: Final = frozenset({"database"})
"""Names in a URL that asyncpg and SQLAlchemy know, and libpq does not."""


def create_sync_engine(settings: Settings) -> Engine:
    """Return an engine over psycopg for what the settings name: its URL, its schema, its timeouts.

    Raises:
        InvalidSettings: an option in the URL is unknown.
        CapabilityMissing: psycopg is not installed.
    """
    target = read_url(settings.url, settings)
    psycopg = _load_driver()
    state = opening_settings(target)
    given = f"{target.url.query['options']} " if "options" in target.url.query else ""

    def connect() -> Any:
        driver = psycopg.connect(
            _dsn(target.url),
            connect_timeout=max(1, round(target.settings.connect_timeout)),
            prepare_threshold=None if target.pooled else 5,
            **(
                {"application_name": state["application_name"]}
                if target.pooled
                else {"options": given + _options(state)}
            ),
        )
        if settings.database_schema is not None:
            with driver.transaction():
                driver.execute(make_schema(settings.database_schema))
        return driver

    engine = create_engine("postgresql+psycopg://", creator=connect, hide_parameters=True)
    if target.pooled:
        begin = local_settings(target)

        @event.listens_for(engine, "begin")
        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

    return engine


def _dsn(url: URL) -> str:
    kept = {name: value for name, value in url.query.items() if name not in _OURS | {"options"}}
    if "database" in url.query:
        kept.setdefault("dbname", url.query["database"])
    return url.set(drivername="postgresql", query=kept).render_as_string(hide_password=False)


def _options(settings: dict[str, str]) -> str:
    escaped = {name: value.replace("\\", "\\\\").replace(" ", "\\ ") for name, value in settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())


def _load_driver() -> Any:
    try:
        return importlib.import_module("psycopg")
    except ModuleNotFoundError:
        raise CapabilityMissing("a synchronous program needs psycopg: run `pip install 'psycopg[binary]'`") from None
