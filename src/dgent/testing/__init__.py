"""The contract of `DgentProtocol` as a test class: whoever writes a backend inherits it and proves the laws.

Needs pytest, pytest-asyncio and hypothesis; nothing else in the package imports this one. The laws are imported when
the class is asked for: they take the number of their examples from the profile of hypothesis that is loaded then.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from dgent.testing.contract import DgentContract
    from dgent.testing.manual_clock import ManualClock
    from dgent.testing.reference_model import ReferenceModel

__all__ = ["DgentContract", "ManualClock", "ReferenceModel"]

# Before the laws are imported: then a law that fails shows what it compared.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))

_MODULES: Final = {"DgentContract": "contract", "ManualClock": "manual_clock", "ReferenceModel": "reference_model"}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
