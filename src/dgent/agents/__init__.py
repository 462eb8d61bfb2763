"""Agents: computation that composes, with state that is kept and streams that flow through it."""

from __future__ import annotations

from dgent.agents.agent import Agent, Id, Identity
from dgent.agents.data import DataAgent, Saved
from dgent.agents.flow import FluxState
from dgent.agents.flux import Flux, FluxAgent
from dgent.agents.laws import Functor
from dgent.agents.registry import FunctorRegistry, Report
from dgent.agents.state import StatefulAgent, StateFunctor, Symbiont

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
    "Report",
    "Saved",
    "StateFunctor",
    "StatefulAgent",
    "Symbiont",
]
