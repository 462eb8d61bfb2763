"""Lens, Prism and Traversal: ways into a value, that read a part of it and make the value anew with another part there.

    lens        one focus             get, set
    prism       one focus, or none    preview, review
    traversal   any number            get_all, set_all

All of them have `get_all`, `set_all`, `set`, `modify` and `>>`; none of them changes a value in place. A lens after a
lens is a lens, a prism after a prism is a prism, any other two make a traversal. `>>` is associative, `identity()` is
its identity. The laws are in `dgent.optics.optic_laws`.

The idea is that of Foster et al., "Combinators for bidirectional tree transformations" (2007), and its names are those
of Pickering, Gibbons and Wu, "Profunctor optics" (2017). Here an optic is a list of steps, each of which takes a state
apart into its foci and puts it together again with as many others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, overload

from dgent.exceptions import FocusNotFound, InvalidFocus

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class Missing(Enum):
    """The type of `MISSING`: no focus is there. None would not do, because it can be a focus."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing.MISSING


class OpticStep(NamedTuple):
    """One step into a value.

    Attributes:
        name: how a path spells it: ".city", "[0]".
        take: gives the foci of a state, in order.
        give: makes the state anew with other foci, as many and in the same order.
        build: makes a state of a focus alone; prisms have it.
        single: there is always one focus, which `give` needs not to be there before: lenses.
        key: the one key of a dict that it looks at; MISSING where it may look at all.
    """

    name: str
    take: Callable[[Any], list[Any]]
    give: Callable[[Any, list[Any]], Any]
    build: Callable[[Any], Any] | None = None
    single: bool = False
    key: Hashable = MISSING


@dataclass(frozen=True, init=False, repr=False)
class Optic(Generic[S, A]):
    """What lens, prism and traversal share. S is the state that is looked into, A the focus.

    Every method raises InvalidFocus for a state of the wrong shape, and FocusNotFound where a lens finds nothing; the
    message says where.
    """

    steps: tuple[OpticStep, ...]

    def get_all(self, state: S) -> list[A]:
        """Return the foci in their order."""
        found: list[Any] = [state]
        for at, step in enumerate(self.steps):
            found = [focus for value in found for focus in self._run(at, step.take, value)]
        return found

    def set_all(self, state: S, values: Iterable[A]) -> S:
        """Return the state with other foci, one for each.

        Raises:
            InvalidFocus: there are not as many foci as values.
        """
        given = [*values]
        rest = iter(given)
        fresh = self._filled(state, rest)
        if next(rest, MISSING) is not MISSING:
            raise InvalidFocus(f"{self!r} has fewer foci than {len(given)}: give one value for each")
        return fresh

    def set(self, state: S, value: A) -> S:
        """Return the state with this value at each focus: as it is, where there is none."""
        return self._filled(state, repeat(value))

    def modify(self, state: S, function: Callable[[A], A]) -> S:
        """Return the state with the result of a function at each focus."""
        return self.set_all(state, [function(focus) for focus in self.get_all(state)])

    def __rshift__(self, inner: Optic[A, B]) -> Optic[S, B]:
        """Return the optic that looks further, into what this one sees."""
        return _joined(self, inner)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({spelled(self.steps)})"

    def _filled(self, state: S, values: Iterator[A]) -> S:
        """Go down to the foci, exchange them, and come back up."""
        levels: list[list[Any]] = [[state]]
        sizes: list[list[int]] = []
        last = len(self.steps) - 1
        for at, step in enumerate(self.steps):
            blind = at == last and step.single  # what will be replaced may be absent as yet
            found = [[MISSING] if blind else self._run(at, step.take, value) for value in levels[at]]
            sizes.append([len(foci) for foci in found])
            levels.append([*chain.from_iterable(found)])
        fresh: list[Any] = [*islice(values, len(levels[-1]))]
        if len(fresh) < len(levels[-1]):
            raise InvalidFocus(f"{self!r} has {len(levels[-1])} foci, not {len(fresh)}: give one value for each")
        if not fresh:
            return state
        for at in range(last, -1, -1):
            rest, give = iter(fresh), self.steps[at].give
            fresh = [
                self._run(at, give, value, [*islice(rest, size)])
                for value, size in zip(levels[at], sizes[at], strict=True)
            ]
        return fresh[0]  # type: ignore[no-any-return]

    def _run(self, at: int, run: Callable[..., T], *args: Any) -> T:
        try:
            return run(*args)
        except (InvalidFocus, FocusNotFound) as error:
            if at == 0:
                raise
            raise type(error)(f"at {spelled(self.steps[:at])}: {error}") from None


