"""What config files say: the user's, and that of the project, which counts in full only if its user trusts it.

Whoever enters a folder has not read what lies in it. So from a project's file that is not trusted only the namespace
counts, and limits that are lower than they would be; never where data goes, how safely, or what code runs.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from sqlalchemy.engine import URL

from dgent.exceptions import DgentError, InvalidSettings
from dgent.runtime.private_files import OTHERS, read_regular, warn_of
from dgent.settings.database_url import parse_url
from dgent.settings.mistakes import explained, no_setting
from dgent.settings.sqlite_url import absolute
from dgent.warnings import SettingsWarning

if TYPE_CHECKING:
    from dgent.settings.trust import Trust

M = TypeVar("M", bound=BaseModel)

LARGEST: Final = 64 * 2**10
PATHS: Final = ("data_dir", "config_dir", "cache_dir")
LIMITS: Final = ("max_content", "max_metadata", "max_page", "max_chain")
HARMLESS: Final = ("namespace", *LIMITS)
"""What a project's file may say without being trusted: a limit only if it is lower than it would be otherwise."""


_READ_IT: Final = "read it, then run `kg config trust`"
_BROKEN: Final = (DgentError, yaml.YAMLError, RecursionError, ValueError)  # ValueError: also an impossible date


@dataclass(frozen=True)
class ConfigFile:
    """What a config file sets.

    Attributes:
        path: where it lies, or would.
        content: its bytes; None if it is not there, or cannot be read.
        values: what counts of it, by the names of the settings.
        trusted: whether all of it counts.
        ignored: the names of what does not count, because it is not trusted.
        problem: why nothing of it counts; empty where that is not so.
        open_to_others: whether other users can read it.
        strict: whether it says so, although nothing else of it counts.
    """

    path: Path
    content: bytes | None = None
    values: dict[str, Any] = field(default_factory=dict)
    trusted: bool = True
    ignored: tuple[str, ...] = ()
    problem: str = ""
    open_to_others: bool = False
    strict: bool = False


def user_file(path: Path, model: type[BaseModel]) -> ConfigFile:
    """Read the user's own config file; one that is broken sets nothing."""
    return _whole(_read(path), model)


def project_file(folder: Path, trust: Trust, usual: BaseModel) -> ConfigFile:
    """Read the config file of the project in a folder, and say what of it does not count.

    `usual` are the settings as they are without it.
    """
    file = _read(config_path(folder))
    if file.content is not None and trust.holds(file.path, file.content):
        return _whole(file, type(usual))
    file = replace(file, trusted=False)
    if file.content is None:
        return file
    if not _is_ours(file.path):
        return replace(file, problem=f"it belongs to another user: {_READ_IT}")
    return _harmless(file, usual)


def tell(file: ConfigFile, *, strict: bool) -> None:
    """Warn of what does not count of a file.

    Raises:
        InvalidSettings: none of one that was to count does, where `strict` or the file itself asks for that.
    """
    if file.problem and file.trusted and (strict or file.strict):
        raise InvalidSettings(f"{file.path} does not count, and strict lets no choice go unmet: {file.problem}")
    if file.problem:
        warnings.warn(f"{file.path} was passed over: {file.problem}", SettingsWarning, stacklevel=5)
    if file.ignored:
        names = ", ".join(file.ignored)
        message = f"{file.path} is not trusted, and of it was ignored: {names}: {_READ_IT}"
        warnings.warn(message, SettingsWarning, stacklevel=5)


def project_folder(user: Path | None = None) -> Path | None:
    """Return the nearest folder with a project's config file: the working directory or one above, up to the home.

    None if there is none, or if its file is the `user`'s own.
    """
    try:
        here, home = Path.cwd(), Path.home()
    except (OSError, RuntimeError):  # it was removed, or may not be entered; there is no home
        return None
    for folder in (here, *here.parents):
        if _is_there(config_path(folder)):
            return None if user is not None and config_path(folder).resolve() == user.resolve() else folder
        if folder == home:
            break
    return None


