"""The contract of `DgentProtocol` as a test class: whoever writes a backend inherits it and proves the laws.

Needs pytest, pytest-asyncio and hypothesis; nothing else in the package imports this one.
"""

from __future__ import annotations

from pkgutil import iter_modules

import pytest

# Before the laws are imported: then a law that fails shows what it compared.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))

from dgent.testing.contract import DgentContract  # noqa: E402
from dgent.testing.manual_clock import ManualClock  # noqa: E402
from dgent.testing.reference_model import ReferenceModel  # noqa: E402

__all__ = ["DgentContract", "ManualClock", "ReferenceModel"]
