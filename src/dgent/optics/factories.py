"""The optics that come with D-gent: into dicts, sequences, objects, rows, JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Hashable, Iterable
from copy import copy
from functools import partial
from itertools import islice
from typing import Any, Final, NoReturn, TypeVar

import orjson

from dgent.exceptions import FocusNotFound, InvalidDatum, InvalidFocus, InvalidQuery
from dgent.jsonvalue import canonical_json, parse_path
from dgent.optics.optic import MISSING, Lens, Missing, OpticStep, Prism, Traversal, of_steps

A = TypeVar("A")

_PLAIN: Final = re.compile(r'[^.\[\]"]+')
_SHOWN: Final = 8


def identity() -> Lens[A, A]:
    """Return the lens whose focus is the whole state: it changes nothing that it is composed with."""
    return of_steps(Lens)


def key(name: Hashable) -> Lens[Any, Any]:
    """Return the lens on an entry of a dict; `set` adds it where it is absent.

    `get` of an absent one raises FocusNotFound, which names what there is.
    """

    def take(state: Any) -> list[Any]:
        if name not in _dict(state, step.name):
            _absent(f"no key {_short(name)}", state)
        return [state[name]]

    def give(state: Any, foci: list[Any]) -> Any:
        fresh = copy(_dict(state, step.name))
        fresh[name] = foci[0]
        return fresh

    step = OpticStep(_spelled(name), take, give, single=True, key=name)
    return of_steps(Lens, step)


def at(name: Hashable) -> Lens[Any, Any]:
    """Return the lens on an entry of a dict that may be absent: then `get` gives MISSING; `set` of MISSING removes."""

    def take(state: Any) -> list[Any]:
        return [_dict(state, step.name).get(name, MISSING)]

    def give(state: Any, foci: list[Any]) -> Any:
        fresh = copy(_dict(state, step.name))
        if foci[0] is MISSING:
            fresh.pop(name, None)
        else:
            fresh[name] = foci[0]
        return fresh

    step = OpticStep(f"{_spelled(name)}?", take, give, single=True, key=name)
    return of_steps(Lens, step)


def index(place: int) -> Lens[Any, Any]:
    """Return the lens on a place in a list or a tuple, counted from the end if negative.

    `get` and `set` of a place that is not there raise FocusNotFound.
    """
    if type(place) is not int:
        raise InvalidFocus(f"an index is a whole number, not {_kind(place)}")

    def check(state: Any) -> None:
        if not isinstance(state, list | tuple):
            _unfit("a list or a tuple", step.name, state)
        if not -len(state) <= place < len(state):
            raise FocusNotFound(f"there is no {step.name}, the {_kind(state)} has {len(state):,}")

    def take(state: Any) -> list[Any]:
        check(state)
        return [state[place]]

    def give(state: Any, foci: list[Any]) -> Any:
        check(state)
        items = [*state]
        items[place] = foci[0]
        return _sequence(state, items)

    step = OpticStep(f"[{place}]", take, give, single=True)
    return of_steps(Lens, step)


def field(name: str) -> Lens[Any, Any]:
    """Return the lens on a field of a dataclass, a pydantic model or a named tuple.

    A dataclass is made anew by `dataclasses.replace`, which runs its `__init__`; a model by `model_copy`, which
    validates nothing.
    """

    def take(state: Any) -> list[Any]:
        _remaker(state, name)
        return [getattr(state, name)]

    step = OpticStep(f".{name}", take, lambda state, foci: _remaker(state, name)(**{name: foci[0]}), single=True)
    return of_steps(Lens, step)


def attribute(name: str) -> Lens[Any, Any]:
    """Return the lens on a column of an instance of a mapped class.

    `set` gives a new instance, in no session, with the same loaded columns; `get` of a column that is not loaded raises
    FocusNotFound and asks no database.
    """

    def take(state: Any) -> list[Any]:
        if name not in _loaded(state, step.name):
            _absent(f"no loaded column {_short(name)}", _loaded(state, step.name))
        return [getattr(state, name)]

    def give(state: Any, foci: list[Any]) -> Any:
        columns, mapper = _loaded(state, step.name), _mapped(state).mapper
        if name not in mapper.column_attrs:
            _absent(f"no column {_short(name)}", mapper.column_attrs.keys())
        fresh = mapper.class_manager.new_instance()
        for each, value in {**columns, name: foci[0]}.items():
            setattr(fresh, each, copy(value))  # a list that notices changes belongs to one instance
        return fresh

    step = OpticStep(f".{name}", take, give, single=True)
    return of_steps(Lens, step)


def path(text: str) -> Lens[Any, Any]:
    """Return the lens on a place in a JSON value, in the grammar of `Query.where`: `user.address[0].city`, `a["b.c"]`.

    `set` adds the last key where it is absent, and no other.

    Raises:
        InvalidFocus: the text is no path; the message shows where it stops being one.
    """
    try:
        steps = parse_path(text)
    except InvalidQuery as error:
        raise InvalidFocus(str(error)) from None
    lenses = (key(step) if isinstance(step, str) else index(step) for step in steps)
    return of_steps(Lens, *(step for lens in lenses for step in lens.steps))


def each() -> Traversal[Any, Any]:
    """Return the traversal of the items of a list or a tuple, or of the values of a dict."""

    def take(state: Any) -> list[Any]:
        if isinstance(state, list | tuple):
            return [*state]
        if isinstance(state, dict):
            return [*state.values()]
        _unfit("a list, a tuple or a dict", step.name, state)

    def give(state: Any, foci: list[Any]) -> Any:
        if not isinstance(state, dict):
            return _sequence(state, foci)
        fresh = copy(state)
        fresh.update(zip(state, foci, strict=True))
        return fresh

    step = OpticStep("[*]", take, give)
    return of_steps(Traversal, step)


def filtered(predicate: Callable[[A], bool]) -> Traversal[A, A]:
    """Return the traversal of the whole state where a predicate holds, and of nothing where it does not.

    `each() >> filtered(p)` has the items that satisfy p. The laws hold for values and functions that keep the
    predicate: what no longer satisfies it is no focus any more.
    """
    return of_steps(
        Traversal,
        OpticStep(
            f"[?{getattr(predicate, '__name__', 'predicate')}]",
            lambda state: [state] if predicate(state) else [],
            lambda state, foci: foci[0] if foci else state,
        ),
    )


def instance(kind: type[A]) -> Prism[Any, A]:
    """Return the prism on values of a class: any other has no focus."""

    def review(value: A) -> Any:
        if not isinstance(value, kind):
            _unfit(kind.__name__, name, value)
        return value

    name = f"<{kind.__name__}>"
    return Prism(lambda state: state if isinstance(state, kind) else MISSING, review, name)


def as_json() -> Prism[bytes, Any]:
    """Return the prism from bytes to the JSON value that they spell; what is not JSON has no focus.

    `review` writes canonical JSON, so bytes that spell a value in another way come back in that one.
    """

    def preview(state: bytes) -> Any | Missing:
        if not isinstance(state, bytes):
            _unfit("bytes", "<json>", state)
        try:
            return orjson.loads(state)
        except orjson.JSONDecodeError:
            return MISSING

    def review(value: Any) -> bytes:
        try:
            return canonical_json(value, "the value").encode()
        except InvalidDatum as error:
            raise InvalidFocus(str(error)) from None

    return Prism(preview, review, "<json>")


def _dict(state: Any, step: str) -> dict[Any, Any]:
    return state if isinstance(state, dict) else _unfit("a dict", step, state)


def _sequence(state: Any, items: list[Any]) -> Any:
    """Return a list or a tuple of the same kind with other items."""
    if isinstance(state, list):
        fresh = copy(state)
        fresh[:] = items
        return fresh
    return state._make(items) if hasattr(state, "_make") else tuple(items)


def _remaker(state: Any, name: str) -> Callable[..., Any]:
    """Return what makes an object anew with other values of its fields, of which this must be one."""
    fields, remake = _fields(state, f".{name}")
    if name not in fields:
        _absent(f"{_kind(state)} has no field {_short(name)} that can be given", fields)
    return remake


def _fields(state: Any, step: str) -> tuple[Iterable[str], Callable[..., Any]]:
    kind = type(state)
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind) if each.init], partial(dataclasses.replace, state)
    if hasattr(kind, "model_copy"):
        copied = lambda **new: state.model_copy(update=new)  # noqa: E731, PLW0108  # `update` takes them as a dict
        return [*kind.model_fields, *(state.model_extra or ())], copied
    if hasattr(kind, "_make"):
        return state._fields, state._replace
    return _unfit("a dataclass, a pydantic model or a named tuple", step, state)


def _mapped(state: Any) -> Any:
    from sqlalchemy import inspect  # noqa: PLC0415  # whoever has an instance has loaded it; the others need not
    from sqlalchemy.orm import InstanceState  # noqa: PLC0415

    found = inspect(state, raiseerr=False)
    return found if isinstance(found, InstanceState) else None


def _loaded(state: Any, step: str) -> dict[str, Any]:
    """Return the columns of an instance that hold something, without asking a database for the others."""
    mapped = _mapped(state)
    if mapped is None:
        _unfit("an instance of a mapped class", step, state)
    return {each.key: mapped.dict[each.key] for each in mapped.mapper.column_attrs if each.key in mapped.dict}


def _spelled(name: Hashable) -> str:
    if not isinstance(name, Hashable):
        raise InvalidFocus(f"a key of a dict is hashable, {_kind(name)} is not")
    if not isinstance(name, str):
        return f"[{_short(name)}]"
    return f".{name}" if _PLAIN.fullmatch(name) else f"[{json.dumps(name, ensure_ascii=False)}]"


def _short(value: Any) -> str:
    return f"{value!r:.60}"


def _kind(value: Any) -> str:
    return "nothing" if value is MISSING else "null" if value is None else type(value).__name__


def _unfit(wanted: str, step: str, found: Any) -> NoReturn:
    raise InvalidFocus(f"expected {wanted} for {step}, found {_kind(found)}")


def _absent(what: str, there: Iterable[Any]) -> NoReturn:
    names = [_short(each) for each in islice(there, _SHOWN + 1)]
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    raise FocusNotFound(f"{what}; there is {shown or 'nothing'}")
