"""Promotion: a schema that has settled becomes a typed table, as a person would have written it."""

from __future__ import annotations

from dgent.crystal.promotion.promote import PromotionReport, promote

__all__ = ["PromotionReport", "promote"]
