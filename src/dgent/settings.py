"""Every path, URL and environment variable, resolved here and nowhere else.

First wins: arguments, `KGENTS_*` variables, `.kgents/config.yaml` of the project (the working directory or one above
it), `config.yaml` under the XDG config directory, defaults. A config file that cannot be read or does not fit warns,
naming the file and what is wrong in it, and is passed over as a whole.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
import yaml
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from dgent.checks import check_namespace
from dgent.datum import Limits
from dgent.exceptions import DgentError, InvalidSettings, PrivacyWarning, ReadOnly, SettingsWarning, StorageError
from dgent.policy import BackendKind, StorePolicy

APP = "kgents"
BackendName = Literal["postgres", "sqlite", "jsonl", "memory"]


def parse_url(value: str | URL | None) -> URL | None:
    """Return a database URL with the driver that D-gent uses.

    `postgresql://` and `postgres://` are read as `postgresql+asyncpg://`, `sqlite://` as `sqlite+aiosqlite://`.

    Raises:
        InvalidSettings: it is no URL, or one of another database. The message shows no password.
    """
    if value is None or isinstance(value, URL):
        return value
    try:
        url = make_url(value)
    except (ArgumentError, ValueError, TypeError):
        raise InvalidSettings(
            "the database URL cannot be read: write sqlite:////absolute/path.db or postgresql://user@host/name"
        ) from None
    backend = url.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+asyncpg")
    if backend == "sqlite":
        return url.set(drivername="sqlite+aiosqlite")
    raise InvalidSettings(f"the database URL names {backend!r}: D-gent runs on sqlite and postgresql")


def shown(url: URL) -> str:
    """Return a URL as text for people: without its password, and without the values of its options."""
    if url.query:
        url = url.set(query=dict.fromkeys(url.query, "..."))
    return url.render_as_string(hide_password=True)


def _xdg(kind: Literal["config", "data", "cache"]) -> Path:
    found: Path = getattr(platformdirs, f"user_{kind}_path")(APP, appauthor=False)
    return found


DatabaseURL = Annotated[URL, BeforeValidator(parse_url), PlainSerializer(shown)]


class Settings(BaseSettings):
    """Where things are and how they behave. Times are in seconds, sizes in bytes.

    Make it with `Settings.load()`, which raises InvalidSettings instead of pydantic's error.
    """

    model_config = SettingsConfigDict(
        env_prefix="KGENTS_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(default_factory=lambda: _xdg("data"), description="Where databases and files lie.")
    config_dir: Path = Field(default_factory=lambda: _xdg("config"), description="Where config.yaml lies.")
    cache_dir: Path = Field(default_factory=lambda: _xdg("cache"), description="Where what can be made again lies.")
    database_url: DatabaseURL | None = Field(
        default=None, description="The database of both tracks. Default: membrane.db in data_dir.", repr=False
    )
    store: StorePolicy = Field(
        default=StorePolicy(),
        description="Which database serves. Left out it is what database_url names; stated, the two must agree. "
        "KGENTS_STORE__BACKEND sets its one field.",
    )
    environment: Literal["production", "development"] = Field(
        default="production", description="Downgrades are refused in production."
    )

    namespace: str = Field(default="default", description="The namespace of storage.memory.")
    chain: Annotated[tuple[BackendName, ...], NoDecode] = Field(
        default=("postgres", "sqlite", "jsonl", "memory"),
        description="Memory backends in the order of preference. In a variable: names joined by commas.",
    )
    strict: bool = Field(default=False, description="An unmet choice is an error instead of a fallback.")
    spill: bool = Field(default=False, description="Take writes in the next backend while the first is out of reach.")

    modules: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Python modules that kg imports first: they declare schemas and tables. A project's own file may "
        "not name any. In a variable: names joined by commas.",
    )

    synchronous: Literal["FULL", "NORMAL"] = Field(
        default="FULL",
        description="SQLite's synchronous. NORMAL may lose the last commits on power loss, never on a crash.",
    )
    busy_timeout: float = Field(default=30.0, ge=0, le=3600, description="Longest wait for SQLite's write lock.")
    pool_size: int = Field(default=5, ge=1, le=100, description="Connections to PostgreSQL: for reads, and for writes.")
    pool_timeout: float = Field(default=10.0, gt=0, le=3600, description="Longest wait for a pooled connection.")
    connect_timeout: float = Field(default=5.0, gt=0, le=3600, description="Longest wait for a server to answer.")
    command_timeout: float = Field(default=60.0, gt=0, le=86400, description="Longest run of one statement.")
    transaction_timeout: float = Field(
        default=60.0, gt=0, le=86400, description="Longest time that storage.transaction() may hold the write lock."
    )

    max_content: int = Field(default=Limits().max_content, ge=1, description="Largest content of a datum.")
    max_metadata: int = Field(default=Limits().max_metadata, ge=2, description="Largest metadata of a datum.")
    max_page: int = Field(default=Limits().max_page, ge=1, description="Largest limit of one page.")
    max_chain: int = Field(default=Limits().max_chain, ge=1, description="Longest causal chain that is read at once.")

    @field_validator("chain", "modules", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("chain")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("name at least one backend, and none twice")
        return value

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, value: str) -> str:
        return check_namespace(value)

    @field_validator("data_dir", "config_dir", "cache_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if "\0" in str(value):
            raise ValueError("a path holds no NUL")
        try:
            return absolute(value.expanduser())
        except RuntimeError:
            raise ValueError("the home directory of that user is not known") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave the config files to `load`, where a broken one is passed over instead of being an error."""
        return init_settings, env_settings

    @classmethod
    def load(cls, **arguments: Any) -> Self:
        """Resolve the settings; arguments that are None count as not given.

        Raises:
            InvalidSettings: an argument or a variable does not fit; the message names it.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            base = cls(**given)
            filed = {**_from_file(base.config_dir / "config.yaml", cls), **_from_project(cls)}
            stated = base.model_fields_set
            return cls(**{name: value for name, value in filed.items() if name not in stated}, **given)._agreed()
        except ValidationError as error:
            raise InvalidSettings(_explain(error)) from None
        except SettingsError:  # of the fields that pydantic-settings decodes there is this one
            raise InvalidSettings('store (or KGENTS_STORE): it is no JSON object like {"backend": "sqlite"}') from None
        except DgentError as error:
            raise InvalidSettings(str(error)) from None

    def _agreed(self) -> Self:
        """Return settings whose policy is what serves; InvalidSettings where one was stated that cannot be."""
        serving = BackendKind.SQLITE if self.url.get_backend_name() == "sqlite" else BackendKind.POSTGRES
        if self.store.backend == serving:
            return self
        if "backend" not in self.store.model_fields_set:
            return self.model_copy(update={"store": StorePolicy(backend=serving)})
        if serving == BackendKind.SQLITE:
            how = "set database_url (or KGENTS_DATABASE_URL) to postgresql://user@host/name"
        else:
            how = "database_url (or KGENTS_DATABASE_URL) names PostgreSQL: leave out one of the two"
        raise InvalidSettings(f"store (or KGENTS_STORE__BACKEND) is {self.store.backend}: {how}")

    @property
    def url(self) -> URL:
        """The database of both tracks, with its driver."""
        if self.database_url is not None:
            return self.database_url
        return URL.create("sqlite+aiosqlite", database=str(self.sqlite_path))

    @property
    def sqlite_path(self) -> Path:
        """Where the SQLite file of this machine lies."""
        return self.data_dir / "membrane.db"

    @property
    def jsonl_path(self) -> Path:
        """Where the JSONL backend keeps its file."""
        return self.data_dir / "memory.jsonl"

    @property
    def manifest_path(self) -> Path:
        """Where the choice of backend and the ids of the stores are written down."""
        return self.data_dir / "manifest.json"

    @property
    def limits(self) -> Limits:
        """The limits that stores enforce."""
        return Limits(self.max_content, self.max_metadata, self.max_page, self.max_chain)


def _project_file() -> Path | None:
    try:
        here = Path.cwd()
    except OSError:  # it was deleted, and a folder that is not there has no project
        return None
    found = (folder / ".kgents" / "config.yaml" for folder in (here, *here.parents))
    return next((path for path in found if _is_file(path)), here / ".kgents" / "config.yaml")


def _is_file(path: Path) -> bool:
    """Tell whether there is a file; one that cannot be looked at counts, and is warned of when it is read."""
    try:
        return path.is_file()
    except OSError:
        return True


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return a path from the root.

    Raises:
        InvalidSettings: it is relative to a working directory that was deleted.
    """
    try:
        return Path(path).absolute()
    except FileNotFoundError:
        raise InvalidSettings(
            f"{os.fspath(path)} is relative, and the working directory was deleted: give the whole path, or change to "
            "a folder that is there"
        ) from None


