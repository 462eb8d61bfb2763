"""Ideas in both tracks: law L-V2 against a model, and what concurrent gardeners may do."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgent.exceptions import Conflict, InvalidInput, LimitExceeded, NotFound
from dgent.models import LIFECYCLE, GardenIdea
from dgent.services import Gardener

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services.conftest import Lab

    from dgent.storage import StorageProvider

steps = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.none() | st.sampled_from(LIFECYCLE)),
        st.tuples(st.just("nurture"), st.floats(-1.5, 1.5) | st.sampled_from([float("nan"), 0.7, -0.7])),
        st.tuples(st.just("compost"), st.none()),
    ),
    max_size=12,
)


class Model:
    """What an idea is after each step; a step that is refused changes nothing."""

    def __init__(self, confidence: float) -> None:
        self.stage, self.confidence, self.content = 0, confidence, "seed"

    def step(self, verb: str, argument: Any) -> bool:
        if verb == "compost":
            self.stage = len(LIFECYCLE) - 1
        elif self.stage == len(LIFECYCLE) - 1:
            return False
        elif verb == "advance":
            if argument not in {None, LIFECYCLE[self.stage + 1]}:
                return False
            self.stage += 1
        else:
            if not -1 <= argument <= 1:
                return False
            self.confidence = max(0.0, min(1.0, self.confidence + argument))
            self.content += "\n\nnote"
        return True


async def apply(gardener: Gardener, id: str, verb: str, argument: Any) -> bool:
    try:
        if verb == "advance":
            await gardener.advance(id, argument)
        elif verb == "nurture":
            await gardener.nurture(id, "note", confidence=argument)
        else:
            await gardener.compost(id)
    except (InvalidInput, Conflict):
        return False
    return True


async def grown(storage: StorageProvider, id: str) -> list[tuple[str, float, str]]:
    """Return stage, confidence and content of each version of an idea's datum."""
    datums = [revision.datum for revision in await storage.memory.history(id)]
    return [(d.metadata["lifecycle"], d.metadata["confidence"], d.text) for d in datums if d is not None]


def values(idea: GardenIdea) -> tuple[str, float, str]:
    return idea.lifecycle, idea.confidence, idea.content


@given(confidence=st.floats(0, 1), steps=steps)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_l_v2_ideas_move_forward_stay_in_bounds_and_append(
    lab: Lab, confidence: float, steps: list[tuple[str, Any]]
) -> None:
    async def example() -> None:
        gardener, model = Gardener(lab.storage), Model(confidence)
        id = (await gardener.plant("seed", confidence=confidence)).id
        for verb, argument in steps:
            assert await apply(gardener, id, verb, argument) == model.step(verb, argument)
            expected = (LIFECYCLE[model.stage], model.confidence, model.content)
            assert values(await gardener.idea(id)) == expected
        versions = await grown(lab.storage, id)
        assert versions[-1] == values(await gardener.idea(id))
        for (stage, _, content), (next_stage, share, next_content) in pairwise(versions):
            forward = LIFECYCLE.index(next_stage) - LIFECYCLE.index(stage)
            assert forward in {0, 1} or next_stage == "COMPOST"
            assert next_content.startswith(content)
            assert 0 <= share <= 1

    lab.run(example())


async def test_l_v2_concurrent_advances_never_skip(storage: StorageProvider) -> None:
    gardener = Gardener(storage)
    idea = await gardener.plant("seed")
    results = await asyncio.gather(*(apply(gardener, idea.id, "advance", "SAPLING") for _ in range(10)))
    assert sorted(results) == [False] * 9 + [True]
    results = await asyncio.gather(*(apply(gardener, idea.id, "advance", None) for _ in range(5)))
    assert sorted(results) == [False] * 2 + [True] * 3
    assert [stage for stage, _, _ in await grown(storage, idea.id)] == list(LIFECYCLE)


