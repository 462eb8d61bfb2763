"""How long it takes to start: `import dgent` against SQLAlchemy's import, `kg --help` against typer's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from benchmarks.measure import Case


def _run(*arguments: str) -> Callable[[], int]:
    def run() -> int:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return 1

    return run


async def cases(folder: Path, size: int) -> AsyncIterator[Case]:
    """Yield the cases; a ratio of 0.67 is 1.5 times the floor's time."""

    async def imported() -> int:
        return _run("-c", "import dgent")()

    async def helped() -> int:
        return _run("-m", "dgent.cli", "--help")()

    yield Case("import dgent", "import sqlalchemy", 1 / 1.5, imported, _run("-c", "import sqlalchemy"))
    yield Case("kg --help", "import typer", 1 / 2, helped, _run("-c", "import typer"))
