"""What declares schemas and tables besides D-gent: the modules of the settings, and the `models/` of a checkout."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from dgent.exceptions import InvalidSettings
from dgent.migrations import script_location

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def import_modules(names: Iterable[str], folder: Path | None) -> None:
    """Import modules by name, from a folder as well, and the `models/` of the checkout that this is.

    Raises:
        InvalidSettings: one of them cannot be imported.
    """
    checkout = script_location().parent
    if (checkout / "alembic.ini").is_file() and (checkout / "models" / "__init__.py").is_file():
        _import("models", str(checkout))
    for name in names:
        _import(name, None if folder is None else str(folder))


def _import(name: str, folder: str | None) -> None:
    added = folder is not None and folder not in sys.path
    if folder is not None and added:
        sys.path.append(folder)
    try:
        import_module(name)
    except Exception as error:
        raise InvalidSettings(f"the module {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if folder is not None and added:
            sys.path.remove(folder)
