"""How long to wait before the next try."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dgent.runtime.backoff import Backoff

seconds = st.floats(1e-6, 1e6)
parts = st.floats(0, 1)


@given(seconds, seconds, parts, st.integers(1, 80))
def test_each_pause_is_a_part_of_a_bound_that_doubles_up_to_the_longest(
    first: float, longest: float, least: float, tries: int
) -> None:
    backoff, bounds = Backoff(first, longest, least=least), []
    for _ in range(tries):
        bounds.append(backoff.bound)
        assert least * bounds[-1] * 0.999 <= backoff.pause() <= bounds[-1] * 1.001
    assert bounds[0] == min(first, longest)
    assert all(after == min(2 * before, longest) for before, after in pairwise(bounds[:30]))
    assert max(bounds) <= longest


def test_it_begins_anew_when_it_worked() -> None:
    backoff = Backoff(1.0, 8.0)
    bounds = []
    for _ in range(6):
        bounds.append(backoff.bound)
        backoff.pause()
    assert bounds == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    backoff.reset()
    assert backoff.bound == 1.0


def test_those_who_met_do_not_all_wait_as_long() -> None:
    assert len({Backoff(1.0, 1.0, least=0).pause() for _ in range(20)}) > 10