@dataclass(frozen=True, init=False, repr=False)
class Lens(Optic[S, A]):
    """An optic with exactly one focus.

    Args:
        get: gives the focus of a state.
        set: gives a new state with another focus, and leaves the old one as it is.
        name: how messages spell it.
    """

    def __init__(self, get: Callable[[S], A], set: Callable[[S, A], S], name: str = "<lens>") -> None:
        step = OpticStep(name, lambda state: [get(state)], lambda state, foci: set(state, foci[0]), single=True)
        object.__setattr__(self, "steps", (step,))

    def get(self, state: S) -> A:
        """Return the focus.

        Raises:
            FocusNotFound: it is not there.
        """
        return self.get_all(state)[0]

    @overload
    def __rshift__(self, inner: Lens[A, B]) -> Lens[S, B]: ...
    @overload
    def __rshift__(self, inner: Optic[A, B]) -> Optic[S, B]: ...
    def __rshift__(self, inner: Optic[A, B]) -> Optic[S, B]:
        """Return the optic that looks further, into what this one sees."""
        return _joined(self, inner)


@dataclass(frozen=True, init=False, repr=False)
class Prism(Optic[S, A]):
    """An optic with one focus or none, of which alone a state can be made.

    Args:
        preview: gives the focus of a state, or MISSING.
        review: makes a state of a focus.
        name: how messages spell it.
    """

    def __init__(self, preview: Callable[[S], A | Missing], review: Callable[[A], S], name: str = "<prism>") -> None:
        def take(state: S) -> list[Any]:
            focus = preview(state)
            return [] if focus is MISSING else [focus]

        step = OpticStep(name, take, lambda state, foci: review(foci[0]) if foci else state, review)
        object.__setattr__(self, "steps", (step,))

    def preview(self, state: S) -> A | Missing:
        """Return the focus, or MISSING where there is none."""
        foci = self.get_all(state)
        return foci[0] if foci else MISSING

    def review(self, value: A) -> S:
        """Return the state of which this value is the focus."""
        state: Any = value
        for step in reversed(self.steps):
            assert step.build is not None  # noqa: S101  # every step of a prism has it
            state = step.build(state)
        return state  # type: ignore[no-any-return]

    @overload
    def __rshift__(self, inner: Prism[A, B]) -> Prism[S, B]: ...
    @overload
    def __rshift__(self, inner: Optic[A, B]) -> Optic[S, B]: ...
    def __rshift__(self, inner: Optic[A, B]) -> Optic[S, B]:
        """Return the optic that looks further, into what this one sees."""
        return _joined(self, inner)


@dataclass(frozen=True, init=False, repr=False)
class Traversal(Optic[S, A]):
    """An optic with any number of foci.

    Args:
        get_all: gives the foci of a state, in order.
        set_all: gives a new state with other foci, as many and in the same order.
        name: how messages spell it.
    """

    def __init__(
        self,
        get_all: Callable[[S], Iterable[A]],
        set_all: Callable[[S, list[A]], S],
        name: str = "<traversal>",
    ) -> None:
        object.__setattr__(self, "steps", (OpticStep(name, lambda state: [*get_all(state)], set_all),))


K = TypeVar("K", bound=Optic[Any, Any])


def of_steps(kind: type[K], *steps: OpticStep) -> K:
    """Return the optic that goes these steps."""
    optic = object.__new__(kind)
    object.__setattr__(optic, "steps", steps)
    return optic


def spelled(steps: Iterable[OpticStep]) -> str:
    """Return steps as a path."""
    return "".join(step.name for step in steps).removeprefix(".")


def _joined(outer: Optic[S, A], inner: Optic[A, B]) -> Optic[S, B]:
    if not isinstance(inner, Optic):
        raise InvalidFocus(f"{type(inner).__name__} is no optic: compose with a Lens, a Prism or a Traversal")
    kind = type(outer) if type(outer) is type(inner) else Traversal
    return of_steps(kind, *outer.steps, *inner.steps)
