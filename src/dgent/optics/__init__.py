"""Optics: ways into values, and into what stores hold, that read and write one part of them and leave the rest."""

from __future__ import annotations

from dgent.optics.factories import (
    as_json,
    at,
    attribute,
    each,
    field,
    filtered,
    identity,
    index,
    instance,
    key,
    path,
)
from dgent.optics.lens_agent import LensAgent
from dgent.optics.optic import MISSING, Lens, Missing, Optic, Prism, Traversal
from dgent.optics.optic_laws import Violation, check_lens, check_prism, check_traversal

__all__ = [
    "MISSING",
    "Lens",
    "LensAgent",
    "Missing",
    "Optic",
    "Prism",
    "Traversal",
    "Violation",
    "as_json",
    "at",
    "attribute",
    "check_lens",
    "check_prism",
    "check_traversal",
    "each",
    "field",
    "filtered",
    "identity",
    "index",
    "instance",
    "key",
    "path",
]
