"""How a state becomes a datum and comes back: JSON for values, a row for instances of a mapped class.

A state is stored only if it comes back as it was. What cannot (a set in a `dict`, NaN, a tuple where nothing says
tuple) is refused, and the state that was there stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from dgent.bridge.orm import datum_from, instance_of
from dgent.bridge.table_adapter import TableAdapter
from dgent.datum import Datum
from dgent.error_messages import called, wrong_at
from dgent.exceptions import InvalidRow, InvalidState
from dgent.models import Base

if TYPE_CHECKING:
    from dgent.bridge.mapping import TableMapping
    from dgent.store import StateBackend

S = TypeVar("S")

_KEPT: Final = "what was saved before stays"
_NOT_JSON: Final = (PydanticSerializationError, UnicodeError, ValueError, TypeError, RecursionError)


class StateCodec(Protocol[S]):
    """From a state to a datum, and back."""

    def encode(self, state: S, live: Datum | None) -> Datum:
        """Return the datum that a state becomes where `live` is.

        Raises:
            InvalidState: it would not come back as it was.
        """

    def decode(self, datum: Datum) -> S:
        """Return the state that a datum holds, new at each call.

        Raises:
            InvalidState: it holds another kind of state.
        """

    def default(self) -> S:
        """Return the state where none was ever saved and none was given.

        Raises:
            InvalidState: the type has no value without arguments.
        """


class ValueCodec(Generic[S]):
    """States as JSON by their type: JSON values, dataclasses, pydantic models, and what these are made of.

    Args:
        state_type: a class or any annotation that pydantic knows.
        id: of the datum. metadata: what the datum says of itself.

    Raises:
        InvalidState: the type cannot be a state.
    """

    def __init__(self, state_type: Any, id: str, metadata: Mapping[str, Any]) -> None:
        if isinstance(state_type, type) and issubclass(state_type, Base):
            raise InvalidState(
                f"{state_type.__name__} is a typed table: keep its state there with "
                "StateFunctor.from_table_adapter(storage.table(...))"
            )
        self._type, self._id, self._metadata = state_type, id, metadata
        self._name = getattr(state_type, "__name__", str(state_type))
        if isinstance(state_type, str | bytes | Mapping) or state_type is None:
            raise InvalidState(
                f"{called(state_type)} is no type of a state: pass the class itself, such as int or dict"
            )
        try:
            self._adapter: TypeAdapter[S] = TypeAdapter(state_type)
        except PydanticUserError as error:
            raise InvalidState(f"{self._name} cannot be kept as JSON: {error.message}") from None

    def encode(self, state: S, live: Datum | None) -> Datum:
        """Return the datum whose content is the JSON of the state."""
        try:
            self._adapter.validate_python(state, strict=True)
            content = self._dumped(state)
            back = self._adapter.validate_json(content)
        except ValidationError as error:
            raise InvalidState(f"a state of {self._name} {wrong_at(error)}; {_KEPT}") from None
        except _NOT_JSON as error:
            raise InvalidState(
                f"a state of {self._name} has no form in JSON ({type(error).__name__}); {_KEPT}"
            ) from None
        if back != state and not self._same(back, content):
            raise InvalidState(
                f"a state of {self._name} would come back as another: it holds a set, a tuple, NaN or a key that is "
                f"no text where the type does not say so; {_KEPT}"
            )
        if live is not None:
            return live if self._is_reordered(content, live.content, state) else live.replace(content=content)
        return Datum.create(content, id=self._id, metadata=self._metadata)

    def decode(self, datum: Datum) -> S:
        """Return the state in the content."""
        try:
            return self._adapter.validate_json(datum.content)
        except ValidationError as error:
            raise InvalidState(
                f"what {datum.id!r} holds is no {self._name}: it {wrong_at(error)}. Convert it, or name another"
            ) from None

    def default(self) -> S:
        """Return None where the type takes it, else what the type makes without arguments."""
        try:
            return self._adapter.validate_python(None, strict=True)
        except ValidationError:
            pass
        try:
            return self._type()  # type: ignore[no-any-return]
        except Exception as error:
            raise InvalidState(f"{self._name} needs arguments ({error}): give initial_state") from None

    def _is_reordered(self, content: bytes, before: bytes, state: S) -> bool:
        """Tell whether it is what was there, in another order: that of a set differs from process to process."""
        return len(content) == len(before) and content != before and self._adapter.validate_json(before) == state

    def _dumped(self, state: S) -> bytes:
        return self._adapter.dump_json(state, by_alias=True, round_trip=True, warnings="error")

    def _same(self, back: S, content: bytes) -> bool:
        """Compare instances of a class that has no equality of its own by what they are in JSON."""
        return type(back).__eq__ is object.__eq__ and self._dumped(back) == content


class RowCodec:
    """States as the one row of a typed table that the initial state, or `id`, names.

    Raises:
        CapabilityMissing: the table counts no versions, so two writers could not notice each other.
        InvalidState: neither an initial state nor an id says which row it is, or the row is of another table.
    """

    def __init__(self, adapter: TableAdapter, state_type: Any) -> None:
        adapter.capabilities.require("versioned", f"{adapter.table}, which is to keep a state,")
        if state_type is not adapter.model:
            raise InvalidState(f"{adapter.table} keeps {adapter.model.__name__}, not {state_type!r}")
        self._mapping: TableMapping = adapter.mapping

    def encode(self, state: Any, live: Datum | None) -> Datum:
        """Return the datum of the row."""
        try:
            datum = datum_from(self._mapping, state, created_at=None if live is None else live.created_at)
            instance_of(self._mapping, datum)  # raises where the table would not take it
        except InvalidRow as error:
            raise InvalidState(f"{error}; {_KEPT}") from None
        return datum

    def decode(self, datum: Datum) -> Any:
        """Return the row as an instance that belongs to no session."""
        return instance_of(self._mapping, datum)

    def default(self) -> Any:
        """Refuse: a row cannot be made of nothing."""
        raise InvalidState(f"there is no such row in {self._mapping.name} yet: give initial_state")


def codec_of(backend: StateBackend, state_type: Any, id: str, metadata: Mapping[str, Any]) -> StateCodec[Any]:
    """Return the codec for a kind of state in a kind of store."""
    if isinstance(backend, TableAdapter):
        return RowCodec(backend, state_type)
    return ValueCodec(state_type, id, metadata)
