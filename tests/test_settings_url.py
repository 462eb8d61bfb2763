"""SQLite URLs mean what they mean elsewhere; where a path is meant, a URL or a special name is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL, make_url

from dgent import JSONLBackend, PostgresBackend, Settings, SQLiteBackend
from dgent.exceptions import InvalidSettings
from dgent.settings import parse_url, shown
from dgent.settings.trust import Trust
from dgent.warnings import SettingsWarning

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = [
    ("sqlite:///x.db", "/x.db"),
    ("sqlite:///sub/../x.db", "/sub/../x.db"),
    ("sqlite:///~/x.db", "/x.db"),  # the home is the working directory here
    ("file:x.db", "/x.db"),
    ("file:~/x.db", "/x.db"),
    ("sqlite:///file:x.db?uri=true", "/x.db"),
    ("sqlite:///a b.db", "/a b.db"),
    ("sqlite:///a%20b.db", "/a b.db"),  # as SQLAlchemy 2.1 reads it
    ("file:a%20b.db", "/a b.db"),
    ("file:a%3Fb%23.db", "/a?b#.db"),
]
OPTIONS: list[tuple[str, dict[str, str]]] = [
    ("file:/abs/x.db", {}),
    ("file:///abs/x.db", {}),
    ("file://localhost/abs/x.db?mode=rwc", {}),
    ("file:/abs/x.db?mode=ro", {"mode": "ro"}),
    ("file:/abs/x.db?mode=ro#fragment", {"mode": "ro"}),
    ("file:/abs/x.db?mode=rw&immutable=0", {"mode": "rw"}),
    ("file:/abs/x.db?immutable=1", {"mode": "ro", "immutable": "1"}),
    ("file:/abs/x.db?immutable=true&mode=ro", {"mode": "ro", "immutable": "1"}),
    ("sqlite:///file:/abs/x.db?mode=ro&uri=true", {"mode": "ro"}),
    ("sqlite:////abs/x.db?mode=ro", {"mode": "ro"}),
    ("sqlite+aiosqlite:////abs/x.db?mode=ro&immutable=1", {"mode": "ro", "immutable": "1"}),
    ("sqlite+pysqlite:////abs/x.db?uri=true", {}),
]
MEMORY = [
    "sqlite://",
    "sqlite:///",
    "sqlite:///:memory:",
    "sqlite+aiosqlite:///:memory:",
    "file::memory:",
    "file::memory:?cache=shared",
    "file:",
    "file:?mode=ro",
    "file:x?mode=memory",
    "sqlite:///x.db?mode=memory",
    "sqlite:///file:x?mode=memory&cache=shared&uri=true",
]
REFUSED = [
    ("sqlite:///x.db?timeout=5", "'timeout'.*busy_timeout.*immutable=1"),
    ("sqlite:///x.db?cache=shared", "'cache'.*mode=ro"),
    ("sqlite:///x.db?check_same_thread=false", "'check_same_thread'.*mode=ro"),
    ("file:x.db?nolock=1", "'nolock'"),
    ("file:/x.db?vfs=unix-none", "'vfs'"),
    ("file:x?vfs=memdb", "'vfs'"),  # by SQLite's rules such a name is shared with nobody
    ("sqlite:////x?vfs=memdb&mode=ro", "'vfs'"),
    ("sqlite:///x.db?mode=fast", "'mode'"),
    ("file:x.db?mode=", "'mode'"),
    ("sqlite:///x.db?mode=", "'mode' .* has no value"),
    ("sqlite:///x.db?immutable", "'immutable' .* has no value"),
    ("sqlite:///x.db?mode=ro&foo", "'foo' .* has no value"),
    ("sqlite:///x.db?mode=ro&mode=rw", "'mode' more than once"),
    ("sqlite:///x.db?immutable=maybe", "'immutable'"),
    ("sqlite:///x.db?immutable=1&mode=rw", "immutable=1 and mode=rw"),
    ("sqlite://x.db", "three slashes"),
    ("sqlite://user@/x.db", "three slashes"),
    ("sqlite://host/x.db", "three slashes"),
    ("file://host/x.db", "names a host"),
    ("file://[/x.db", "cannot be read"),
    ("sqlite:///a\0b", "NUL"),
    ("file:a%00b", "NUL"),
    ("sqlite:///~nosuchuser-here/x.db", "home directory"),
]


def wherever(url: str, patch: pytest.MonkeyPatch) -> list[Callable[[], Settings]]:
    """Return the ways in which a URL gets into the settings."""

    def variable() -> Settings:
        with patch.context() as inner:
            inner.setenv("KGENTS_DATABASE_URL", url)
            return Settings.load()

    def parsed() -> Settings:
        return Settings.load(database_url=parse_url(url))

    return [lambda: Settings.load(database_url=url), parsed, *([variable] if "\0" not in url else [])]


@pytest.mark.parametrize(("url", "below"), HERE)
def test_a_relative_path_is_made_absolute_once(
    url: str, below: str, clean_room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for load in wherever(url, monkeypatch):
        settings = load()
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            assert settings.url.database == f"{clean_room}{below}"
            assert parse_url(settings.url) == settings.url  # reading twice changes nothing


def test_a_url_that_somebody_made_is_read_alike(clean_room: Path) -> None:
    made = URL.create("sqlite", database="x.db", query={"mode": "ro"})
    assert Settings.load(database_url=made).url == URL.create(
        "sqlite+aiosqlite", database=f"{clean_room}/x.db", query={"mode": "ro"}
    )
    for bare in (URL.create("sqlite"), URL.create("sqlite", database="x.db", query={"mode": "fast"})):
        with pytest.raises(InvalidSettings):
            Settings.load(database_url=bare)


@pytest.mark.parametrize(("url", "options"), OPTIONS)
def test_options_of_sqlite_are_understood(url: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for load in wherever(url, monkeypatch):
        found = load().url
        assert (found.drivername, found.database, dict(found.query)) == ("sqlite+aiosqlite", "/abs/x.db", options)
    text = "&".join(f"{name}={value}" for name, value in sorted(options.items()))
    assert shown(found) == f"sqlite+aiosqlite:////abs/x.db{'?' if text else ''}{text}"  # they are no secrets


@pytest.mark.parametrize("url", MEMORY)
def test_a_database_that_ends_with_its_connection_is_refused(
    url: str, clean_room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for load in wherever(url, monkeypatch):
        with pytest.raises(InvalidSettings, match=r"create_minimal\(\).*MemoryBackend\(\)"):
            load()
    assert list(clean_room.iterdir()) == []


@pytest.mark.parametrize(("url", "named"), REFUSED)
def test_what_is_not_known_is_refused_by_name(url: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for load in wherever(url, monkeypatch):
        with pytest.raises(InvalidSettings, match=named):
            load()


def test_a_database_in_the_memory_of_this_process_has_a_name() -> None:
    for url in ("sqlite:////scratch?vfs=memdb", "file:/scratch?vfs=memdb"):
        found = Settings.load(database_url=url).url
        assert (found.database, dict(found.query)) == ("/scratch", {"vfs": "memdb"})
        assert parse_url(found) == found


@given(st.text(max_size=30), st.text(max_size=12))
def test_any_text_is_a_url_in_its_one_form_or_refused(name: str, option: str) -> None:
    for text in (
        f"sqlite:///{name}?{option}",
        f"file:{name}?mode={option}",
        f"sqlite:{name}",
        f"sqlite:///file:{name}",
    ):
        try:
            url = parse_url(text)
        except InvalidSettings:
            continue
        assert url is not None
        assert Path(str(url.database)).is_absolute()
        assert set(url.query) <= {"mode", "immutable", "vfs"}
        assert parse_url(url) == url


# In a config file


def project(folder: Path, text: str) -> None:
    path = folder / ".kgents" / "config.yaml"
    path.parent.mkdir()
    path.write_text(text)
    Trust(Settings().trust_path).add(path, path.read_bytes())


PLACES = "database_url: sqlite:///x.db?mode=rw\ndata_dir: data\ncache_dir: ~/cache\n"


def test_paths_in_a_config_file_are_relative_to_its_folder(
    clean_room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the program was started: else each working directory would have a database of its own."""
    user = clean_room / "config" / "kgents" / "config.yaml"
    user.parent.mkdir(parents=True)
    user.write_text(PLACES)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load()
    assert (settings.url.database, settings.data_dir) == (f"{user.parent}/x.db", user.parent / "data")
    assert (settings.cache_dir, dict(settings.url.query)) == (clean_room / "cache", {"mode": "rw"})
    project(tmp_path, PLACES)
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    settings = Settings.load()
    assert (settings.url.database, settings.data_dir) == (f"{tmp_path}/.kgents/x.db", tmp_path / ".kgents" / "data")


