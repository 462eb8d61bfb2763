"""Whoever enters a folder has not read what lies in it: what counts of a project's config file, and when all of it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dgent import Settings, StorageProvider
from dgent.exceptions import InvalidSettings, ReadOnly
from dgent.settings import approved
from dgent.settings.trust import Trust
from dgent.warnings import PrivacyWarning, SettingsWarning

SECRET = "hunter2-geheim"
HARMLESS = {"namespace": "theirs", "max_content": 10, "max_metadata": 10, "max_page": 10, "max_chain": 10}
VALUES: dict[str, Any] = {
    "data_dir": "/theirs/data",
    "config_dir": "/theirs/config",
    "cache_dir": "/theirs/cache",
    "database_url": f"postgresql://u:{SECRET}@their.example.org/x",
    "store": "{backend: postgres}",
    "environment": "development",
    "chain": "[memory]",
    "strict": "true",
    "spill": "true",
    "modules": "[evil]",
    "synchronous": "NORMAL",
    "busy_timeout": 0,
    "pool_size": 100,
    "pool_timeout": 3600,
    "connect_timeout": 3600,
    "command_timeout": 86400,
    "transaction_timeout": 86400,
}
OTHERS = sorted(set(Settings.model_fields) - set(HARMLESS))


@pytest.fixture
def project(clean_room: Path) -> Path:
    """A project's config file, in the working directory; nobody trusts it."""
    path = clean_room / "project" / ".kgents" / "config.yaml"
    path.parent.mkdir(parents=True)
    os.chdir(path.parent.parent)  # the clean room goes back
    return path


@pytest.fixture
def user(clean_room: Path) -> Path:
    path = clean_room / "config" / "kgents" / "config.yaml"
    path.parent.mkdir(parents=True)
    return path


def trust(path: Path) -> None:
    Trust(Settings().trust_path).add(path, path.read_bytes())


def loaded(**arguments: Any) -> tuple[Settings, str]:
    """Load the settings, which warn, and return what was said."""
    with pytest.warns(SettingsWarning) as caught:
        settings = Settings.load(**arguments)
    return settings, "\n".join(str(each.message) for each in caught)


@pytest.mark.parametrize("name", OTHERS)
def test_what_says_where_and_how_safely_is_ignored_and_named(name: str, project: Path) -> None:
    """Every setting but the harmless ones: also one that is added later, and is not in the list of this test."""
    before = Settings.load()
    project.write_text(f"{name}: {VALUES.get(name, 'x')}\nnamespace: theirs\n")
    settings, said = loaded()
    assert settings.model_copy(update={"namespace": "default"}) == before
    assert settings.namespace == "theirs"
    assert f"{project} is not trusted, and of it was ignored: {name}: " in said
    assert "kg config trust" in said
    assert SECRET not in said
    assert "example.org" not in said  # names, never values


def test_the_harmless_counts_and_says_nothing(project: Path) -> None:
    project.write_text("\n".join(f"{name}: {value}" for name, value in HARMLESS.items()))
    settings = Settings.load()
    assert {name: getattr(settings, name) for name in HARMLESS} == HARMLESS


@pytest.mark.parametrize("name", sorted(set(HARMLESS) - {"namespace"}))
def test_a_limit_counts_only_if_it_is_lower_than_it_would_be(name: str, project: Path, user: Path) -> None:
    usual = getattr(Settings.load(), name)
    project.write_text(f"{name}: {usual + 1}\n")
    settings, said = loaded()
    assert getattr(settings, name) == usual
    assert name in said
    project.write_text(f"{name}: {usual}\n")
    assert getattr(Settings.load(), name) == usual
    user.write_text(f"{name}: 100\n")
    project.write_text(f"{name}: 101\n")
    settings, said = loaded()
    assert getattr(settings, name) == 100


