"""The one migration environment, for the `alembic` command and for `dgent.migrations`."""

from __future__ import annotations

from logging.config import fileConfig
from typing import TYPE_CHECKING, Any

from alembic import context
from alembic.util import CommandError

from dgent import migrations
from dgent.exceptions import DgentError
from dgent.models import Base
from dgent.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

config = context.config
if config.config_file_name:  # a checkout: the deployment's own tables are part of the schema
    import models  # noqa: F401


def configure(**where: Any) -> None:
    context.configure(
        target_metadata=Base.metadata,
        version_table=migrations.VERSION_TABLE,
        include_name=lambda name, type_, _: type_ != "table" or name in Base.metadata.tables,
        on_version_apply=migrations.refuse_downgrade,
        transactional_ddl=True,
        render_as_batch=True,
        compare_type=True,
        compare_server_default=True,
        user_module_prefix="types.",
        **where,
    )


def online(connection: Connection) -> None:
    configure(connection=connection)
    migrations.refuse_newer(context.get_context().get_current_heads(), context.script)
    with context.begin_transaction():
        context.run_migrations()


def offline() -> None:
    configure(dialect_name=Settings.load().url.get_backend_name(), literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def command() -> None:
    """Run for the `alembic` command, which prints a CommandError as one line."""
    if config.config_file_name and config.cmd_opts:
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    try:
        if context.is_offline_mode():
            offline()
        else:
            migrations.run(Settings.load(), online, context.script)
    except DgentError as error:
        raise CommandError(str(error)) from None


if "connection" in config.attributes:
    online(config.attributes["connection"])
else:
    command()
