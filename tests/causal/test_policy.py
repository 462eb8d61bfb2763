"""The policy says which database serves: a file by default, a server where one is named, and never both."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from dgent.causal import BackendKind, Dialect, StorePolicy, Value
from dgent.exceptions import InvalidSettings
from dgent.settings import Settings
from dgent.warnings import SettingsWarning

POSTGRES = "postgresql://me:geheim@host/db"


def test_the_default_is_a_local_file_and_no_daemon() -> None:
    assert StorePolicy().backend is BackendKind.SQLITE
    settings = Settings.load()
    assert settings.store == StorePolicy(backend=BackendKind.SQLITE)
    assert settings.url.get_backend_name() == "sqlite"


def test_the_names_are_those_of_the_crate() -> None:
    assert [kind.value for kind in BackendKind] == ["sqlite", "postgres"]
    assert (Dialect.SQLITE, Dialect.POSTGRES) == ("sqlite", "postgres")
    assert set(get_args(Value)) == {type(None), int, float, str, bytes}


@pytest.mark.parametrize(
    ("variables", "serving"),
    [
        ({}, "sqlite"),
        ({"KGENTS_STORE": "{}"}, "sqlite"),
        ({"KGENTS_STORE": '{"backend": "sqlite"}'}, "sqlite"),
        ({"KGENTS_STORE__BACKEND": "sqlite", "KGENTS_DATABASE_URL": "sqlite:////tmp/x.db"}, "sqlite"),
        ({"KGENTS_DATABASE_URL": POSTGRES}, "postgres"),
        ({"KGENTS_DATABASE_URL": POSTGRES, "KGENTS_STORE": "{}"}, "postgres"),
        ({"KGENTS_DATABASE_URL": POSTGRES, "KGENTS_STORE": '{"backend": "postgres"}'}, "postgres"),
        ({"KGENTS_DATABASE_URL": POSTGRES, "KGENTS_STORE__BACKEND": "postgres"}, "postgres"),
    ],
)
def test_the_policy_names_what_serves(variables: dict[str, str], serving: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.store.backend == serving
    assert settings.url.get_backend_name().startswith(serving)


@pytest.mark.parametrize(
    "store",
    [
        {"backend": "mysql"},
        {"backend": "SQLITE"},
        {"backend": ""},
        {"backend": None},
        {"daemon": True},
        "sqlite",
        5,
        [],
    ],
)
def test_an_unknown_backend_is_an_error(store: object) -> None:
    with pytest.raises(InvalidSettings, match="store"):
        Settings.load(store=store)


@pytest.mark.parametrize(
    "value", ["mysql", '{"backend": "mysql"}', '{"backend": ', "[]", "5", '{"daemon": 1}', "sqlite", "{}{}"]
)
def test_a_wrong_variable_is_an_error_that_names_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGENTS_STORE", value)
    with pytest.raises(InvalidSettings, match="KGENTS_STORE"):
        Settings.load()


@pytest.mark.parametrize("name", ["KGENTS_STORE__BACKEND", "KGENTS_STORE__BAKEND"])
def test_a_wrong_nested_variable_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "mysql")
    with pytest.raises(InvalidSettings, match=f"^{name} "):
        Settings.load()


def test_postgres_needs_a_url_and_says_what_to_set() -> None:
    for named in ({}, {"database_url": "sqlite:////tmp/x.db"}):
        with pytest.raises(InvalidSettings, match=r"KGENTS_DATABASE_URL.*postgresql://"):
            Settings.load(store={"backend": "postgres"}, **named)


def test_a_contradiction_is_refused_without_showing_the_password() -> None:
    with pytest.raises(InvalidSettings, match="leave out one") as caught:
        Settings.load(store=StorePolicy(backend=BackendKind.SQLITE), database_url=POSTGRES)
    assert "geheim" not in str(caught.value)


def test_each_half_may_come_from_another_source(clean_room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = clean_room / "config" / "kgents" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("store: {backend: postgres}\n")
    with pytest.raises(InvalidSettings, match="KGENTS_STORE__BACKEND"):
        Settings.load()
    monkeypatch.setenv("KGENTS_DATABASE_URL", POSTGRES)
    assert Settings.load().store.backend == "postgres"
    monkeypatch.delenv("KGENTS_DATABASE_URL")
    assert Settings.load(database_url=POSTGRES).store.backend == "postgres"
    assert Settings.load(store={"backend": "sqlite"}).url.get_backend_name() == "sqlite"


def test_a_config_file_with_an_unknown_backend_is_passed_over_with_a_warning(clean_room: Path) -> None:
    config = clean_room / "config" / "kgents" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("store: {backend: mysql}\n")
    with pytest.warns(SettingsWarning, match=r"store\.backend"):
        assert Settings.load().store.backend == "sqlite"


def test_what_was_loaded_loads_again() -> None:
    settings = Settings.load(database_url=POSTGRES)
    assert Settings.load(store=settings.store, database_url=POSTGRES).store == settings.store


def test_a_policy_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        StorePolicy().backend = BackendKind.POSTGRES  # type: ignore[misc]
