"""The trees drawn at the top of their files; what each error also is; and that errors travel between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from dgent import exceptions, warnings, wrong_loop
from dgent.exceptions import (
    ChainBroken,
    DeliveryPending,
    DgentError,
    HeadConflict,
    IntegrityViolation,
    InvalidRow,
    NonMonotonicGeneration,
    StateConflict,
    VersionConflict,
)
from dgent.warnings import DgentWarning

CLASSES = [
    kind
    for module in (exceptions, wrong_loop, warnings)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if kind.__module__ == module.__name__
]
DRAWN = re.compile(r"^    (?P<indent>[│ ├└─]*)(?P<name>\w+)(?: \((?P<also>\w+)\))?(?:  |$)")


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Read the picture: name to (the class above it, the standard class that it also is)."""
    found: dict[str, tuple[str | None, str | None]] = {}
    above: dict[int, str] = {}
    for match in filter(None, map(DRAWN.match, f"{exceptions.__doc__}\n{warnings.__doc__}".splitlines())):
        depth = len(match["indent"])
        above[depth] = match["name"]
        found[match["name"]] = (above[depth - 4] if depth else None, match["also"])
    return found


def built() -> dict[str, tuple[str | None, str | None]]:
    found: dict[str, tuple[str | None, str | None]] = {}
    for kind in CLASSES:
        ours = [base.__name__ for base in kind.__bases__ if base in CLASSES]
        others = [base.__name__ for base in kind.__bases__ if base not in CLASSES and base is not Exception]
        found[kind.__name__] = (ours[0] if ours else None, others[0] if others else None)
    return found


def test_the_picture_is_the_tree() -> None:
    assert drawn() == built()
    assert {"DgentError", "VersionConflict", "DegradedWarning"} <= drawn().keys()


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_says_what_it_means(kind: type[Exception]) -> None:
    assert issubclass(kind, DgentError | DgentWarning)
    assert (kind.__doc__ or "").splitlines()[0].endswith(".")


OF_PARTS = {
    ChainBroken,
    DeliveryPending,
    HeadConflict,
    IntegrityViolation,
    InvalidRow,
    NonMonotonicGeneration,
    StateConflict,
    VersionConflict,
}
"""These are made of parts, and write their message themselves."""


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind not in OF_PARTS])
def test_an_error_keeps_its_message(kind: type[Exception]) -> None:
    error = kind("what happened, to what: what to do")
    assert str(error) == "what happened, to what: what to do"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


def test_a_version_conflict_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(VersionConflict("counter", 3, 4)))  # noqa: S301 - our own bytes
    assert (type(error), error.id, error.expected, error.actual) == (VersionConflict, "counter", 3, 4)
    assert str(error) == "'counter': expected version 3, but version 4 is live: get it again and retry"
    assert "no version" in str(VersionConflict("counter", 0, 1))
    assert "nothing is live" in str(VersionConflict("counter", 1, 0))


def test_what_is_on_its_way_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DeliveryPending("postgres", 1204)))  # noqa: S301 - our own bytes
    assert (type(error), error.store, error.waiting) == (DeliveryPending, "postgres", 1204)
    assert str(error) == "1,204 writes are still on their way to postgres: try again when they are in"


def test_a_state_conflict_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(StateConflict("counter", 3, 4, 64)))  # noqa: S301 - our own bytes
    assert (type(error), error.id, error.expected, error.actual) == (StateConflict, "counter", 3, 4)
    assert (error.attempts, "first 64 times" in str(error)) == (64, True)


def test_an_invalid_row_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InvalidRow("brain_crystals", "tags", "is no list")))  # noqa: S301 - our own bytes
    assert (error.table, error.field, error.reason) == ("brain_crystals", "tags", "is no list")
    assert str(error) == "brain_crystals.tags: is no list"
    assert str(InvalidRow("brain_crystals", None, "is no object")) == "brain_crystals: is no object"


def test_errors_of_the_causal_substrate_travel_between_processes() -> None:
    broken = pickle.loads(pickle.dumps(ChainBroken("s", "w", 3, "it was changed")))  # noqa: S301 - our own bytes
    assert (broken.stream, broken.writer, broken.seq, broken.reason) == ("s", "w", 3, "it was changed")
    assert str(broken) == "the log of 'w' in 's' is broken at seq 3: it was changed"
    back = pickle.loads(pickle.dumps(NonMonotonicGeneration("k", 5, 4)))  # noqa: S301 - our own bytes
    assert (back.key, back.current, back.attempted) == ("k", 5, 4)


def test_what_is_noted_on_an_error_travels_with_it() -> None:
    error = VersionConflict("counter", 3, 4)
    error.add_note("in the third of the batch")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["in the third of the batch"]  # noqa: S301 - our own bytes
    assert copy.copy(error).__notes__ == error.__notes__
