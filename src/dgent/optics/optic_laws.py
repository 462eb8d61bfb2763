"""The laws of optics, checked on given values: which law fails, and on what.

    lens        GetPut         set(s, get(s)) is s                  what was there changes nothing
                PutGet         get(set(s, a)) is a                  what was set is there
                PutPut         set(set(s, a), b) is set(s, b)       what was set before leaves nothing behind
    prism       PreviewReview  preview(review(a)) is a              what was built is found
                ReviewPreview  review(a) is s, if preview(s) is a   what was found builds the same
    traversal   Identity       modify(s, identity) is s             what was there changes nothing
                Fusion         modify(modify(s, f), g) is modify(s, f then g)
                Foci           get_all(modify(s, f)) is f of each of get_all(s)
    all         Purity         s is as it was, whatever was made of it

A checker takes any iterables of states and values; feed it by hand, or from hypothesis. A state in which the optic
finds nothing is passed over by the laws that speak of what is there. Any other error breaks the law, and is what was
found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from dgent.exceptions import FocusNotFound
from dgent.optics.optic import MISSING

if TYPE_CHECKING:
    from dgent.optics.optic import Lens, Optic, Prism

Image: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """A law that fails: on which state and values, what it demands and what was found."""

    law: str
    state: Any
    values: tuple[Any, ...]
    expected: Any
    found: Any

    def __str__(self) -> str:
        given = ", ".join(map(repr, (self.state, *self.values)))
        return f"{self.law} fails on {given}: expected {self.expected!r}, found {self.found!r}"


class _Law(NamedTuple):
    """Both sides of a law, of a state and `arity` values; it says nothing where `needs` finds nothing."""

    name: str
    arity: int
    expected: Callable[..., Any]
    found: Callable[..., Any]
    needs: Callable[..., Any]
    of_states: bool = True


def check_lens(
    lens: Lens[Any, Any], states: Iterable[Any], values: Iterable[Any], *, image: Image = deepcopy
) -> list[Violation]:
    """Return how a lens breaks its laws, on each state with each pair of values; nothing, if it is lawful.

    States are compared by their `image`, which must share nothing with them that can change; values by `==`.
    """
    laws = [
        _Law("GetPut", 0, lambda s: s, lambda s: lens.set(s, lens.get(s)), lens.get),
        _Law("PutGet", 1, lambda _, a: a, lambda s, a: lens.get(lens.set(s, a)), lens.set, of_states=False),
        _Law(
            "PutPut",
            2,
            lambda s, _, b: lens.set(s, b),
            lambda s, a, b: lens.set(lens.set(s, a), b),
            lambda s, _, b: lens.set(s, b),
        ),
    ]
    return _broken(laws, states, values, image)


def check_prism(
    prism: Prism[Any, Any], states: Iterable[Any], values: Iterable[Any], *, image: Image = deepcopy
) -> list[Violation]:
    """Return how a prism breaks its laws, on each state and each value; nothing, if it is lawful.

    States are compared by their `image`, values by `==`.
    """

    def rebuilt(state: Any) -> Any:
        focus = prism.preview(state)
        return state if focus is MISSING else prism.review(focus)

    built = _Law("PreviewReview", 1, lambda _, a: a, lambda _, a: prism.preview(prism.review(a)), _anything, False)
    found = _Law("ReviewPreview", 0, lambda s: s, rebuilt, _anything)
    return [*_broken([built], [MISSING], values, image), *_broken([found], states, (), image)]


def check_traversal(
    traversal: Optic[Any, Any], states: Iterable[Any], values: Iterable[Any], *, image: Image = deepcopy
) -> list[Violation]:
    """Return how a traversal, or any optic as one, breaks its laws; nothing, if it is lawful.

    The functions of the laws of fusion and of the foci turn whatever they meet into one of two of the values, another
    than it was. States are compared by their `image`, values by `==`.
    """

    def fused(state: Any, a: Any, b: Any) -> Any:
        first, second = _turning(a, b)
        return traversal.modify(state, lambda focus: second(first(focus)))

    def twice(state: Any, a: Any, b: Any) -> Any:
        first, second = _turning(a, b)
        return traversal.modify(traversal.modify(state, first), second)

    def each(state: Any, a: Any, b: Any) -> list[Any]:
        return [_turning(a, b)[0](focus) for focus in traversal.get_all(state)]

    def anew(state: Any, a: Any, b: Any) -> list[Any]:
        return traversal.get_all(traversal.modify(state, _turning(a, b)[0]))

    def needs(state: Any, *_: Any) -> list[Any]:
        return traversal.get_all(state)

    laws = [
        _Law("Identity", 0, lambda s: s, lambda s: traversal.modify(s, lambda focus: focus), needs),
        _Law("Fusion", 2, fused, twice, needs),
        _Law("Foci", 2, each, anew, needs, of_states=False),
    ]
    return _broken(laws, states, values, image)


def _anything(*_: Any) -> None:
    """Need nothing."""


def _turning(a: Any, b: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return (lambda focus: b if focus == a else a), (lambda focus: a if focus == b else b)


def _broken(laws: list[_Law], states: Iterable[Any], values: Iterable[Any], image: Image) -> list[Violation]:
    given = [*values]
    return [violation for state in states for violation in _broken_on(laws, state, given, image)]


def _broken_on(laws: list[_Law], state: Any, given: list[Any], image: Image) -> Iterator[Violation]:
    before = image(state)
    for law in laws:
        for values in product(given, repeat=law.arity):
            violation = _checked(law, state, values, image)
            if violation is not None:
                yield violation
            if (after := image(state)) != before:
                yield Violation("Purity", after, values, before, after)
                return  # the state is spoilt for the other laws


def _checked(law: _Law, state: Any, values: tuple[Any, ...], image: Image) -> Violation | None:
    try:
        law.needs(state, *values)
    except FocusNotFound:
        return None
    except Exception as error:
        return Violation(law.name, state, values, "no error", error)
    seen = image if law.of_states else deepcopy
    expected = seen(law.expected(state, *values))
    try:
        found = seen(law.found(state, *values))
    except Exception as error:
        return Violation(law.name, state, values, expected, error)
    return None if found == expected else Violation(law.name, state, values, expected, found)