def test_arguments_and_variables_are_not_touched(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text("namespace: theirs\nstrict: true\nmax_page: 7\n")
    monkeypatch.setenv("KGENTS_NAMESPACE", "mine")
    settings, _ = loaded(max_page=70)
    assert (settings.namespace, settings.max_page, settings.strict) == ("mine", 70, False)


async def test_a_secret_does_not_leave_the_machine(project: Path, clean_room: Path) -> None:
    project.write_text("database_url: postgresql://theirs.example.org/x\ndata_dir: /theirs\n")
    with pytest.warns(SettingsWarning, match="data_dir, database_url"):
        storage = await StorageProvider.from_config()
    async with storage:
        assert storage.memory.name == "sqlite"
    assert (clean_room / "data" / "kgents" / "membrane.db").is_file()


# All of it, once it is trusted


def test_a_trusted_file_counts_in_full_until_it_changes(project: Path) -> None:
    text = "environment: development\nstore: {backend: sqlite}\nmax_page: 100000\nmodules: [app]\n"
    project.write_text(text)
    trust(project)
    settings = Settings.load()
    assert (settings.environment, settings.max_page, settings.modules) == ("development", 100000, ("app",))
    project.write_text(f"{text}strict: true\n")
    settings, said = loaded()
    assert (settings.environment, settings.strict) == ("production", False)
    assert "environment, max_page, modules, store, strict" in said
    project.write_text(text)  # as it was
    assert Settings.load().environment == "development"


def test_trust_is_of_one_place(project: Path, clean_room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text("strict: true\n")
    trust(project)
    copied = clean_room / "elsewhere" / ".kgents" / "config.yaml"
    copied.parent.mkdir(parents=True)
    copied.write_bytes(project.read_bytes())
    monkeypatch.chdir(copied.parent.parent)
    assert not loaded()[0].strict


@pytest.mark.parametrize("linked", ["the file", "the folder", "the project"])
def test_a_link_is_followed_to_what_was_trusted(
    linked: str, project: Path, clean_room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_text("strict: true\n")
    trust(project)
    other = clean_room / "other"
    if linked == "the project":
        other.symlink_to(project.parent.parent)
    elif linked == "the folder":
        other.mkdir()
        (other / ".kgents").symlink_to(project.parent)
    else:
        (other / ".kgents").mkdir(parents=True)
        (other / ".kgents" / "config.yaml").symlink_to(project)
    monkeypatch.chdir(other)
    assert Settings.load().strict
    project.unlink()
    project.symlink_to(clean_room / "planted.yaml")  # the same path now leads to something else
    (clean_room / "planted.yaml").write_text("strict: true\nspill: true\n")
    assert not loaded()[0].spill


def test_trust_can_be_taken_back(project: Path) -> None:
    project.write_text("strict: true\n")
    record = Trust(Settings().trust_path)
    trust(project)
    assert Settings.load().strict
    assert record.drop(project)
    assert not record.drop(project)
    assert not loaded()[0].strict


def test_what_cannot_count_cannot_be_trusted(project: Path) -> None:
    for text in ("strict: maybe\n", "- a\n", "x" * 2**17, "no_such_setting: 1\n"):
        project.write_text(text)
        with pytest.raises(InvalidSettings, match="cannot be trusted"):
            approved(project, Settings)
    project.unlink()
    with pytest.raises(InvalidSettings, match="no such file"):
        approved(project, Settings)


# The record


def test_the_record_is_private_and_whole(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = os.umask(0)
    try:
        project.write_text("strict: true\n")
        trust(project)
    finally:
        os.umask(mask)
    record = Settings().trust_path
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700
    before = record.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ReadOnly, match="nothing changed"):
            Trust(record).add(project, b"other")
    assert record.read_bytes() == before
    assert [path.name for path in record.parent.iterdir()] == [record.name]


def test_a_record_in_a_place_that_cannot_be_written_is_a_typed_error(project: Path, clean_room: Path) -> None:
    (clean_room / "file").touch()
    with pytest.raises(ReadOnly):
        Trust(clean_room / "file" / "kgents" / "trusted.json").add(project, b"")


def test_nobody_loses_what_another_trusts(clean_room: Path) -> None:
    record = Trust(clean_room / "config" / "kgents" / "trusted.json")
    files = [clean_room / f"{n}.yaml" for n in range(32)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda file: Trust(record.record).add(file, b"x"), files))
    assert set(record.files()) == {str(file) for file in files}


@pytest.mark.parametrize("harm", ["mode", "link", "damaged", "empty", "newer", "folder", "pipe"])
def test_a_record_that_others_could_have_written_is_not_believed(harm: str, project: Path) -> None:
    project.write_text("strict: true\n")
    trust(project)
    record = Settings().trust_path
    if harm == "mode":
        record.chmod(0o622)
    elif harm == "link":
        record.rename(record.with_name("elsewhere"))
        record.symlink_to(record.with_name("elsewhere"))
    elif harm in {"folder", "pipe"}:
        record.unlink()
        record.mkdir() if harm == "folder" else os.mkfifo(record)
    else:
        record.write_bytes({"damaged": b'{"format": 1, "trusted": [', "empty": b"", "newer": b'{"format": 2}'}[harm])
    settings, said = loaded()
    assert not settings.strict
    assert str(record) in said


# Whose file it is, and where it is looked for


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["the file", "the folder", "a link to the file", "a link to the folder"])
def test_a_file_of_another_user_says_nothing_at_all(what: str, project: Path, clean_room: Path) -> None:
    project.write_text("namespace: theirs\n")
    assert Settings.load().namespace == "theirs"
    if what == "a link to the file":
        project.rename(clean_room / "mine.yaml")
        project.symlink_to(clean_room / "mine.yaml")
    elif what == "a link to the folder":
        project.parent.rename(clean_room / "mine")
        project.parent.symlink_to(clean_room / "mine")
    theirs = project if "file" in what else project.parent
    os.chown(theirs, 65534, 65534, follow_symlinks=False)
    settings, said = loaded()
    assert settings.namespace == "default"
    assert "belongs to another user" in said
    trust(project)
    assert Settings.load().namespace == "theirs"  # its user has read it


def test_above_the_home_nobody_looks(clean_room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above = clean_room / ".kgents" / "config.yaml"
    above.parent.mkdir()
    above.write_text("namespace: above\n")
    home = clean_room / "people" / "ada"
    (home / "work").mkdir(parents=True)
    monkeypatch.chdir(home / "work")
    assert Settings.load().namespace == "above"
    monkeypatch.setenv("HOME", str(home))
    assert Settings.load().namespace == "default"
    (home / ".kgents").mkdir()
    (home / ".kgents" / "config.yaml").write_text("namespace: home\n")
    assert Settings.load().namespace == "home"


def test_the_users_own_file_is_no_projects(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text("strict: true\n")
    monkeypatch.setenv("KGENTS_CONFIG_DIR", str(project.parent))
    assert Settings.load().strict


# What cannot be read


def test_a_file_that_is_none_or_too_large_holds_up_nobody(project: Path) -> None:
    os.mkfifo(project)
    assert "no regular file" in loaded()[1]
    project.unlink()
    project.mkdir()
    assert "no regular file" in loaded()[1]
    project.rmdir()
    project.write_text("namespace: theirs\n" + "#" * 2**17)
    assert "larger than" in loaded()[1]
    project.write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nnamespace: *c\n")
    assert "there is no setting 'a'" in loaded()[1]


def test_a_name_in_an_untrusted_file_steers_no_terminal(project: Path) -> None:
    project.write_text('"\\e[31mx\\n": 1\n')
    said = loaded()[1]
    assert "\x1b" not in said
    assert "\n" not in said


LOAD = """
import os, warnings
from dgent import Settings
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
warnings.simplefilter("always")
print(Settings.load().namespace)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_cannot_be_entered_is_said_and_passed_over(project: Path, clean_room: Path) -> None:
    """As another user, since root may enter everything."""
    room = Path(tempfile.mkdtemp())
    room.chmod(0o755)
    closed = [room / ".kgents", room / "config"]
    for folder in closed:
        folder.mkdir(mode=0)
    environment = {"KGENTS_CONFIG_DIR": str(room / "config"), "HOME": str(room)}
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, cwd=room, env=environment, capture_output=True, text=True, check=False)
    shutil.rmtree(room)
    assert (done.returncode, done.stdout) == (0, "default\n"), done.stderr
    assert done.stderr.count("was passed over: Permission denied") == 2


# A password that others can read


def test_a_config_file_with_a_password_that_others_can_read_warns(user: Path, project: Path) -> None:
    for path in (user, project):
        path.write_text(f"database_url: postgresql://me:{SECRET}@localhost/x\n")
        trust(project) if path == project else None
        path.chmod(0o640)
        with pytest.warns(PrivacyWarning, match=f"chmod 600 {path}") as caught:
            Settings.load()
        assert SECRET not in str(caught[0].message)
        path.chmod(0o600)
        Settings.load()
    user.write_text("database_url: postgresql://me@localhost/x\n")
    user.chmod(0o644)
    Settings.load()  # no secret in it


# Where each setting comes from


def test_each_setting_knows_where_it_comes_from(project: Path, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text("pool_size: 7\nspill: true\n")
    project.write_text("namespace: theirs\nspill: false\n")
    monkeypatch.setenv("KGENTS_STORE__BACKEND", "sqlite")
    monkeypatch.setenv("KGENTS_MAX_PAGE", "70")
    with pytest.warns(SettingsWarning):
        settings, origins = Settings.resolve(strict=True)
    assert origins.named == {
        "strict": "argument",
        "store": "variable KGENTS_STORE__BACKEND",
        "max_page": "variable KGENTS_MAX_PAGE",
        "pool_size": "user file",
        "spill": "user file",
        "namespace": "project file",
    }
    assert settings.spill
    assert origins.project is not None
    assert (origins.project.trusted, origins.project.ignored) == (False, ("spill",))
