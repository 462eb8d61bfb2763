"""`kg db`: the schema of the typed tables."""

from __future__ import annotations

from typing import Annotated

import typer

from dgent.cli.command import Kg, command

app = typer.Typer(help="The schema of the typed tables.", no_args_is_help=True)
Revision = Annotated[str, typer.Argument(help="A revision; +1 and -1 are relative.")]


@app.command()
@command
async def upgrade(kg: Kg, revision: Revision = "head") -> None:
    """Run the migrations up to a revision, all or none."""
    from dgent import migrations

    before = await migrations.current(kg.settings)
    reached = await migrations.upgrade(kg.settings, revision)
    kg.answer({"before": before, "revision": reached}, _moved(before, reached))


@app.command()
@command
async def downgrade(kg: Kg, revision: Revision = "-1") -> None:
    """Run the migrations down to a revision. It takes KGENTS_ENVIRONMENT=development."""
    from dgent import migrations

    before = await migrations.current(kg.settings)
    reached = await migrations.downgrade(kg.settings, revision)
    kg.answer({"before": before, "revision": reached}, _moved(before, reached))


@app.command()
@command
async def current(kg: Kg) -> None:
    """Show the revision that the database is at."""
    from dgent import migrations

    found = await migrations.current(kg.settings)
    kg.answer({"revision": found, "head": migrations.head()}, f"{found or 'no revision'} (head: {migrations.head()})")


@app.command()
@command
async def history(kg: Kg) -> None:
    """List the revisions that this version knows, oldest first."""
    from dgent import migrations
    from dgent.cli.output import grid

    steps = migrations.history()
    table = grid("revision", "after", "what it brings")
    for step in steps:
        table.add_row(step.revision, step.previous or "", step.message)
    kg.answer(steps, table)


@app.command()
@command
async def check(kg: Kg) -> None:
    """Fail unless the schema is what this version needs."""
    from dgent import migrations

    await migrations.check(kg.settings)
    kg.answer(
        {"revision": migrations.head(), "ok": True}, f"{migrations.head()}: the schema is what this version needs"
    )


@app.command()
@command
async def revision(
    kg: Kg,
    message: Annotated[str, typer.Option("--message", "-m", help="What it brings.")],
    autogenerate: Annotated[bool, typer.Option("--autogenerate", help="Take what the models have anew.")] = False,
) -> None:
    """Write the script of a new revision, in a checkout."""
    from dgent import migrations

    script = await migrations.revision(message, autogenerate=autogenerate, target=kg.settings)
    kg.answer({"path": script}, f"written: {script}")


def _moved(before: str | None, after: str | None) -> str:
    if before == after:
        return f"{after or 'no revision'}: nothing to do"
    return f"{before or 'no revision'} -> {after or 'no revision'}"
