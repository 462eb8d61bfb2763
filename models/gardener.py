"""`dgent.models.gardener` under the name that a checkout uses."""

from __future__ import annotations

from dgent.models.gardener import LIFECYCLE, GardenerSession, GardenIdea, GardenPlot

__all__ = ["LIFECYCLE", "GardenIdea", "GardenPlot", "GardenerSession"]
