"""A versioned contract: what the data of one kind looks like now, and how older data becomes that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeAlias, TypeVar, get_type_hints

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from dgent.crystal.contract_codec import NOT_JSON, ContractCodec, fields_of
from dgent.exceptions import CrystalTooNew, InvalidCrystal, InvalidSchema, UpgradeFailed, UpgradeGap

T = TypeVar("T")
Data: TypeAlias = dict[str, Any]
Migration: TypeAlias = Callable[[Data], Mapping[str, Any]]
"""Makes data of the next version: it is given a copy of its own, which it may change and return."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")
_LONGEST_NAME: Final = 200


class Contract:
    """What `@schema` adds to a class, for type checkers: inherit from it, or do without.

    Attributes:
        schema: the schema whose contract the class is.
        migration: registers the function that leads on from a version: `@Mark.migration(1)`.
    """

    if TYPE_CHECKING:
        schema: ClassVar[Schema[Any]]
        migration: ClassVar[Callable[[int], Callable[[Migration], Migration]]]


@dataclass(frozen=True, eq=False)
class Schema(Generic[T]):
    """A named contract, its version, and the migrations that lead to it.

    Args:
        name: words joined by dots, `witness.mark`.
        version: counts from 1; raise it when the contract changes.
        contract: a frozen dataclass or a pydantic model, of fields that have a form in JSON.
        migrations: by version, what makes data of the next one; they can also come later, through `migration`.

    Raises:
        InvalidSchema: one of these is not that.
    """

    name: str
    version: int
    contract: type[T]
    migrations: Mapping[int, Migration] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and len(self.name) <= _LONGEST_NAME and _NAME.fullmatch(self.name)):
            raise InvalidSchema(
                f"a schema is named with words joined by dots, like witness.mark, not {self.name!r:.80}"
            )
        if type(self.version) is not int or not 1 <= self.version < 2**31:
            raise InvalidSchema(f"{self.name}: a version is a whole number from 1, not {self.version!r:.80}")
        _check_contract(self.name, self.contract)
        given, own = dict(self.migrations), dict[int, Migration]()
        object.__setattr__(self, "migrations", own)
        for version, function in given.items():
            self.migration(version)(function)
        _ = self._codec

    def migration(self, version: int) -> Callable[[Migration], Migration]:
        """Register a function as what leads on from a version.

        Raises:
            InvalidSchema: no version of this schema comes after that one, or another function does it already.
        """
        if type(version) is not int or not 1 <= version < self.version:
            raise InvalidSchema(f"{self.name} is at version {self.version}: no migration starts at {version!r:.80}")
        if version in self.migrations:
            raise InvalidSchema(f"{self.name} has a migration from version {version} already")

        def register(function: Migration) -> Migration:
            if not callable(function):
                raise InvalidSchema(f"{self.name}: a migration is a function, not {type(function).__name__}")
            self.migrations[version] = function  # type: ignore[index]  # the dict of __post_init__
            return function

        return register

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The fields of the contract and their types."""
        if issubclass(self.contract, BaseModel):  # it knows them where its hints do not: generic, or a local class
            return {name: info.rebuild_annotation() for name, info in self.contract.model_fields.items()}
        hints = get_type_hints(self.contract, include_extras=True)
        return {name: hints[name] for name in fields_of(self.contract)}

    @property
    def gaps(self) -> list[int]:
        """The versions from which no migration leads on: data at or below them cannot be read."""
        return [version for version in range(1, self.version) if version not in self.migrations]

    def encode(self, value: T) -> bytes:
        """Return the JSON of a value.

        Raises:
            InvalidCrystal: it does not fit the contract, or would not come back as it was.
        """
        return self._codec.encode(value)

    def decode(self, content: bytes, version: int | None = None) -> T:
        """Return the value in JSON that a version of this schema wrote, the current one unless it is given.

        Raises:
            InvalidCrystal: it does not fit the contract, or is no JSON object.
            CrystalTooNew: as for `upgrade`.
            UpgradeGap: as for `upgrade`.
            UpgradeFailed: as for `upgrade`.
        """
        if version is None or version == self.version:
            return self._codec.decode(content)
        self._check_span(version, self.version)  # a newer version may not even be JSON
        try:
            data = from_json(content, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidCrystal(f"{self.name}: the data is not JSON: {error}") from None
        upgraded = self.upgrade(version, data)
        try:
            return self._codec.decode(to_json(upgraded))
        except InvalidCrystal as error:
            raise UpgradeFailed(f"{error}, after the migrations from version {version}") from None

    def parse(self, data: Mapping[str, Any]) -> T:
        """Return the value of data of the current version; JSON, or the Python values that have a form in it.

        Raises:
            InvalidCrystal: it does not fit the contract.
        """
        try:
            return self._codec.decode(to_json(data, bytes_mode="base64"))
        except NOT_JSON as error:
            if isinstance(error, InvalidCrystal):
                raise
            raise InvalidCrystal(f"{self.name}: the data has no form in JSON ({type(error).__name__})") from None

    def upgrade(self, old_version: int, data: Mapping[str, Any], *, to: int | None = None) -> Data:
        """Return data of an old version as the current one, or `to`, has it; what was passed stays as it is.

        Each migration gets plain JSON: what the one before made is brought into that form, so that data goes the same
        way whether it was stored in between or not.

        Raises:
            InvalidCrystal: the data is no JSON object, or a version no whole number from 1.
            CrystalTooNew: the data is newer than the code.
            UpgradeGap: a migration is missing on the way.
            UpgradeFailed: a migration raised, or made no JSON object.
        """
        target = self.version if to is None else to
        self._check_span(old_version, target)
        try:
            found = self._plain(data, f"the data of version {old_version}")
        except UpgradeFailed as error:
            raise InvalidCrystal(str(error)) from None
        for version in range(old_version, target):
            migration = self.migrations.get(version)
            if migration is None:
                declared = getattr(self.contract, "schema", None) is self  # by `@schema`, which teaches the class
                decorator = self.contract.__name__ if declared else "schema"
                raise UpgradeGap(
                    f"{self.name}: no migration leads from version {version} to {version + 1}: "
                    f"register one with @{decorator}.migration({version})"
                )
            found = self._plain(self._migrated(migration, version, found), f"the migration from version {version}")
        return found

    def _check_span(self, version: int, target: int) -> None:
        for each in (version, target):
            if type(each) is not int or each < 1:
                raise InvalidCrystal(f"{self.name}: a version is a whole number from 1, not {each!r:.80}")
        if version > target:
            raise CrystalTooNew(
                f"{self.name}: the data has version {version}, this code knows {target}: upgrade the program"
            )

    def _migrated(self, migration: Migration, version: int, data: Data) -> Any:
        try:
            return migration(data)
        except Exception as error:
            raise UpgradeFailed(
                f"{self.name}: the migration from version {version} raised {type(error).__name__}"
            ) from error

    def _plain(self, data: Any, what: str) -> Data:
        if not isinstance(data, Mapping):
            raise UpgradeFailed(f"{self.name}: {what} is {type(data).__name__}, not a JSON object")
        try:
            plain: Data = from_json(to_json(data, bytes_mode="base64"), allow_inf_nan=False)
        except NOT_JSON as error:
            raise UpgradeFailed(f"{self.name}: {what} has no form in JSON ({type(error).__name__})") from None
        return plain

    @cached_property
    def _codec(self) -> ContractCodec[T]:
        return ContractCodec(self.contract, self.name)


def _check_contract(name: str, contract: Any) -> None:
    if isinstance(contract, type) and issubclass(contract, BaseModel):
        return
    if not isinstance(contract, type) or not is_dataclass(contract):
        shown = getattr(contract, "__name__", type(contract).__name__)
        raise InvalidSchema(f"{name}: a contract is a frozen dataclass or a pydantic model, not {shown}")
    if not contract.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise InvalidSchema(f"{name}: {contract.__name__} can be changed: write @dataclass(frozen=True)")
