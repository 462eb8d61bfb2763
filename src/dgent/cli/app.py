"""The tree of commands and the options that stand before all of them."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # typer reads the annotations at run time
from typing import Annotated

import typer

from dgent.cli import config, crystal, db, export_import, functor, log, memory, services, stores
from dgent.cli import set_aside as aside
from dgent.cli import status as status_command
from dgent.cli.command import Json, Kg

app = typer.Typer(
    help="D-gent: agent memory and typed tables in one database.",
    epilog="Exit codes: 0 ok, 1 refused or failed, 2 usage, 3 not found, 4 conflict, 5 permission, 6 unavailable or"
    " timeout, 7 corrupt, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help is there in half the time
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed

        try:
            print(f"kg (dgent) {installed('dgent')}")
        except PackageNotFoundError:
            print("kg (dgent), from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    data_dir: Annotated[Path | None, typer.Option(help="Where databases and files lie.")] = None,
    database_url: Annotated[
        str | None, typer.Option(help="The database. A URL with a password belongs into KGENTS_DATABASE_URL.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="The namespace of agent memory.")] = None,
    import_: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="<str>", help="A Python module that declares schemas or tables; may be given again."
        ),
    ] = None,
    json: Json = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Keep the global options for the command that follows."""
    modules = tuple(import_) if import_ else None
    overrides = {"data_dir": data_dir, "database_url": database_url, "namespace": namespace, "modules": modules}
    context.obj = Kg(overrides, json=json, traceback=traceback)


app.command("status")(status_command.status)
app.add_typer(db.app, name="db")
app.add_typer(memory.app, name="memory")
app.command("data")(services.data)
app.add_typer(services.town, name="town")
app.add_typer(services.brain, name="brain")
app.add_typer(crystal.app, name="crystal")
app.add_typer(log.app, name="log")
app.add_typer(functor.app, name="functor")
app.add_typer(config.app, name="config")
app.add_typer(stores.app, name="stores")
memory.app.command("export")(export_import.export)
memory.app.command("import")(export_import.import_)
memory.app.command("set-aside")(aside.set_aside)
memory.app.command("retry")(aside.retry)
memory.app.command("discard")(aside.discard)
