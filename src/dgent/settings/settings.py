"""The settings, and which of their sources wins.

First wins: arguments, `KGENTS_*` variables, `.kgents/config.yaml` of the project (the working directory or one above
it), `config.yaml` under the XDG config directory, defaults. A project's file that its user does not trust says little;
one that cannot be read or does not fit warns, and is passed over as a whole: see `config_file`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003  # pydantic reads the annotations at run time
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from sqlalchemy.engine import URL

from dgent.exceptions import DgentError, InvalidSettings
from dgent.limits import Limits
from dgent.settings.config_file import ConfigFile, project_file, project_folder, tell, user_file
from dgent.settings.database_url import parse_url, shown
from dgent.settings.mistakes import PREFIX, explained, refuse_unknown_variables, variable_of
from dgent.settings.sqlite_url import absolute
from dgent.settings.trust import Trust
from dgent.validation import check_namespace

APP = "kgents"
BackendName = Literal["postgres", "sqlite", "jsonl", "memory"]


def _xdg(kind: Literal["config", "data", "cache"]) -> Path:
    found: Path = getattr(platformdirs, f"user_{kind}_path")(APP, appauthor=False)
    return found


DatabaseURL = Annotated[URL, BeforeValidator(parse_url), PlainSerializer(shown)]


class BackendKind(StrEnum):
    """What keeps the data: a file of this machine, which needs no daemon, or a server.

    The names of it, of `Dialect`, `Value` and `StorePolicy` are those of the `agent-store` crate.
    """

    SQLITE = "sqlite"
    POSTGRES = "postgres"


Dialect: TypeAlias = BackendKind
"""The SQL that a backend speaks: each speaks its own."""
Value: TypeAlias = int | float | str | bytes | None
"""What goes into a statement and comes out of a row."""


class StorePolicy(BaseModel):
    """Which database serves, as a program states it: a flat policy, each field of which may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    backend: BackendKind = BackendKind.SQLITE


class Origins(NamedTuple):
    """Where settings come from.

    Attributes:
        named: "argument", "variable KGENTS_...", "project file" or "user file", by the name of a setting; those that
            are not here are defaults.
        project: what the project's file says, if there is one.
        user: what the user's file says.
    """

    named: dict[str, str]
    project: ConfigFile | None
    user: ConfigFile


class Settings(BaseSettings):
    """Where things are and how they behave. Times are in seconds, sizes in bytes.

    Make it with `Settings.load()`, which raises InvalidSettings instead of pydantic's error.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
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
    database_schema: str | None = Field(
        default=None,
        description="The PostgreSQL schema that every table lives in, made if it is not there. Default: the first of "
        "the role's search path.",
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
    delivery_timeout: float = Field(
        default=30.0, gt=0, le=86400, description="Longest wait for writes that are on their way to the first backend."
    )

    modules: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Python modules that kg imports first: they declare schemas and tables. Those of a trusted project "
        "may lie in its folder. In a variable: names joined by commas.",
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

    @field_validator("database_schema")
    @classmethod
    def _schema(cls, value: str | None) -> str | None:
        if value is not None and (not 0 < len(value.encode(errors="replace")) <= 63 or "\0" in value):
            raise ValueError("the name of a schema is 1 to 63 bytes long")
        if value is not None and (value.startswith("pg_") or value == "information_schema"):
            raise ValueError("that schema is the server's own")
        return value

    @field_validator("data_dir", "config_dir", "cache_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return absolute(str(value))

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
        return cls.resolve(**arguments)[0]

    @classmethod
    def resolve(cls, **arguments: Any) -> tuple[Self, Origins]:
        """Resolve the settings as `load` does, and tell where each comes from.

        Raises:
            InvalidSettings: an argument or a variable does not fit; the message names it.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            return cls._resolved(given)
        except ValidationError as error:
            raise InvalidSettings(explained(error, cls, arguments=given)) from None
        except SettingsError:  # of the fields that pydantic-settings decodes there is this one
            raise InvalidSettings('store (or KGENTS_STORE): it is no JSON object like {"backend": "sqlite"}') from None
        except DgentError as error:
            raise InvalidSettings(str(error)) from None

    @classmethod
    def _resolved(cls, given: dict[str, Any]) -> tuple[Self, Origins]:
        refuse_unknown_variables(cls)
        base = cls(**given)
        named = {
            name: "argument" if name in given else f"variable {variable_of(name)}" for name in base.model_fields_set
        }
        user = user_file(base.config_dir / "config.yaml", cls)
        values = {name: value for name, value in user.values.items() if name not in named}
        usual = cls(**values, **given) if values else base
        folder = project_folder(user.path)
        project = None if folder is None else project_file(folder, Trust(base.trust_path), usual)
        over = {} if project is None else {key: value for key, value in project.values.items() if key not in named}
        named |= dict.fromkeys(values, "user file") | dict.fromkeys(over, "project file")
        settings = cls(**{**values, **over}, **given) if over else usual
        for file in (user, *([] if project is None else [project])):
            tell(file, strict=settings.strict)
        return settings._agreed(), Origins(named, project, user)

    def _agreed(self) -> Self:
        """Return settings whose policy is what serves; InvalidSettings where one was stated that cannot be."""
        serving = BackendKind.SQLITE if self.url.get_backend_name() == "sqlite" else BackendKind.POSTGRES
        if self.database_schema is not None and serving == BackendKind.SQLITE:
            raise InvalidSettings(
                "database_schema (or KGENTS_DATABASE_SCHEMA) is for PostgreSQL: set KGENTS_DATABASE_URL to its URL, or "
                "leave it out: a SQLite file is a schema of its own"
            )
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
    def in_memory(self) -> bool:
        """Whether the database lies in the memory of this process and ends with it."""
        return self.url.query.get("vfs") == "memdb"

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
    def trust_path(self) -> Path:
        """Where it is written down which files of projects are trusted."""
        return self.config_dir / "trusted.json"

    @property
    def limits(self) -> Limits:
        """The limits that stores enforce."""
        return Limits(self.max_content, self.max_metadata, self.max_page, self.max_chain)