async def test_l_v2_concurrent_notes_all_stay(storage: StorageProvider) -> None:
    gardener = Gardener(storage)
    idea = await gardener.plant("seed", confidence=0.0)
    await asyncio.gather(*(gardener.nurture(idea.id, f"note {n}", confidence=1 / 32) for n in range(20)))
    found = await gardener.idea(idea.id)
    assert sorted(found.content.split("\n\n")) == sorted(["seed", *(f"note {n}" for n in range(20))])
    assert found.confidence == 20 / 32
    assert found.last_nurtured is not None
    versions = await grown(storage, idea.id)
    assert len(versions) == 21
    assert versions[-1] == values(found)


async def test_an_idea_knows_where_it_came_from(storage: StorageProvider) -> None:
    gardener = Gardener(storage)
    session = await gardener.start_session("weeding", plot="north")
    first = await gardener.plant("seed", plot="north", session_id=session.id, tags=["t"], author="Ada")
    second = await gardener.plant("cutting", parent=first.id)
    await gardener.nurture(first.id, "more")
    datum = await storage.memory.get(first.id)
    assert datum is not None
    assert (datum.schema, datum.author, datum.tags) == ("garden.idea", "Ada", {"t"})
    assert datum.metadata["session"] == session.id
    assert datum.metadata["plot"] == (await gardener.plot("north")).id == first.plot_id
    assert second.causal_parent == first.id
    assert [one.id for one in await storage.memory.causal_chain(second.id)] == [first.id, second.id]
    assert {idea.id for idea in await gardener.ideas()} == {first.id, second.id}
    assert await gardener.ideas("TREE") == []


async def test_plots_and_sessions_are_rows_and_datums(storage: StorageProvider) -> None:
    gardener = Gardener(storage)
    plots = await asyncio.gather(*(gardener.plot("north") for _ in range(5)))
    assert len({plot.id for plot in plots}) == 1
    described = await gardener.plot("north", "windy")
    assert (await gardener.plot("north")).description == "windy"
    datum = await storage.memory.get(described.id)
    assert datum is not None
    assert (datum.data, datum.version) == ({"name": "north", "description": "windy"}, 2)

    first, second = [await gardener.start_session(intent) for intent in ("dig", None)]
    ended = await gardener.end_session(first.id)
    assert ended.ended_at is not None
    assert (await gardener.end_session(first.id)).ended_at == ended.ended_at
    assert [session.id for session in await gardener.sessions()] == [second.id, first.id]
    assert [session.id for session in await gardener.sessions(open_only=True)] == [second.id]
    closed = await storage.memory.get(first.id)
    assert closed is not None
    assert closed.data["ended_at"] == ended.ended_at.isoformat()


async def test_bad_input_is_refused_and_leaves_nothing(storage: StorageProvider) -> None:
    gardener = Gardener(storage)
    compost = (await gardener.compost((await gardener.plant("old")).id)).id
    before = await storage.memory.count()
    refused: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: gardener.plant(" "), InvalidInput),
        (lambda: gardener.plant("x", confidence=1.01), InvalidInput),
        (lambda: gardener.plant("x", confidence=float("nan")), InvalidInput),
        (lambda: gardener.plant("x", confidence="much"), InvalidInput),  # type: ignore[arg-type]
        (lambda: gardener.plant("x", session_id="nowhere", plot="new"), NotFound),
        (lambda: gardener.plant("x", parent="nowhere", plot="new"), NotFound),
        (lambda: gardener.plant("x" * (storage.settings.max_content + 1), plot="new"), LimitExceeded),
        (lambda: gardener.nurture(compost, "more"), InvalidInput),
        (lambda: gardener.nurture("nowhere", "more"), NotFound),
        (lambda: gardener.advance(compost), InvalidInput),
        (lambda: gardener.advance(compost, "BUSH"), InvalidInput),
        (lambda: gardener.advance("nowhere"), NotFound),
        (lambda: gardener.compost("nowhere"), NotFound),
        (lambda: gardener.end_session("nowhere"), NotFound),
        (lambda: gardener.idea("nowhere"), NotFound),
        (lambda: gardener.ideas("BUSH"), InvalidInput),
        (lambda: gardener.ideas(limit=-1), InvalidInput),
        (lambda: gardener.plot("a\0b"), InvalidInput),
    ]
    for call, error in refused:
        with pytest.raises(error):
            await call()
    assert await storage.memory.count() == before
    assert [idea.id for idea in await gardener.ideas()] == [compost]