def _from_project(model: type[Settings]) -> dict[str, Any]:
    """Return what the project's file sets; a folder that somebody merely entered must not run its code."""
    path = _project_file()
    if path is None:
        return {}
    values = _from_file(path, model)
    if values.pop("modules", None):
        warnings.warn(
            f"{path}: modules was ignored, since importing them runs code: set KGENTS_MODULES, or use --import",
            SettingsWarning,
            stacklevel=4,
        )
    return values


def _from_file(path: Path, model: type[Settings]) -> dict[str, Any]:
    """Return what a config file sets, or nothing, with a warning that says why, if it is broken."""
    try:
        if not path.is_file():
            return {}
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise InvalidSettings("it is not a mapping of names to values")
        model.__pydantic_validator__.validate_python(values)
    except (OSError, yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: also an impossible date
        reason = _explain(error) if isinstance(error, ValidationError) else _one_line(error)
        warnings.warn(f"{path} was passed over: {reason}", SettingsWarning, stacklevel=4)
        return {}
    return values


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


def _explain(error: ValidationError) -> str:
    parts = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = ".".join(str(step) for step in problem["loc"]) or "settings"
        known = name.split(".")[0] in Settings.model_fields
        hint = f" (or KGENTS_{name.split('.')[0].upper()})" if known else ""
        parts.append(f"{name}{hint}: {problem['msg']}")
    return "; ".join(parts)


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner can enter (0700), parents included, and return it.

    Raises:
        ReadOnly: it cannot be made, or is no directory.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        if not path.is_dir():
            raise ReadOnly(f"{path} is not a directory: move it away, or set KGENTS_DATA_DIR")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, DgentError):
            raise
        raise ReadOnly(f"cannot make the directory {path}: {getattr(error, 'strerror', error)}") from None
    return path


def private_file(path: Path) -> Path:
    """Create a file that only its owner can read (0600) if it is not there, and return its path.

    Never opens a file that exists: closing it would drop the locks that SQLite holds on it. A file that others can
    read warns. A symbolic link is refused.

    Raises:
        ReadOnly: it cannot be made, or is no regular file.
    """
    private_directory(path.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600))
    except FileExistsError:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise ReadOnly(f"{path} is not a regular file: a link in the data directory is not followed") from None
        if mode & 0o077:
            message = f"{path} can be read by other users: run `chmod 600 {path}`"
            warnings.warn(message, PrivacyWarning, stacklevel=3)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in {errno.EMFILE, errno.ENFILE}:
            raise StorageError(
                f"no file descriptors are left to make {path} with: raise the limit (`ulimit -n`)"
            ) from None
        raise ReadOnly(f"cannot create {path}: {getattr(error, 'strerror', error)}") from None
    return path
