"""Time a case of ours and its floor in turn, and report the ratio: the machine may drift, the ratio hardly does."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

REPETITIONS = 7


@dataclass
class Case:
    """An operation, its floor, and the ratio of their throughputs that we want to reach.

    `ours` and `floor` do a batch of work and return how many operations that was.
    """

    name: str
    floor_name: str
    budget: float
    ours: Callable[[], Awaitable[int]]
    floor: Callable[[], Any]


@dataclass
class Result:
    """Operations per second and their ratio: medians over the repetitions, and the quartiles of the ratio."""

    name: str
    floor_name: str
    budget: float
    ours: float
    floor: float
    ratio: float
    low: float
    high: float
    ratios: list[float] = field(default_factory=list)

    @property
    def reached(self) -> bool:
        return self.ratio >= self.budget

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached}


async def measure(case: Case, repetitions: int = REPETITIONS) -> Result:
    """Run floor and ours in turn, once to warm up and then `repetitions` times."""
    ours: list[float] = []
    floor: list[float] = []
    for turn in range(repetitions + 1):
        floor_speed = await _speed(case.floor)
        our_speed = await _speed(case.ours)
        if turn:
            floor.append(floor_speed)
            ours.append(our_speed)
    ratios = sorted(a / b for a, b in zip(ours, floor, strict=True))
    quartiles = statistics.quantiles(ratios, n=4)
    return Result(
        case.name,
        case.floor_name,
        case.budget,
        statistics.median(ours),
        statistics.median(floor),
        statistics.median(ratios),
        quartiles[0],
        quartiles[2],
        ratios,
    )


async def _speed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    done = work()
    count = await done if asyncio.iscoroutine(done) else done
    return count / (time.perf_counter() - start)


def spread(items: list[Any], tasks: int, one: Callable[[Any], Awaitable[Any]]) -> Callable[[], Awaitable[int]]:
    """Return work that sends each item through `one`, from so many tasks at once."""

    async def worker(at: int) -> None:
        for item in items[at::tasks]:
            await one(item)

    async def run() -> int:
        await asyncio.gather(*(worker(at) for at in range(tasks)))
        return len(items)

    return run
