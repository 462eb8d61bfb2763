"""Crystals: versioned schemas over schema-free memory, and the road from there to a typed table and back."""

from __future__ import annotations

from dgent.crystal import default_schemas  # declares them
from dgent.crystal.crystal import Crystal, CrystalMeta, Ref
from dgent.crystal.mixin import DataMixin
from dgent.crystal.schema import Contract, Schema
from dgent.crystal.schema_registry import DECLARED, Schemas, schema
from dgent.crystal.universe import CrystalPage, Universe, Unreadable, get_universe, set_universe
from dgent.crystal.upgrade import UpgradeReport

__all__ = [
    "DECLARED",
    "Contract",
    "Crystal",
    "CrystalMeta",
    "CrystalPage",
    "DataMixin",
    "Ref",
    "Schema",
    "Schemas",
    "Universe",
    "Unreadable",
    "UpgradeReport",
    "default_schemas",
    "get_universe",
    "schema",
    "set_universe",
]
