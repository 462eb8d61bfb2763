"""`kg config`: where each setting comes from, and which project may make settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.cli.run_kg import Runner

SECRET = "hunter2-s3cret"
ELSEWHERE = f"database_url: postgresql://me:{SECRET}@127.0.0.1:1/x\nnamespace: theirs\nconnect_timeout: 1\n"


@pytest.fixture
def project(clean_room: Path) -> Path:
    path = clean_room / "project" / ".kgents" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(ELSEWHERE)
    path.chmod(0o600)
    os.chdir(path.parent.parent)  # the clean room goes back
    return path


def test_a_secret_goes_where_the_user_keeps_data(kg: Runner, project: Path, clean_room: Path) -> None:
    done = kg("memory", "put", "my secret", "--id", "a")
    assert f"warning: {project} is not trusted, and of it was ignored: connect_timeout, database_url: " in done.err
    assert "`kg config trust`" in done.err
    assert kg.json("--namespace", "theirs", "memory", "get", "a")["text"] == "my secret"
    assert (clean_room / "data" / "kgents" / "membrane.db").is_file()


def test_a_trusted_project_says_where(kg: Runner, project: Path) -> None:
    done = kg("config", "trust")
    assert str(project) in done.text
    assert "database_url: postgresql+asyncpg://me:***@127.0.0.1:1/x" in done.text  # what was trusted is shown
    assert done.err == ""
    assert SECRET not in done.text
    assert kg("memory", "list", code=6).err.count("127.0.0.1:1") == 1
    assert kg.json("config", "untrust")["path"] == str(project)
    assert "is not trusted" in kg("memory", "list").err
    assert "is not trusted" in kg("config", "untrust", code=3).err


def test_a_changed_file_is_trusted_no_more(kg: Runner, project: Path) -> None:
    kg("config", "trust")
    project.write_text(f"{ELSEWHERE}strict: true\n")
    assert "ignored: connect_timeout, database_url, strict" in kg("memory", "list").err


def test_a_project_is_named_by_its_folder_its_file_or_where_one_is(kg: Runner, project: Path, clean_room: Path) -> None:
    os.chdir(clean_room)
    assert "no .kgents/config.yaml here" in kg("config", "trust", code=3).err
    for name in ("project", "project/.kgents/config.yaml", project):
        assert kg.json("config", "trust", name) == {
            "path": str(project),
            "settings": ["connect_timeout", "database_url", "namespace"],
        }
        kg("config", "untrust", name)
    assert "no such file" in kg("config", "trust", "data", code=1).err
    project.write_text("strict: maybe\n")
    assert "cannot be trusted: strict" in kg("config", "trust", project, code=1).err


def test_what_is_gone_can_be_untrusted(kg: Runner, project: Path) -> None:
    kg("config", "trust")
    project.unlink()
    assert kg.json("config", "show")["trusted"] == [str(project)]
    kg("config", "untrust", project)
    assert kg.json("config", "show")["trusted"] == []


def test_show_names_each_value_and_where_it_comes_from(
    kg: Runner, project: Path, clean_room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = clean_room / "config" / "kgents" / "config.yaml"
    user.parent.mkdir(parents=True)
    user.write_text("pool_size: 7\n")
    monkeypatch.setenv("KGENTS_DATABASE_URL", f"postgresql://you:{SECRET}@127.0.0.1:1/y")
    found = kg.json("--namespace", "mine", "config", "show")
    rows = {name: (row["value"], row["from"]) for name, row in found["settings"].items()}
    assert rows["namespace"] == ("mine", "argument")
    assert rows["database_url"] == ("postgresql+asyncpg://you:***@127.0.0.1:1/y", "variable KGENTS_DATABASE_URL")
    assert rows["pool_size"] == (7, "user file")
    assert rows["strict"] == (False, "default")
    assert found["files"][0]["path"] == str(user)
    assert found["files"][1] == {
        "kind": "project file",
        "path": str(project),
        "state": "not trusted",
        "ignored": ["connect_timeout", "database_url"],
        "problem": "",
    }
    assert kg.json("config", "show")["settings"]["namespace"] == {"value": "theirs", "from": "project file"}
    text = kg("config", "show").text
    assert f"project file: {project} (not trusted), ignored: connect_timeout, database_url" in text
    assert SECRET not in text
    kg("config", "trust")
    assert f"trusted while it is as it was: {project}" in kg("config", "show").text
    project.write_text("strict: true\n")
    text = kg("config", "show").text
    assert f"was trusted, but not as it is now: {project}" in text
    assert "trusted while it is as it was" not in text


def test_show_writes_a_mapping_as_json(kg: Runner, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.unlink()
    monkeypatch.setenv("KGENTS_STORE", '{"backend": "sqlite"}')
    assert '{"backend":"sqlite"}' in kg("config", "show").text


def test_show_names_a_file_that_was_passed_over(kg: Runner, project: Path) -> None:
    project.write_text("namespace: [\n")
    assert "passed over: line 2" in kg("config", "show").text


EVIL = "import pathlib; pathlib.Path('ran').touch()\n"


def test_entering_a_folder_runs_no_code(kg: Runner, project: Path, clean_room: Path) -> None:
    """Neither a module that the project names, nor one of the folder with the name of one of the user's own."""
    here = project.parent.parent
    (here / "evil_of_the_config_test.py").write_text(EVIL)
    project.write_text("modules: [evil_of_the_config_test]\n")
    assert "ignored: modules" in kg("crystal", "schemas").err
    project.unlink()
    user = clean_room / "config" / "kgents" / "config.yaml"
    user.parent.mkdir(parents=True)
    user.write_text("modules: [evil_of_the_config_test]\n")
    assert "cannot be imported" in kg("crystal", "schemas", code=1).err
    assert not (here / "ran").exists()


def test_the_modules_of_a_trusted_project_lie_in_its_folder(
    kg: Runner, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = project.parent.parent
    (here / "good_of_the_config_test.py").write_text(EVIL)
    project.write_text("modules: [good_of_the_config_test]\n")
    (here / "deep").mkdir()
    monkeypatch.chdir(here / "deep")
    kg("config", "trust")
    try:
        kg("crystal", "schemas")
    finally:
        sys.modules.pop("good_of_the_config_test", None)
    assert (here / "deep" / "ran").exists()