def config_path(folder: Path) -> Path:
    """Return where the config file of a project lies."""
    return folder / ".kgents" / "config.yaml"


def approved(path: Path, model: type[BaseModel]) -> ConfigFile:
    """Return a project's file as it counts once it is trusted.

    Raises:
        InvalidSettings: it is not there, or does not fit.
    """
    file = _whole(_read(path), model)
    if file.content is None or file.problem:
        raise InvalidSettings(f"{path} cannot be trusted: {file.problem or 'there is no such file'}")
    return file


def _read(path: Path) -> ConfigFile:
    try:
        content, status = read_regular(path, LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return ConfigFile(path)
    except OSError as error:
        return ConfigFile(path, problem=_one_line(error))
    if len(content) > LARGEST:
        return ConfigFile(path, problem=f"it is larger than {LARGEST:,} bytes")
    return ConfigFile(path, content, open_to_others=bool(status.st_mode & OTHERS))


def _whole(file: ConfigFile, model: type[BaseModel]) -> ConfigFile:
    """Return a file with all that it sets, or with what is wrong with it."""
    if file.content is None:
        return file
    said: dict[str, Any] = {}
    try:
        said = _mapping(file.content)
        values = _anchored(said, file.path.parent)
        _validated(model, values)
    except _BROKEN as error:
        return replace(file, problem=_reason(error, model), strict=said.get("strict") is True)
    url = values.get("database_url")
    if file.open_to_others and isinstance(url, URL) and url.password:
        warn_of(file.path, "read", 0o600)
    return replace(file, values=values)


def _harmless(file: ConfigFile, usual: BaseModel) -> ConfigFile:
    """Return a file that is not trusted with the little of it that counts, and the names of what does not."""
    model = type(usual)
    try:
        values = _mapping(file.content or b"")
        if unknown := sorted(set(values) - set(model.model_fields)):
            raise InvalidSettings(no_setting(unknown[0], model))
        counted = {name: value for name, value in values.items() if name in HARMLESS}
        found = _validated(model, counted)
    except _BROKEN as error:
        return replace(file, problem=_reason(error, model))
    higher = {name for name in counted if name in LIMITS and getattr(found, name) > getattr(usual, name)}
    ignored = sorted((set(values) - set(HARMLESS)) | higher)
    return replace(file, values={n: v for n, v in counted.items() if n not in higher}, ignored=tuple(ignored))


def _mapping(content: bytes) -> dict[str, Any]:
    values = yaml.safe_load(content.decode("utf-8")) or {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InvalidSettings("it is not a mapping of names to values")
    return values


def _anchored(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return values whose relative paths are below the folder of the file that names them."""
    found = dict(values)
    for name in (*PATHS, "database_url"):
        if isinstance(value := found.get(name), str):
            try:
                found[name] = parse_url(value, folder) if name == "database_url" else absolute(value, folder)
            except InvalidSettings as error:
                raise InvalidSettings(f"{name}: {error}") from None
    return found


def _validated(model: type[M], values: dict[str, Any]) -> M:
    found: M = model.__pydantic_validator__.validate_python(values)
    return found


def _is_there(path: Path) -> bool:
    """Tell whether a file lies there, also one that cannot be read: then somebody should hear of it."""
    try:
        path.parent.lstat()
        path.stat()
    except PermissionError:
        return os.path.lexists(path.parent)
    except OSError:
        return False
    return True


def _is_ours(path: Path) -> bool:
    """Tell whether a project's file, its folder and the links to them are this user's or the administrator's."""
    try:
        owners = {look().st_uid for each in (path, path.parent) for look in (each.lstat, each.stat)}
    except OSError:
        return False
    return owners <= {0, os.geteuid()}


def _reason(error: Exception, model: type[BaseModel]) -> str:
    return explained(error, model) if isinstance(error, ValidationError) else _one_line(error)


def _one_line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'not YAML'}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return next(iter(str(error).splitlines()), type(error).__name__)
