"""State in every kind of store: laws L-S1 to L-S6."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.state_stores import SHARED, Kept, Tally, add, kept_in, summary
from tests.faults.processes import ready, started, together

from dgent.agents import Agent, Id, StateFunctor, Symbiont
from dgent.datum import Datum
from dgent.exceptions import (
    CapabilityMissing,
    DatumNotFound,
    DgentError,
    InvalidAgent,
    InvalidInput,
    InvalidState,
    ReentrantInvoke,
    StateConflict,
    VersionConflict,
)
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.operations import TTL
from dgent.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

inputs = st.lists(st.integers(-100, 100), max_size=12)


async def test_l_s1_no_task_loses_an_update(kept: Kept) -> None:
    agents = [
        kept.functor(attempts=1000).lift_logic(add) for _ in range(4)
    ]  # four functors that meet in the store only
    answers = await asyncio.gather(*(agents[at % 4].invoke(1) for at in range(40)))
    assert sorted(answers) == list(range(1, 41))
    assert (await agents[0].state()).n == 40


async def test_l_s1_no_thread_loses_an_update(kept: Kept, kind: str, place: str) -> None:
    agent = kept.functor(attempts=1000).lift_logic(add)
    await agent.invoke(0)
    failed: list[BaseException] = []

    async def run() -> None:
        if kind.startswith("postgres"):  # its connections belong to one event loop
            async with kept_in(kind, place) as mine:
                await increment(mine)
        else:
            await increment(kept)

    async def increment(kept: Kept) -> None:
        agent = kept.functor(attempts=1000).lift_logic(add)
        for _ in range(10):
            await agent.invoke(1)

    def in_thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        await asyncio.sleep(0.01)
    assert not failed
    assert (await agent.state()).n == 30


def _increments(pipe: Connection, _: int, kind: str, place: str, times: int) -> None:
    async def run() -> None:
        async with kept_in(kind, place) as kept:
            agent = kept.functor(attempts=10_000).lift_logic(add)
            await agent.state()
            ready(pipe)
            for _ in range(times):
                await agent.invoke(1)
            pipe.send("done")

    asyncio.run(run())


@pytest.mark.parametrize("kind", SHARED)
async def test_l_s1_no_process_loses_an_update(kept: Kept, kind: str, place: str, full_size: bool) -> None:
    times = 200 if full_size else 25

    def run() -> None:
        with started(4, _increments, kind, place, times) as children:
            together(children)
            assert [child.answer() for child in children] == ["done"] * 4

    await asyncio.to_thread(run)
    state = await kept.functor().lift_logic(add).state()
    assert summary(state) == (4 * times, [1] * (4 * times))


async def test_l_s2_a_run_is_the_fold_of_its_logic(kept: Kept) -> None:
    xs = [3, -1, 4, 1, -5, 9]
    agent = kept.functor().lift_logic(add)
    assert [await agent.invoke(x) for x in xs] == [sum(xs[: at + 1]) for at in range(len(xs))]
    assert summary(await agent.state()) == (sum(xs), xs)


@given(inputs)
def test_l_s2_any_run_is_the_fold_of_its_logic(xs: list[int]) -> None:
    def logic(x: int, state: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return state["n"] * x, {"n": state["n"] + x, "last": [x, state.get("last")]}

    async def run() -> None:
        agent = StateFunctor(dict, MemoryBackend(), {"n": 1}).lift_logic(logic)
        outputs = [await agent.invoke(x) for x in xs]

        def step(folded: tuple[list[int], dict[str, Any]], x: int) -> tuple[list[int], dict[str, Any]]:
            output, state = logic(x, folded[1])
            return [*folded[0], output], state

        assert (outputs, await agent.state()) == reduce(step, xs, ([], {"n": 1}))

    asyncio.run(run())


async def test_l_s2_changing_a_loaded_state_is_harmless(kept: Kept) -> None:
    agent = kept.functor().lift_logic(add)
    for expected in (0, 7):
        mine = await agent.state()
        mine.n, mine.seen = 99, [99]
        assert (await agent.state()).n == expected
        await agent.invoke(7)


async def test_l_s3_logic_that_raises_leaves_the_state_as_it_was(kept: Kept) -> None:
    functor = kept.functor()

    def fails(x: int, state: Any) -> tuple[int, Any]:
        state.n = x
        raise ZeroDivisionError

    for _ in range(2):
        before = await kept.stored(functor)
        with pytest.raises(ZeroDivisionError):
            await functor.lift_logic(fails).invoke(5)
        assert await kept.stored(functor) == before
        await functor.lift_logic(add).invoke(1)


async def test_l_s3_without_a_conflict_logic_runs_once(kept: Kept) -> None:
    calls: list[int] = []

    async def counted(x: int, state: Any) -> tuple[int, Any]:
        calls.append(x)
        await asyncio.sleep(0)
        return add(x, state)

    agent = kept.functor().lift_logic(counted)
    await asyncio.gather(*(agent.invoke(x) for x in range(20)))
    assert calls == list(range(20))  # those that wait in one loop go one after the other, in their order


async def test_l_s3_a_cancelled_invoke_leaves_the_state_and_the_turn(kept: Kept) -> None:
    agent = kept.functor().lift_logic(add)
    entered = asyncio.Event()

    async def hangs(x: int, state: Any) -> tuple[int, Any]:
        entered.set()
        await asyncio.sleep(3600)
        return add(x, state)

    hanging = asyncio.create_task(kept.functor().lift_logic(hangs).invoke(1))
    await entered.wait()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert await agent.invoke(2) == 2


@pytest.mark.parametrize("output", [(1, 2), (1, 2, 3), (), None, 0, "", [], {}, False, ((1,), {})])
async def test_l_s4_any_output_passes_unchanged(output: Any) -> None:
    functor = StateFunctor(int, MemoryBackend(), 0)
    assert await functor.lift_logic(lambda x, s: (x, s + 1)).invoke(output) is output
    assert await functor.lift(Id).invoke(output) is output
    assert await functor.lift(Agent.from_function(lambda x: (x, x))).invoke(output) == (output, output)


async def test_l_s4_any_output_passes_unchanged_in_every_store(kept: Kept) -> None:
    functor = kept.functor()
    for output in ((1, 2), None, 0, "", (), {}):
        assert await functor.lift_logic(lambda x, s: (x, add(1, s)[1])).invoke(output) is output
    assert summary(await functor.memory.load()) == (6, [1] * 6)


@pytest.mark.parametrize(
    ("state_type", "states"),
    [
        (int, [0, 5, -1]),
        (str, ["", "é\n"]),
        (dict, [{}, {"a": [None, {}]}]),
        (list, [[], [0, ""]]),
        (bool, [False, True]),
        (float, [0.0, 1e300]),
        (int | None, [None, 0, 3, None]),
        (tuple[int, ...], [(), (1, 2)]),
        (frozenset[str], [frozenset(), frozenset("ab")]),
        (bytes, [b"", b"abc"]),
        (Any, [None, 0, "", {}, []]),
    ],
)
async def test_l_s4_falsy_values_can_be_states(state_type: Any, states: list[Any]) -> None:
    functor: StateFunctor[Any] = StateFunctor(state_type, MemoryBackend())
    replace = functor.lift_logic(lambda new, old: (old, new))
    previous = [await replace.state()]
    for state in states:
        assert await replace.invoke(state) == previous.pop()
        assert await replace.state() == state
        assert type(await replace.state()) is type(state)
        previous.append(state)


async def test_l_s5_lifting_id_is_id_and_touches_nothing(kept: Kept) -> None:
    functor = kept.functor()
    for value in ("x", None, (1, 2)):
        assert await functor.lift(Id).invoke(value) == value
    assert await kept.stored(functor) is None
    await functor.lift_logic(add).invoke(3)
    before = await kept.store.get(functor.memory.id)
    assert await functor.lift(Id).invoke("x") == "x"
    assert await functor.lift_logic(lambda x, s: (x, s)).invoke("x") == "x"
    after = await kept.store.get(functor.memory.id)
    assert (after, after.version) == (before, before.version)


@pytest.mark.parametrize(
    ("state_type", "content"), [(set[str], b'["a","b","c"]'), (set[str], b'["c","b","a"]'), (dict, b'{"b":1,"a":2}')]
)
async def test_l_s5_the_order_of_a_set_is_no_change(state_type: Any, content: bytes) -> None:
    store = MemoryBackend()
    await store.put(Datum.create(content, id="state:state"))
    functor: StateFunctor[Any] = StateFunctor(state_type, store)
    again = functor.lift_logic(lambda x, s: (x, dict(sorted(s.items())) if isinstance(s, dict) else {*sorted(s)}))
    assert await again.invoke(1) == 1
    assert await functor.lift(Id).invoke("x") == "x"
    live = await store.get("state:state")
    assert live is not None
    assert (live.version, live.content) == (1, content)


@given(inputs, st.integers(-3, 3), st.integers(-3, 3))
def test_l_s5_lifting_a_composition_is_composing_what_is_lifted(xs: list[int], a: int, b: int) -> None:
    async def run(lifted: Callable[[Any, Any, Any], Agent[int, int]]) -> tuple[Any, ...]:
        calls: list[tuple[str, int]] = []

        def agent(name: str, factor: int) -> Agent[int, int]:
            def call(x: int) -> int:
                calls.append((name, x))
                return x * factor

            return Agent.from_function(call)

        functor = StateFunctor(dict, MemoryBackend(), {"n": 0})
        stateful = lifted(functor, agent("f", a), agent("g", b))
        return [await stateful.invoke(x) for x in xs], await functor.memory.load(), calls

    first = asyncio.run(run(lambda functor, f, g: functor.lift(f >> g)))
    assert first == asyncio.run(run(lambda functor, f, g: functor.lift(f) >> functor.lift(g)))


@given(inputs)
def test_l_s5_lifted_logic_composes(xs: list[int]) -> None:
    def f(x: int, s: list[int]) -> tuple[int, list[int]]:
        return x + len(s), [*s, x]

    async def g(x: int, s: list[int]) -> tuple[int, list[int]]:
        return x * 2, [*s, -x]

    async def both(x: int, s: list[int]) -> tuple[int, list[int]]:
        y, t = f(x, s)
        return await g(y, t)

    async def run(lifted: Callable[[StateFunctor[list[int]]], Agent[int, int]]) -> tuple[Any, ...]:
        functor = StateFunctor(list, MemoryBackend(), [])
        agent = lifted(functor)
        return [await agent.invoke(x) for x in xs], await functor.memory.load()

    composed = asyncio.run(run(lambda functor: functor.lift_logic(f) >> functor.lift_logic(g)))
    assert composed == asyncio.run(run(lambda functor: functor.lift_logic(both)))


async def test_l_s5_composition_holds_in_every_store(kept: Kept) -> None:
    double: Agent[int, int] = Agent.from_function(lambda x: 2 * x)

    def both(x: int, state: Any) -> tuple[int, Any]:
        first, state = add(2 * x, state)
        return add(first, state)

    parts, whole = kept.functor("parts"), kept.functor("whole")
    in_parts = parts.lift(double) >> parts.lift_logic(add) >> parts.lift_logic(add)
    at_once = whole.lift_logic(both)
    for x in (3, -1, 0):
        assert await in_parts.invoke(x) == await at_once.invoke(x)
    assert summary(await parts.memory.load()) == summary(await whole.memory.load())
    lifted = parts.lift(double >> double), parts.lift(double) >> parts.lift(double)
    assert [await agent.invoke(5) for agent in lifted] == [20, 20]


class Counted(MemoryBackend):
    """A store that counts its verbs."""

    gets = puts = 0

    async def get(self, id: str, *, version: int | None = None) -> Any:
        self.gets += 1
        return await super().get(id, version=version)

    async def put(self, datum: Any, **named: Any) -> Any:
        self.puts += 1
        return await super().put(datum, **named)


async def test_l_s5_a_pipeline_over_one_functor_is_one_load_and_one_save() -> None:
    store = Counted()
    functor = StateFunctor(int, store, 0)
    up = functor.lift_logic(lambda x, s: (x, s + 1))
    assert await (up >> functor.lift(Id) >> up >> up).invoke("x") == "x"
    assert (store.gets, store.puts, await up.state()) == (1, 1, 3)
    other = StateFunctor(int, store, 0, "other").lift_logic(lambda x, s: (x, s + 1))
    assert await (up >> other >> up).invoke("y") == "y"
    assert (await up.state(), await other.state()) == (5, 1)


async def test_l_s6_namespaces_keep_states_apart(kept: Kept) -> None:
    one, other = kept.functor("one").lift_logic(add), kept.functor("other").lift_logic(add)
    await asyncio.gather(*(one.invoke(1) for _ in range(5)), *(other.invoke(2) for _ in range(5)))
    assert (await one.state()).n == 5
    assert (await other.state()).n == 10
    assert (await kept.functor("third").lift_logic(add).state()).n == 0


async def test_a_history_has_every_state(kept: Kept) -> None:
    agent = kept.functor().lift_logic(add)
    if not kept.store.capabilities.history:
        with pytest.raises(CapabilityMissing):
            await agent.history()
        return
    for x in (1, 2, 3):
        await agent.invoke(x)
    saved = await agent.history()
    assert [(each.version, each.state.n) for each in saved if each.state] == [(1, 1), (2, 3), (3, 6)]
    assert [each.version for each in await agent.history(limit=2)] == [2, 3]
    assert [(await agent.at(version)).n for version in range(4)] == [0, 1, 3, 6]
    with pytest.raises(DatumNotFound, match="has no version 9"):
        await agent.at(9)
    await kept.store.delete(agent.memory.id)
    assert (await agent.history())[-1].deleted
    assert await agent.invoke(5) == 5


async def test_load_and_save(kept: Kept) -> None:
    memory = kept.functor().memory
    state = await memory.load()
    state.n = 3
    assert await memory.save(state) == 1
    state.n = 4
    assert await memory.save(state, expect=1) == 2
    with pytest.raises(VersionConflict):
        await memory.save(await memory.load(), expect=1)
    assert (await memory.load()).n == 4


async def test_a_symbiont_is_lifted_logic(kept: Kept) -> None:
    symbiont: Symbiont[Any, int, int] = Symbiont(add, kept.functor().memory)
    assert [await symbiont.invoke(x) for x in (1, 2)] == [1, 3]
    assert symbiont.name == "add"
    with pytest.raises(InvalidState, match="pass a DataAgent"):
        Symbiont(add, MemoryBackend())  # type: ignore[arg-type]


async def test_an_agent_of_pairs_is_logic() -> None:
    pairs: Agent[Any, Any] = Agent.from_function(lambda pair: (pair[0] + pair[1], pair[1] + 1), name="pairs")
    agent = StateFunctor(int, MemoryBackend(), 10).lift_logic(pairs)
    assert [await agent.invoke(1) for _ in range(3)] == [11, 12, 13]
    assert agent.name == "pairs"


async def test_a_state_that_expires_does_so_when_it_would_have() -> None:
    clock = ManualClock()
    store = MemoryBackend(clock=clock)
    functor = StateFunctor(Tally, store, Tally(), "tally")
    agent = functor.lift_logic(add)
    await agent.invoke(1)
    live = await store.get(functor.memory.id)
    assert live is not None
    await store.put(live, ttl=10)
    clock.advance(5)
    assert await agent.invoke(1) == 2
    await functor.memory.save(Tally(7))
    assert await agent.invoke(1) == 8
    clock.advance(5)
    assert not await store.exists(functor.memory.id)
    assert await agent.invoke(1) == 1  # it begins anew, and stays
    clock.advance(1000)
    assert (await agent.state()).n == 1


class Rival(MemoryBackend):
    """A store in which somebody else is always first."""

    async def put(self, datum: Any, *, expect: int | None = None, ttl: TTL = None) -> Any:
        raise VersionConflict(datum.id, expect or 0, (expect or 0) + 7)


async def test_a_conflict_is_bounded_and_carries_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def logic(x: int, s: int) -> tuple[int, int]:
        ran.append(x)
        return x, s + 1

    with pytest.raises(StateConflict) as caught:
        await StateFunctor(int, Rival(), 0, attempts=3).lift_logic(logic).invoke(1)
    assert (caught.value.expected, caught.value.actual, caught.value.attempts, ran) == (0, 7, 3, [1, 1, 1])
    assert "3 times" in str(caught.value)


async def test_no_attempt_at_all_is_refused() -> None:
    with pytest.raises(InvalidInput, match="attempts is 0: try at least once"):
        await StateFunctor(int, MemoryBackend(), 0, attempts=0).lift_logic(lambda x, s: (x, s)).invoke(1)


async def test_an_agent_inside_of_itself_is_told(kept: Kept) -> None:
    functor = kept.functor()
    inner = functor.lift_logic(add)
    later: list[asyncio.Task[Any]] = []

    async def recursive(x: int, state: Any) -> tuple[int, Any]:
        with pytest.raises(ReentrantInvoke, match="another namespace"):
            await inner.invoke(x)
        with pytest.raises(ReentrantInvoke):
            await asyncio.gather(inner.invoke(x))
        other = kept.functor("another").lift_logic(add)
        assert await other.invoke(x) == x

        async def afterwards() -> int:
            await done.wait()
            return await inner.invoke(10)

        later.append(asyncio.create_task(afterwards()))
        return add(x, state)

    done = asyncio.Event()
    assert await functor.lift_logic(recursive).invoke(1) == 1
    done.set()
    assert await later[0] == 11  # a task that outlived the invoke is no longer inside of it


async def test_logic_that_returns_no_pair_is_told(kept: Kept) -> None:
    functor = kept.functor()
    await functor.lift_logic(add).invoke(1)
    before = await kept.stored(functor)
    for logic in (lambda x, s: None, lambda x, s: [x, s], lambda x, s: (x, s, s), lambda x, s: x):
        with pytest.raises(InvalidAgent, match=r"return \(output, next state\)"):
            await functor.lift_logic(logic).invoke(5)
    assert await kept.stored(functor) == before


async def test_a_state_that_cannot_be_stored_is_refused(kept: Kept) -> None:
    functor = kept.functor()
    await functor.lift_logic(add).invoke(1)
    before = await kept.stored(functor)
    for wrong in (object(), "text", None, {1, 2}):

        def logic(x: int, state: Any, wrong: Any = wrong) -> tuple[int, Any]:
            state.n = wrong
            return x, state

        with pytest.raises(InvalidState, match="stays"):
            await functor.lift_logic(logic).invoke(5)
        with pytest.raises(InvalidState, match="stays"):
            await functor.lift_logic(lambda x, s, wrong=wrong: (x, wrong)).invoke(5)
    assert await kept.stored(functor) == before


@pytest.mark.parametrize(
    ("state_type", "wrong"),
    [
        (int, "1"),
        (int, True),
        (dict, {"a": {1}}),
        (dict, {1: "a"}),
        (dict, {"a": (1, 2)}),
        (float, float("nan")),
        (float, float("inf")),
        (dict, {"a": float("nan")}),
        (str, "\ud800"),
        (list, [object()]),
    ],
)
async def test_what_would_not_come_back_is_refused(state_type: Any, wrong: Any) -> None:
    store = MemoryBackend()
    agent = StateFunctor(state_type, store).lift_logic(lambda new, old: (None, new))
    with pytest.raises(InvalidState):
        await agent.invoke(wrong)
    assert await store.count() == 0
    with pytest.raises(InvalidState):
        StateFunctor(state_type, store, wrong)


async def test_a_state_that_holds_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(InvalidState):
        StateFunctor(list, MemoryBackend(), ring)


class Needs:
    def __init__(self, this: int) -> None:
        self.this = this


async def test_types_that_cannot_be_states_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidState, match="Needs cannot be kept as JSON"):
        StateFunctor(Needs, MemoryBackend(), Needs(1))
    with pytest.raises(InvalidState, match="keeps no datums"):
        StateFunctor(int, 42, 0)  # type: ignore[arg-type]
    with pytest.raises(InvalidAgent, match="is no logic"):
        StateFunctor(int, MemoryBackend(), 0).lift_logic(42)  # type: ignore[arg-type]
    with pytest.raises(InvalidAgent, match="is no agent"):
        StateFunctor(int, MemoryBackend(), 0).lift(lambda x: x)  # type: ignore[arg-type]


async def test_what_another_wrote_is_not_taken_for_a_state() -> None:
    store = MemoryBackend()
    agent = StateFunctor(int, store, 0).lift_logic(lambda x, s: (x, s + 1))
    await StateFunctor(str, store, "").lift_logic(lambda x, s: (x, x)).invoke("text")
    with pytest.raises(InvalidState, match="holds is no int"):
        await agent.invoke(1)
    with pytest.raises(DgentError):
        await agent.state()
