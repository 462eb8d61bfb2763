"""Agents: computation that composes, with state that is kept and streams that flow through it."""

from __future__ import annotations

from dgent.agents.agent import Agent, Id, Identity
from dgent.agents.data_agent import DataAgent, Saved
from dgent.agents.flow import FluxState
from dgent.agents.flux import Flux, FluxAgent
from dgent.agents.functor_laws import Functor
from dgent.agents.functor_registry import FunctorRegistry, LawReport
from dgent.agents.state_functor import StatefulAgent, StateFunctor, Symbiont

__all__ = [
    "Agent",
    "DataAgent",
    "Flux",
    "FluxAgent",
    "FluxState",
    "Functor",
    "FunctorRegistry",
    "Id",
    "Identity",
    "LawReport",
    "Saved",
    "StateFunctor",
    "StatefulAgent",
    "Symbiont",
]
