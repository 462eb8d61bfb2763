"""Which of the shipped tables agents may read, unless their umwelt says otherwise."""

from __future__ import annotations

from typing import Final

from dgent.models import (
    Base,
    BrainSetting,
    Citizen,
    CitizenConversation,
    ConversationTurn,
    Crystal,
    CrystalMixin,
    GardenerSession,
    GardenIdea,
    GardenPlot,
)

# Not the tables of self.grow, by which an agent would judge itself, and not the tag index, which follows its crystals.
AGENT_TABLES: Final[tuple[type[Base], ...]] = (
    Crystal,
    BrainSetting,
    Citizen,
    CitizenConversation,
    ConversationTurn,
    GardenPlot,
    GardenerSession,
    GardenIdea,
)
"""The models that a storage registers when it opens."""


def promoted() -> list[type[Base]]:
    """Return the models that hold promoted crystals: what agents could read in memory, they may read in a table."""
    found: list[type[Base]] = []
    for model in (mapper.class_ for mapper in Base.registry.mappers):
        if issubclass(model, CrystalMixin) and issubclass(model, Base) and model.metadata is Base.metadata:
            found.append(model)  # noqa: PERF401  # as a comprehension it is two lines of conditions
    return found
