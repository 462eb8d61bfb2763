"""A bar for work that takes a while: on stderr, and only where somebody looks at a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress(what: str, total: float | None) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; call what it gives with how much was done since the last time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from dgent.cli.output import clean

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(clean(what), total=total)
        yield lambda amount: bar.advance(task, amount)
