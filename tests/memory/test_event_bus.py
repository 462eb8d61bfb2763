"""The bus tells everybody, waits for nobody, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgent.datum import Datum
from dgent.exceptions import InvalidInput
from dgent.memory.change import Change
from dgent.memory.event_bus import DataBus, Dropped, Event, Failover
from dgent.memory.inmemory.backend import MemoryBackend
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def bus() -> AsyncIterator[DataBus]:
    before = asyncio.all_tasks()
    bus = DataBus()
    yield bus
    bus.close()
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


async def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + patience(5)
    while not true():
        assert time.monotonic() < deadline, "still not so"
        await asyncio.sleep(0.001)


def puts(count: int, namespace: str = "n") -> list[Change]:
    return [Change("put", namespace, f"a{n}", 1, n + 1) for n in range(count)]


async def test_a_backend_tells_of_what_it_committed(bus: DataBus) -> None:
    store, heard = MemoryBackend("n", on_change=bus.publish), []
    bus.subscribe(heard.append)
    await store.put(Datum("a", b"secret", 0.0))
    await store.delete("a")
    await store.purge("a")
    await until(lambda: len(heard) == 3)
    assert heard == [Change("put", "n", "a", 1, 1), Change("delete", "n", "a", 2, 2), Change("purge", "n", "a")]
    assert "secret" not in repr(heard)


async def test_callbacks_may_be_coroutines_and_get_one_event_at_a_time(bus: DataBus) -> None:
    log: list[tuple[str, Event]] = []

    async def slow(event: Event) -> None:
        log.append(("begin", event))
        await asyncio.sleep(0)
        log.append(("end", event))

    bus.subscribe(slow)
    for event in puts(3):
        bus.publish(event)
    await until(lambda: len(log) == 6)
    assert log == [(at, event) for event in puts(3) for at in ("begin", "end")]


async def test_a_failing_subscriber_harms_nobody(bus: DataBus, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []
    seen = 0

    def fails(event: Event) -> None:
        nonlocal seen
        seen += 1
        raise ValueError("mine")

    async def fails_later(event: Event) -> None:
        await asyncio.sleep(0)
        raise ValueError("mine too")

    bus.subscribe(fails)
    bus.subscribe(fails_later)
    bus.subscribe(heard.append)
    with caplog.at_level(logging.CRITICAL):
        for event in puts(5):
            bus.publish(event)
        await until(lambda: len(heard) == 5 and seen == 5)


@given(
    events=st.lists(
        st.builds(
            Change,
            st.sampled_from(["put", "delete", "purge"]),
            st.sampled_from(["a", "a/b", "ab", "a/b/c", "b"]),
            st.just("x"),
        ),
        max_size=20,
    ),
    kinds=st.none() | st.frozensets(st.sampled_from(["put", "delete", "purge", "degrade"])),
    namespace=st.none() | st.sampled_from(["a", "a/b", "b"]),
)
async def test_a_subscriber_gets_exactly_what_it_asked_for(
    events: list[Change], kinds: frozenset[str] | None, namespace: str | None
) -> None:
    bus = DataBus()
    listener = bus.listen(kinds=kinds, namespace=namespace)
    for event in events:
        bus.publish(event)
    wanted = [
        event
        for event in events
        if (kinds is None or event.kind in kinds)
        and (namespace is None or f"{event.namespace}/".startswith(f"{namespace}/"))
    ]
    assert [await anext(listener) for _ in wanted] == wanted
    bus.close()
    assert [event async for event in listener] == []


async def test_an_outage_concerns_every_namespace(bus: DataBus) -> None:
    listener = bus.listen(namespace="a")
    bus.publish(Change("put", "b", "x"))
    bus.publish(Failover("degrade", "postgres", "sqlite"))
    assert await anext(listener) == Failover("degrade", "postgres", "sqlite")


async def test_a_slow_subscriber_loses_the_oldest_and_is_told(bus: DataBus) -> None:
    listener = bus.listen(size=3)
    for event in puts(10):
        bus.publish(event)
    got = [await anext(listener) for _ in range(4)]
    assert got == [Dropped(7), *puts(10)[7:]]
    assert listener.dropped == 7
    bus.publish(puts(1)[0])
    assert await anext(listener) == puts(1)[0]


async def test_a_stuck_callback_holds_up_neither_the_publisher_nor_the_others(bus: DataBus) -> None:
    stuck, heard, got = asyncio.Event(), [], []

    async def callback(event: Event) -> None:
        got.append(event)
        await stuck.wait()

    subscription = bus.subscribe(callback, size=2)
    bus.subscribe(heard.append)
    for event in puts(50):
        bus.publish(event)
        await asyncio.sleep(0)
    await until(lambda: len(heard) == 50)
    assert got == puts(1)
    stuck.set()
    await until(lambda: len(got) == 4)
    assert got[1:] == [Dropped(47), *puts(50)[48:]]
    assert subscription.dropped == 47


async def test_publishing_is_safe_from_other_threads(bus: DataBus) -> None:
    heard: list[Any] = []
    bus.subscribe(heard.append, size=10_000)
    listener = bus.listen(size=10_000)
    threads = [threading.Thread(target=lambda n=n: [bus.publish(one) for one in puts(300, f"t{n}")]) for n in range(4)]
    for thread in threads:
        thread.start()
    got = [await anext(listener) for _ in range(1200)]
    for thread in threads:
        thread.join()
    await until(lambda: len(heard) == 1200)
    for events in (heard, got):
        for n in range(4):
            assert [event for event in events if event.namespace == f"t{n}"] == puts(300, f"t{n}")


async def test_each_subscriber_is_called_on_its_own_loop(bus: DataBus) -> None:
    here, there, ready = [], [], threading.Event()

    async def elsewhere() -> None:
        done = asyncio.Event()

        async def take(event: Event) -> None:
            there.append(threading.current_thread().name)
            done.set()

        with bus.subscribe(take):
            ready.set()
            await asyncio.wait_for(done.wait(), patience(5))

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),), name="other")
    thread.start()
    await asyncio.to_thread(ready.wait, patience(5))
    bus.subscribe(lambda event: here.append(threading.current_thread().name))
    bus.publish(puts(1)[0])
    await until(lambda: here)
    await asyncio.to_thread(thread.join)
    assert (here, there) == (["MainThread"], ["other"])


async def test_a_subscriber_whose_loop_has_ended_is_forgotten(bus: DataBus) -> None:
    async def elsewhere() -> None:
        bus.subscribe(lambda event: None)

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert len(bus._deliveries) == 1
    bus.publish(puts(1)[0])
    assert not bus._deliveries


async def test_cancelling_ends_the_task_even_in_the_middle_of_a_callback(bus: DataBus) -> None:
    begun, ended = asyncio.Event(), []

    async def forever(event: Event) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(event)

    with bus.subscribe(forever) as subscription:
        for event in puts(3):
            bus.publish(event)
        await begun.wait()
    await until(lambda: ended)
    subscription.cancel()
    bus.publish(puts(1)[0])
    await asyncio.sleep(0.01)
    assert ended == puts(1)


async def test_a_callback_may_cancel_its_own_subscription(bus: DataBus) -> None:
    heard: list[Event] = []

    async def once(event: Event) -> None:
        subscription.cancel()
        await asyncio.sleep(0)
        heard.append(event)

    subscription = bus.subscribe(once)
    for event in puts(3):
        bus.publish(event)
    await until(lambda: heard)
    await asyncio.sleep(0.01)
    assert heard == puts(1)


async def test_an_idle_subscription_has_no_task(bus: DataBus) -> None:
    before, heard = asyncio.all_tasks(), []
    bus.subscribe(heard.append)
    bus.publish(puts(1)[0])
    await until(lambda: heard and asyncio.all_tasks() == before)
    bus.publish(puts(1)[0])
    await until(lambda: len(heard) == 2 and asyncio.all_tasks() == before)


async def test_leaving_a_loop_over_the_bus_unsubscribes(bus: DataBus) -> None:
    asyncio.get_running_loop().call_soon(bus.publish, puts(1)[0])
    async for event in bus.listen():
        assert event == puts(1)[0]
        break
    gc.collect()
    assert not bus._listeners


async def test_cancelling_a_listener_ends_its_loop(bus: DataBus) -> None:
    listener = bus.listen()

    async def collect() -> list[Event]:
        return [event async for event in listener]

    task = asyncio.create_task(collect())
    await asyncio.sleep(0)
    bus.publish(puts(1)[0])
    await asyncio.sleep(0)
    listener.cancel()
    assert await asyncio.wait_for(task, patience(5)) in ([], puts(1))
    assert not bus._listeners


async def test_a_cancelled_wait_loses_no_event(bus: DataBus) -> None:
    listener = bus.listen()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(listener), 0.001)
    bus.publish(puts(1)[0])
    assert await anext(listener) == puts(1)[0]


@pytest.mark.parametrize("wrong", [{"kinds": ["bark"]}, {"size": 0}, {"size": True}, {"namespace": "a//b"}])
async def test_a_wrong_subscription_is_refused(bus: DataBus, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        bus.subscribe(print, **wrong)
    with pytest.raises(InvalidInput):
        bus.listen(**wrong)
