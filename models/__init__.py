"""The checkout's face of the typed tables, and the place for a deployment's own.

`models.brain.Crystal` is `dgent.models.brain.Crystal`. A table that you add in a module imported below is seen by
`alembic revision --autogenerate`. This package is not in the wheel.
"""

from __future__ import annotations

from dgent.models.base import Base
from models import brain, gardener, self_grow, town

__all__ = ["Base", "brain", "gardener", "self_grow", "town"]