def test_a_wrong_option_in_a_config_file_is_named(clean_room: Path) -> None:
    project(clean_room, "database_url: sqlite:///x.db?timeout=5\n")
    with pytest.warns(SettingsWarning, match=r"config\.yaml was passed over: database_url: .*'timeout'"):
        assert Settings.load().database_url is None


def test_a_working_directory_that_is_gone_is_a_typed_error_and_only_where_it_matters(
    clean_room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = clean_room / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert Settings.load().namespace == "default"
    assert Settings.load(database_url="sqlite:////abs/x.db").url.database == "/abs/x.db"
    places: list[Callable[[], Any]] = [
        lambda: Settings.load(database_url="sqlite:///x.db"),
        lambda: Settings.load(data_dir="x"),
        lambda: SQLiteBackend("x.db"),
        lambda: JSONLBackend("x.jsonl"),
    ]
    for load in places:
        with pytest.raises(InvalidSettings, match="working directory"):
            load()


# Servers


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:p@hunter2@host/db",
        "postgres://ada:p@hunter2@host/db?sslmode=require",
        "postgresql://ada:p@ss/hunter2@host/db",
        "postgresql://ada:p@ss?hunter2@host/db",
        "postgresql://ada:p@ss?hunter2=1@host/db",
        "postgresql://ada@hunter2:p@host/db",
        "postgresql+asyncpg://ada:p@hunter2@[::1]:5432/db",
        "postgresql://ada:p@host/db?application_name=hunter2@here",
    ],
)
def test_a_url_with_two_ats_is_refused_and_nothing_of_it_is_shown(
    url: str, clean_room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the password ends is not known then: its tail was shown as a host, a database or an option."""
    for load in [*wherever(url, monkeypatch), lambda: PostgresBackend(url)]:
        with pytest.raises(InvalidSettings, match=r"more than one @.*written %40") as refused:
            load()
        assert "hunter2" not in str(refused.value)
    project(clean_room, f"database_url: {url}\n")
    with pytest.warns(SettingsWarning, match="more than one @") as warned:
        assert Settings.load().database_url is None
    assert not any("hunter2" in str(each.message) for each in warned)


def test_an_at_in_the_host_of_a_url_that_somebody_made_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="%40") as refused:
        PostgresBackend(make_url("postgresql://ada:p@hunter2@host/db"))
    assert "hunter2" not in str(refused.value)


def test_a_password_with_an_escaped_at_is_read() -> None:
    url = Settings.load(database_url="postgresql://ada:p%40ss%3F@host/a%40b?application_name=x%40y").url
    assert (url.password, url.host, dict(url.query)) == ("p@ss?", "host", {"application_name": "x@y"})


@pytest.mark.parametrize("query", ["pgbouncer", "sslmode=", "foo", "sslmode=require&application_name", "host="])
def test_an_option_without_a_value_is_refused_by_its_name(
    query: str, clean_room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy leaves it out."""
    name = query.rpartition("&")[2].rstrip("=")
    url = f"postgresql://ada:why?@host/db?{query}"
    for load in [*wherever(url, monkeypatch), lambda: PostgresBackend(url)]:
        with pytest.raises(InvalidSettings, match=f"'{name}' in the database URL has no value"):
            load()


# Where a path is meant


@pytest.mark.parametrize("kind", [SQLiteBackend, JSONLBackend])
@pytest.mark.parametrize("wrap", [str, Path])
@pytest.mark.parametrize(
    ("name", "instead"),
    [
        (":memory:", r"MemoryBackend\(\)"),
        ("sqlite:///x.db", "database_url"),
        ("sqlite+aiosqlite:///x.db", "database_url"),
        ("sqlite://", "database_url"),
        ("file:x.db?mode=ro", "database_url"),
        ("postgresql://user@host/db", "database_url"),
        ("postgres:x", "database_url"),
    ],
)
def test_where_a_path_is_meant_a_url_says_what_to_use_instead(
    kind: Any, wrap: Callable[[str], Any], name: str, instead: str, clean_room: Path
) -> None:
    with pytest.raises(InvalidSettings, match=instead):
        kind(wrap(name))
    assert list(clean_room.iterdir()) == []


@pytest.mark.parametrize("kind", [SQLiteBackend, JSONLBackend])
@pytest.mark.parametrize("name", ["", b"x.db", "a\0b", "~nosuchuser-here/x"])
def test_what_is_no_path_is_refused(kind: Any, name: Any) -> None:
    with pytest.raises(InvalidSettings):
        kind(name)


def test_no_password_in_the_refusal_of_a_path() -> None:
    with pytest.raises(InvalidSettings) as refused:
        SQLiteBackend("postgresql://me:hunter2-geheim@host/db")
    assert "hunter2" not in str(refused.value)


def test_paths_of_both_stores_know_the_home(clean_room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = JSONLBackend("~/x.jsonl")
    assert lines.path == clean_room / "x.jsonl"
    rows = SQLiteBackend("~/x.db")
    assert rows.database.url.database == os.fspath(clean_room / "x.db")
