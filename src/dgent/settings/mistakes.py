"""What is wrong with a setting, in words of our own: which one, where it is stated, what to write instead."""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING, Any, Final

from dgent.error_messages import nearest
from dgent.exceptions import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pydantic import BaseModel, ValidationError

PREFIX: Final = "KGENTS_"
_OF_TESTS: Final = "KGENTS_TEST_"
_OF_KUBERNETES: Final = re.compile(r"\w+_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
"""What it puts into every container for a service whose name begins with `kgents-`: nobody wrote these."""
_PASSWORD: Final = re.compile(r"(://[^:@/\s]*:)[^@\s]*@")
_WORD: Final = re.compile(r"\w{1,20}")
"""What may be shown of a value that was to be a name: anything else may be a URL with its password."""

_WANTED: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list of names",
    "model": 'a mapping like {"backend": "sqlite"}',
}
"""By the first word of the type of pydantic's error: int_parsing, int_type and int_from_float are one mistake."""
_BOUNDS: Final = {"ge": "from", "gt": "above", "le": "up to", "lt": "below"}


def explained(error: ValidationError, model: type[BaseModel], arguments: Collection[str] | None = None) -> str:
    """Return what does not fit and what would, without a value that may be secret.

    Settings are named as in a config file, or, where `arguments` says which came as those, else by their variables.
    """

    def named(name: str) -> str:
        return name if arguments is None or name in arguments else variable_of(name)

    found = error.errors(include_url=False)
    return "; ".join(dict.fromkeys(_explained(problem, model, named) for problem in found))


def no_setting(name: str, model: type[BaseModel]) -> str:
    """Return what to say of a name that no setting has."""
    return f"there is no setting {name!r}{nearest(name, model.model_fields)}"


def refuse_unknown_variables(model: type[BaseModel]) -> None:
    """Refuse a variable that is spelled nearly like one of ours and sets nothing: whoever wrote it relies on it.

    Others that begin with KGENTS_ may be another program's.

    Raises:
        InvalidSettings: there is one; the message names the nearest that is known.
    """
    for variable, value in sorted(os.environ.items()):
        name = variable.upper()
        setting = name.removeprefix(PREFIX).lower()
        if not value or not name.startswith(PREFIX) or _is_others(name) or _is_known(name, model):
            continue
        if difflib.get_close_matches(setting, model.model_fields):
            raise InvalidSettings(f"the variable {variable} sets nothing: {no_setting(setting, model)}")


def variable_of(name: str) -> str:
    """Return the variable that states a setting: KGENTS_NAME, or one of a field of it, KGENTS_NAME__FIELD."""
    wanted = f"{PREFIX}{name}".upper()
    stated = (each.upper() for each, value in os.environ.items() if value)
    return next((each for each in stated if each == wanted or each.startswith(f"{wanted}__")), wanted)


def _is_others(variable: str) -> bool:
    return variable.startswith(_OF_TESTS) or _OF_KUBERNETES.fullmatch(variable) is not None


def _is_known(variable: str, model: type[BaseModel]) -> bool:
    name, nested, _ = variable.removeprefix(PREFIX).lower().partition("__")
    field = model.model_fields.get(name)
    return field is not None and (not nested or hasattr(field.annotation, "model_fields"))


def _explained(problem: Mapping[str, Any], model: type[BaseModel], named: Callable[[str], str]) -> str:
    steps, kind, context = problem["loc"], problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden" and len(steps) == 1:
        return no_setting(str(steps[0]), model)
    where = named(str(steps[0])) if steps else "the settings"
    if kind == "extra_forbidden":
        fields = getattr(model.model_fields[steps[0]].annotation, "model_fields", ())
        return f"{where} has no field {str(steps[1])!r}{nearest(str(steps[1]), fields)}"
    if where in steps and isinstance(steps[-1], str):  # in a file: a variable has the field in its name
        where = ".".join(map(str, steps))
    if kind in {"literal_error", "enum"}:
        return f"{where} names {_shown(problem['input'])}: use {_choices(context['expected'])}"
    bounds = [f"{word} {context[bound]:g}" for bound, word in _BOUNDS.items() if bound in context]
    wanted = _WANTED.get(kind.partition("_")[0], "a number" if bounds else "")
    if wanted:
        return f"{where} does not fit: use {' '.join([wanted, *bounds])}"
    message = _PASSWORD.sub(r"\1***@", problem["msg"].removeprefix("Value error, "))
    return f"{where}: {message}"


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) and _WORD.fullmatch(value) else "what is not known"


def _choices(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ")
