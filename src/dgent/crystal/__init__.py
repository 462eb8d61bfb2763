"""Crystals: versioned schemas over schema-free memory, and the road from there to a typed table and back."""

from __future__ import annotations

from dgent.crystal import schemas  # declares them
from dgent.crystal.crystal import Crystal, CrystalMeta, Ref
from dgent.crystal.mixin import DataMixin
from dgent.crystal.registry import DECLARED, Schemas, schema
from dgent.crystal.schema import Contract, Schema
from dgent.crystal.universe import Crystals, Universe, Unreadable, get_universe, set_universe
from dgent.crystal.upgrade import Upgrade

__all__ = [
    "DECLARED",
    "Contract",
    "Crystal",
    "CrystalMeta",
    "Crystals",
    "DataMixin",
    "Ref",
    "Schema",
    "Schemas",
    "Universe",
    "Unreadable",
    "Upgrade",
    "get_universe",
    "schema",
    "schemas",
    "set_universe",
]
