"""`kg functor`: what is listed, what is verified, and how a broken law is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dgent.agents import Agent, Functor, functor_registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cli.run_kg import Runner


class AlwaysSeven:
    """Lifts every agent to one that answers 7."""

    def __init__(self, state: Any) -> None:
        self.initial = state

    def lift(self, agent: Agent[Any, Any]) -> Agent[Any, Any]:
        return Agent.from_function(lambda _: 7)

    async def run(self, lifted: Agent[Any, Any], inputs: Sequence[Any]) -> list[Any]:
        return [await lifted.invoke(each) for each in inputs]

    async def state(self) -> Any:
        return self.initial


def test_the_functors_are_listed(kg: Runner) -> None:
    assert [each["name"] for each in kg.json("functor", "list")] == ["state", "logic", "flux", "flux-state"]
    assert "logic with its state threaded" in kg("functor", "list").text


def test_one_or_all_are_verified(kg: Runner) -> None:
    shown = kg("functor", "verify", "state", "--samples", "5").text
    assert [line.split() for line in shown.splitlines()[2:]] == [
        ["state", "identity", "5", "yes"],
        ["state", "composition", "5", "yes"],
    ]
    reports = kg.json("functor", "verify", "--all", "--samples", "3")
    assert [report["ok"] for report in reports] == [True] * 4
    assert {law["samples"] for report in reports for law in report["laws"]} == {3}


def test_nothing_is_written_by_looking(kg: Runner, clean_room: Any) -> None:
    kg("functor", "verify", "--all", "--samples", "3")
    assert not [path for path in clean_room.rglob("*") if path.is_file()]


def test_a_broken_law_ends_with_1_and_shows_where(kg: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(functor_registry.SHIPPED, "seven", Functor("wrong on purpose", AlwaysSeven))
    done = kg("functor", "verify", "seven", code=1)
    assert "seven breaks identity (seed 0): lift(Id) does not as Id" in done.text
    assert "outputs: [7" in done.text
    report = next(
        each for each in kg("functor", "verify", "--all", "--json", code=1).json if each["functor"] == "seven"
    )
    assert not report["ok"]
    assert report["laws"][0]["counterexample"]["left_did"]["outputs"] == [7]


def test_wrong_use_is_told(kg: Runner) -> None:
    assert "did you mean state" in kg("functor", "verify", "sate", code=3).err
    for wrong in ([], ["state", "--all"], ["state", "--samples", "0"]):
        kg("functor", "verify", *wrong, code=2)
