"""`kg functor`: the functors that agents are lifted by, and whether they keep the functor laws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgent.cli.command import Kg, command, misused
from dgent.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dgent.agents.functor_laws import Counterexample
    from dgent.agents.functor_registry import LawReport

app = typer.Typer(help="The functors that agents are lifted by, and their laws.", no_args_is_help=True)


@app.command("list")
@command
async def list_(kg: Kg) -> None:
    """List the functors."""
    from dgent.agents.functor_registry import FunctorRegistry
    from dgent.cli.output import grid

    functors = FunctorRegistry().functors()
    table = grid("functor", "what it makes")
    for name, functor in functors.items():
        table.add_row(name, functor.about)
    kg.answer([{"name": name, "about": functor.about} for name, functor in functors.items()], table)


@app.command()
@command
async def verify(
    kg: Kg,
    name: Annotated[str | None, typer.Argument(help="The functor, as `kg functor list` names it.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every functor.")] = False,
    samples: Annotated[int, typer.Option(min=1, max=100_000, help="How many runs to look at for each law.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed draws the same agents, inputs and states.")] = 0,
) -> None:
    """Check the functor laws on generated runs. Exit 1 and show the run where one is broken."""
    from dgent.agents.functor_registry import FunctorRegistry

    registry = FunctorRegistry()
    if (name is None) is not all_:
        misused("name one functor, or give --all")
    if name is None:
        reports = await registry.verify_all(samples=samples, seed=seed)
    else:
        reports = [await registry.verify(name, samples=samples, seed=seed)]
    kg.answer([{"ok": report.ok, **_plain(report)} for report in reports], *_shown(reports))
    if not all(report.ok for report in reports):
        raise typer.Exit(ExitCode.FAILED)


def _plain(report: LawReport) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(report)


def _shown(reports: list[LawReport]) -> list[RenderableType]:
    from dgent.cli.output import grid

    table = grid("functor", "law", "samples", "holds")
    broken: list[RenderableType] = []
    for report in reports:
        for law in report.laws:
            table.add_row(report.functor, law.law, f"{law.samples:,}", "no" if law.counterexample else "yes")
            if law.counterexample is not None:
                broken += ["", *_explained(report, law.law, law.counterexample)]
    return [table, *broken]


def _explained(report: LawReport, law: str, found: Counterexample) -> list[str]:
    lines = [
        f"{report.functor} breaks {law} (seed {report.seed}): {found.left} does not as {found.right}",
        f"  inputs {found.inputs!r}, initial state {found.initial_state!r}",
    ]
    for name in found.differences():
        lines.append(f"  {name}: {getattr(found.left_did, name)!r}")
        lines.append(f"  {' ' * len(name)}  {getattr(found.right_did, name)!r}")
    return lines
