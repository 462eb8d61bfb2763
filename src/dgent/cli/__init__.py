"""The `kg` command: look at both tracks, change them, move them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `kg` with these arguments, those of the process by default, and exit with its code."""
    try:
        import rich  # noqa: F401  # said here, once, instead of by whichever command needs it first
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"rich", "typer"}:
            raise
        print("kg needs typer and rich: run `pip install dgent[cli]`", file=sys.stderr)
        sys.exit(2)
    from dgent.cli.app import app

    app(args=arguments, prog_name="kg")
