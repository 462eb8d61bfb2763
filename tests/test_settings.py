"""One resolver for paths, URLs and variables: who wins, what is refused, what is never shown, and file modes."""

from __future__ import annotations

import os
import re
import stat
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from dgent.exceptions import InvalidInput, InvalidSettings, ReadOnly
from dgent.runtime.private_files import look_at_directory, look_at_files, private_directory, private_file
from dgent.settings import Settings, parse_url, shown
from dgent.settings.trust import Trust
from dgent.warnings import PrivacyWarning, SettingsWarning

SECRET = "hunter2-geheim"
URL = f"postgresql://someone:{SECRET}@db.example.org:5432/agents"


@pytest.fixture
def project(clean_room: Path) -> Path:
    """A project's config file, in the working directory."""
    return _config(clean_room / ".kgents")


@pytest.fixture
def user(clean_room: Path) -> Path:
    """The user's config file, under the XDG base."""
    return _config(clean_room / "config" / "kgents")


def _config(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder / "config.yaml"


def trusted(path: Path, text: str) -> None:
    """Write the config file of a project, and trust it."""
    path.write_text(text)
    Trust(Settings().trust_path).add(path, path.read_bytes())


# Who wins


def test_defaults_lie_under_xdg(clean_room: Path) -> None:
    settings = Settings.load()
    assert settings.sqlite_path == clean_room / "data" / "kgents" / "membrane.db"
    assert settings.config_dir == clean_room / "config" / "kgents"
    assert settings.cache_dir == clean_room / "cache" / "kgents"
    assert settings.url.render_as_string() == f"sqlite+aiosqlite:///{settings.sqlite_path}"
    assert {settings.jsonl_path.parent, settings.manifest_path.parent} == {settings.data_dir}
    assert not settings.data_dir.exists()  # resolving makes nothing


def test_without_xdg_they_lie_under_home(clean_room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME")
    assert Settings.load().data_dir.is_relative_to(clean_room)


def test_the_first_source_that_speaks_wins(project: Path, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [Settings.load().namespace]
    user.write_text("namespace: from-user\n")
    seen.append(Settings.load().namespace)
    project.write_text("namespace: from-project\n")
    seen.append(Settings.load().namespace)
    monkeypatch.setenv("KGENTS_NAMESPACE", "from-variable")
    seen.append(Settings.load().namespace)
    seen.append(Settings.load(namespace="from-argument").namespace)
    assert seen == ["default", "from-user", "from-project", "from-variable", "from-argument"]


def test_sources_are_joined_name_by_name(project: Path, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text("pool_size: 7\nstrict: true\n")
    trusted(project, "strict: false\n")
    monkeypatch.setenv("KGENTS_BUSY_TIMEOUT", "3")
    settings = Settings.load(max_page=50)
    assert (settings.pool_size, settings.strict, settings.busy_timeout, settings.max_page) == (7, False, 3.0, 50)
    assert settings.limits.max_page == 50


def test_the_project_is_the_nearest_folder_upwards(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text("namespace: outer\n")
    inner = project.parent.parent / "src" / "deep"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert Settings.load().namespace == "outer"
    _config(inner / ".kgents").write_text("namespace: inner\n")
    assert Settings.load().namespace == "inner"


def test_an_argument_that_is_none_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_NAMESPACE", "from-variable")
    assert Settings.load(namespace=None).namespace == "from-variable"


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_an_empty_variable_is_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = getattr(Settings.load(), name)
    monkeypatch.setenv(f"KGENTS_{name.upper()}", "")
    assert getattr(Settings.load(), name) == default


def test_a_chain_in_a_variable_is_names_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_CHAIN", "sqlite, jsonl")
    assert Settings.load().chain == ("sqlite", "jsonl")


def test_paths_are_absolute_and_know_home(clean_room: Path) -> None:
    assert Settings.load(data_dir="~/x").data_dir == clean_room / "x"
    assert Settings.load(data_dir="x").data_dir == clean_room / "x"


# A broken config file

BROKEN = {
    "a: 1\nb: [1, 2\nc: 3\n": "line 3",
    "a: b: c\n": "line 1",
    "\tnamespace: x\n": "line 1",
    "namespace: !!python/object/apply:os.system [echo]\n": "line 1",
    "- a\n- b\n": "not a mapping",
    "just text": "not a mapping",
    "namespcae: x\n": "namespcae",
    "pool_size: many\n": "pool_size",
    "pool_size: 0\nstrict: 5\n": "strict",
    "namespace: ../x\n": "namespace",
    "chain: [sqlite, sqlite]\n": "chain",
    "chain: [mongo]\n": "chain",
    "database_url: mysql://host/db\n": "mysql",
    "database_url: 5\n": "database URL",
    "database_url: sqlite:///x.db?mode=fast\n": "mode",
    "1: x\n": "not a mapping",
    "namespace: 2024-13-45\n": "month",
    "data_dir: ~nosuchuser-here/x\n": "data_dir",
    "[" * 5_000: "too deep",
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: repr(text[:20]))
def test_a_broken_config_file_warns_and_falls_back(text: str, project: Path, user: Path) -> None:
    user.write_text("namespace: from-user\n")
    trusted(project, text)
    with pytest.warns(SettingsWarning) as caught:
        settings = Settings.load()
    assert settings.namespace == "from-user"
    [message] = [str(warning.message) for warning in caught]
    assert str(project) in message
    assert BROKEN[text] in message.removeprefix(str(project))
    assert "\n" not in message


def test_a_config_file_that_is_not_text_warns(project: Path) -> None:
    project.write_bytes(b"namespace: \xff\xfe\n")
    with pytest.warns(SettingsWarning, match="UTF-8"):
        assert Settings.load().namespace == "default"


def test_an_empty_config_file_says_nothing(project: Path, user: Path) -> None:
    project.write_text("")
    user.write_text("# nothing yet\n")
    assert Settings.load().namespace == "default"


@given(st.binary(max_size=60) | st.text("ab:[]{}- #&*!?|>\n'\"1", max_size=30).map(str.encode))
@example(b"a: &a [*a]")
@example(b"? [1]\n: 2")
@example(b"{}: 1")
@example(b"null: 1")
@example(b"<<: 5")
def test_no_config_file_stops_a_program(content: bytes) -> None:
    path = Path(".kgents/config.yaml")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SettingsWarning)
        assert Settings.load().pool_size == 5


# What is refused

WRONG: list[tuple[str, Any]] = [
    ("database_url", "nonsense"), ("database_url", "mysql://host/db"), ("database_url", "postgresql://host:port/db"),
    ("database_url", 5), ("namespace", "../x"), ("namespace", "a\0"), ("namespace", ""), ("chain", ""),
    ("chain", "mongo"),
    ("chain", ()), ("chain", "sqlite,sqlite"), ("pool_size", 0), ("pool_timeout", 0), ("busy_timeout", -1),
    ("busy_timeout", float("nan")), ("max_content", 0), ("environment", "staging"), ("synchronous", "OFF"),
    ("data_dir", "a\0b"), ("data_dir", "~nosuchuser-here/x"), ("no_such_setting", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda part: str(part)[:12])
def test_a_wrong_argument_is_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=name):
        Settings.load(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [pair for pair in WRONG if isinstance(pair[1], str) and "\0" not in pair[1] and pair[1]]
)
def test_a_wrong_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"KGENTS_{name.upper()}", value)
    with pytest.raises(InvalidSettings, match=f"KGENTS_{name.upper()}"):
        Settings.load()


def test_a_variable_that_sets_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_DATABSE_URL", URL)
    with pytest.raises(
        InvalidSettings, match=r"KGENTS_DATABSE_URL sets nothing: .*did you mean database_url\?"
    ) as caught:
        Settings.load()
    assert SECRET not in _chain_of(caught.value)
    monkeypatch.setenv("KGENTS_DATABSE_URL", "")
    monkeypatch.setenv("KGENTS_TEST_ANYTHING", "of the tests")
    monkeypatch.setenv("KGENTS_XYZZY", "of another program")
    for of_kubernetes in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT",
        "PORT_80_TCP",
        "PORT_80_TCP_ADDR",
    ):
        monkeypatch.setenv(f"KGENTS_DATABASE_{of_kubernetes}", "10.0.0.1")
    monkeypatch.setenv("kgents_namespace", "in-small-letters")
    assert Settings.load().namespace == "in-small-letters"
    monkeypatch.setenv("KGENTS_POOL_SIZE__X", "5")
    with pytest.raises(InvalidSettings, match="pool_size"):
        Settings.load()


def test_a_url_in_the_wrong_variable_does_not_show_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_NAMESPACE", f"postgresql://u:{SECRET}@host/db")
    with pytest.raises(InvalidSettings, match="KGENTS_NAMESPACE") as caught:
        Settings.load()
    assert SECRET not in _chain_of(caught.value)


@pytest.mark.parametrize("text", ["namespcae: x\n", "pool_size: many\n", "a: [1\n"])
def test_under_strict_a_config_file_that_does_not_count_is_an_error(text: str, project: Path, user: Path) -> None:
    user.write_text(text)
    with pytest.raises(InvalidSettings, match="strict") as caught:
        Settings.load(strict=True)
    assert str(user) in str(caught.value)
    user.write_text("strict: true\n")
    trusted(project, text)
    with pytest.raises(InvalidSettings, match="strict") as caught:
        Settings.load()
    assert str(project) in str(caught.value)


def test_a_config_file_that_asks_for_strict_is_not_passed_over(user: Path) -> None:
    user.write_text(f"strict: true\ndatabse_url: {URL}\n")
    with pytest.raises(InvalidSettings, match="did you mean database_url"):
        Settings.load()


def test_a_file_that_nobody_trusts_stops_no_program_under_strict(project: Path) -> None:
    project.write_text("strict: true\nno_such_setting: 1\n")
    with pytest.warns(SettingsWarning, match="no setting 'no_such_setting'"):
        assert Settings.load(strict=True).strict
    project.chmod(0o000)
    if os.geteuid():
        with pytest.warns(SettingsWarning, match="Permission denied"):
            assert Settings.load(strict=True).strict


SAID: list[tuple[dict[str, Any], str]] = [
    ({"databse_url": "x"}, "there is no setting 'databse_url': did you mean database_url?"),
    ({"database_url": 5}, "database_url: the database URL cannot be read: write sqlite:////absolute/path.db or"),
    ({"strict": "maybe"}, "strict does not fit: use true or false"),
    ({"data_dir": 5}, "data_dir does not fit: use a path"),
    ({"chain": "redis"}, "chain names 'redis': use postgres, sqlite, jsonl, memory"),
    ({"chain": URL}, "chain names what is not known: use postgres, sqlite, jsonl, memory"),
    ({"environment": "staging"}, "environment names 'staging': use production, development"),
    ({"pool_size": "many"}, "pool_size does not fit: use a whole number"),
    ({"pool_size": 0}, "pool_size does not fit: use a number from 1"),
    ({"pool_timeout": 0}, "pool_timeout does not fit: use a number above 0"),
    ({"store": {"bakend": "sqlite"}}, "store has no field 'bakend': did you mean backend?"),
    ({"store": 5}, 'store does not fit: use a mapping like {"backend": "sqlite"}'),
    ({"store": {"backend": "mysql"}}, "store.backend names 'mysql': use sqlite, postgres"),
]


@pytest.mark.parametrize(("given", "said"), SAID, ids=lambda part: str(part)[:20])
def test_a_mistake_is_told_in_words_of_our_own(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings.load(**given)
    assert str(caught.value).startswith(said)


def test_a_mistake_in_a_variable_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_CHAIN", "redis")
    with pytest.raises(InvalidSettings, match=r"^KGENTS_CHAIN names 'redis': use postgres, sqlite, jsonl, memory$"):
        Settings.load(pool_size=3)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_no_mistake_is_told_in_the_words_of_pydantic(name: str) -> None:
    for value in (object(), -1, {"x": 1}):
        with pytest.raises(InvalidSettings) as caught:
            Settings.load(**{name: value})
        assert not re.search("Input should|Extra inputs|Value error|valid", str(caught.value))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().namespace = "other"  # type: ignore[misc]


# URLs


@pytest.mark.parametrize(
    ("given_url", "driver", "database"),
    [
        ("postgresql://me@host/db", "postgresql+asyncpg", "db"),
        ("postgres://me@host/db", "postgresql+asyncpg", "db"),
        ("postgresql+asyncpg://me@host/db", "postgresql+asyncpg", "db"),
        ("postgresql+psycopg://me@host/db", "postgresql+asyncpg", "db"),
        ("postgresql://me@/db?host=/var/run/postgresql", "postgresql+asyncpg", "db"),
        ("sqlite:////abs/x.db", "sqlite+aiosqlite", "/abs/x.db"),
        ("sqlite+aiosqlite:////abs/x.db", "sqlite+aiosqlite", "/abs/x.db"),
        ("sqlite+pysqlite:////abs/x.db", "sqlite+aiosqlite", "/abs/x.db"),
    ],
)
def test_url_forms(given_url: str, driver: str, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_URL", given_url)
    url = Settings.load().url
    assert (url.drivername, url.database) == (driver, database)
    assert parse_url(url) == url  # reading twice changes nothing
    assert parse_url(None) is None


def test_a_password_with_odd_characters_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_URL", "postgresql://me:p%40ss%2Fw%3Ard@[::1]:5433/db")
    url = Settings.load().url
    assert (url.password, url.host, url.port) == ("p@ss/w:rd", "::1", 5433)


# Secrets


def test_no_password_in_anything_that_is_shown() -> None:
    settings = Settings.load(database_url=f"{URL}?sslpassword={SECRET}")
    texts = [repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump()), f"{settings!r:>9}"]
    texts += [str(settings.model_dump(mode="json")), shown(settings.url), repr(settings.model_copy())]
    texts += [str(list(settings.__rich_repr__())), str(settings.__repr_args__())]
    assert [text for text in texts if SECRET in text] == []
    assert "db.example.org" in shown(settings.url)
    assert settings.url.password == SECRET


WRONG_URLS = [
    f"postgresql://u:{SECRET}@host:port/db",
    f"mysql://u:{SECRET}@host/db",
    f"://u:{SECRET}@host",
    f"{SECRET}",
]


@pytest.mark.parametrize("url", [*WRONG_URLS, f"postgresql:/u:{SECRET}@host/db", f"postgresql//u:{SECRET}@host/db"])
def test_no_password_in_an_error_or_a_warning(url: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for load in (lambda: Settings.load(database_url=url), lambda: parse_url(url)):
        with pytest.raises(InvalidSettings) as caught:
            load()
        assert SECRET not in "".join(
            traceback.format_exception(caught.value)[:1] + traceback.format_exception_only(caught.value)
        )
        assert SECRET not in _chain_of(caught.value)
    for write in (trusted, Path.write_text):
        write(project, f"database_url: '{url}'\n")
        with pytest.warns(SettingsWarning) as recorded:
            Settings.load()
        assert SECRET not in "".join(str(warning.message) for warning in recorded)
    monkeypatch.setenv("KGENTS_DATABASE_URL", url)
    with pytest.raises(InvalidSettings) as caught:
        Settings.load()
    assert SECRET not in _chain_of(caught.value)


def _chain_of(error: BaseException) -> str:
    """Return what a traceback would print of an error and of those that it came from."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format_exception_only()) + (
        _chain_of(error.__cause__ or error.__context__)
        if error.__cause__ or (error.__context__ and not error.__suppress_context__)
        else ""
    )


def test_another_wrong_setting_does_not_show_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_URL", URL)
    with pytest.raises(InvalidSettings) as caught:
        Settings.load(pool_size=0)
    assert SECRET not in _chain_of(caught.value)


def test_shown_keeps_what_is_no_secret() -> None:
    assert shown(make_url("sqlite+aiosqlite:////tmp/x.db")) == "sqlite+aiosqlite:////tmp/x.db"


# File modes


@pytest.fixture
def no_umask() -> Any:
    before = os.umask(0)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("no_umask")
def test_directories_and_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    path = private_file(tmp_path / "a" / "b" / "file")
    assert [_mode(each) for each in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]
    assert private_file(path) == path  # again, silently
    assert private_directory(path.parent) == path.parent


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    path = private_file(tmp_path / "file")
    path.write_bytes(b"content")
    private_file(path)
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666, 0o620])
def test_a_wider_file_warns_with_the_command_to_type(mode: int, tmp_path: Path) -> None:
    path = private_file(tmp_path / "file")
    path.chmod(mode)
    private_file(path)  # silently: it may be anybody's
    with pytest.warns(PrivacyWarning, match=f"chmod 600 {path}"):
        look_at_files(path)
    assert _mode(path) == mode


def test_only_a_folder_of_ours_that_nobody_shares_is_to_be_closed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "shared").mkdir()
    (tmp_path / "open").mkdir()
    for name, mode in (("file", 0o644), ("shared", 0o1777), ("open", 0o755)):
        (tmp_path / name).chmod(mode)
    for name in ("file", "shared", "nowhere"):
        look_at_directory(tmp_path / name)
    with pytest.warns(PrivacyWarning, match="chmod 700"):
        look_at_directory(tmp_path / "open")
    if not os.geteuid():
        os.chown(tmp_path / "open", 1, 1)
        look_at_directory(tmp_path / "open")


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_planted_link_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / target)
    with pytest.raises(ReadOnly, match="link"):
        private_file(link)
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_what_is_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o600)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in ("folder", "pipe", "file/below", "nul\0"):
        with pytest.raises(ReadOnly):
            private_file(tmp_path / path)
    for path in ("file", "file/below", "nul\0"):
        with pytest.raises(ReadOnly):
            private_directory(tmp_path / path)
    for private in (private_file, private_directory):
        with pytest.raises(InvalidInput, match="too long"):
            private(tmp_path / ("x" * 300))
