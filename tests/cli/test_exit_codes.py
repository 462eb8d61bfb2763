"""How `kg` ends: its exit codes, one line for each error, and no secret in any of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.run_kg import SAMPLE, Runner, spawned

from dgent import Datum, exceptions
from dgent.cli.app import app
from dgent.cli.command import Kg, command, ended
from dgent.cli.exit_codes import ExitCode, exit_code
from dgent.exceptions import StorageError
from dgent.memory.failover.manifest import ManifestFile
from dgent.settings import Settings
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
SECRET = "hunter2-s3cret"
UNREACHABLE = f"postgresql://somebody:{SECRET}@127.0.0.1:1/x"


def commands(group: Any, path: str = "kg") -> Iterator[tuple[str, Any]]:
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, f"{path} {name}")
        else:
            yield f"{path} {name}", each


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_every_command_is_documented_and_explains_itself(kg: Runner) -> None:
    assert set(re.findall(r"^\| `(kg [a-z -]+)` \|", DOCS.read_text("utf-8"), re.MULTILINE)) == set(COMMANDS)
    for path, each in COMMANDS.items():
        assert each.help, path
        assert all(parameter.help or parameter.name == "help" for parameter in each.params), path
        assert "--json" in kg(*path.split()[1:], "--help").text


def test_help_cuts_no_line_and_shows_no_type_of_pythons_for_an_option(
    kg: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for group in {"", *(path.split()[1] for path in COMMANDS if path.count(" ") > 1)}:
        lines = kg(*group.split(), "--help").text.splitlines()
        assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage")]
    for path in COMMANDS:
        assert not re.search(r"--\S+ <list", kg(*path.split()[1:], "--help").text), path


def test_every_exit_code_is_documented() -> None:
    codes = re.findall(r"^\| (\d+) \| .{10,} \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert [int(code) for code in codes] == sorted(ExitCode)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("DatumNotFound", 3),
        ("PathNotFound", 3),
        ("VersionConflict", 4),
        ("IntegrityViolation", 4),
        ("PermissionDenied", 5),
        ("BackendUnavailable", 6),
        ("UnknownBackend", 6),
        ("StorageTimeout", 6),
        ("OutcomeUnknown", 6),
        ("Corrupt", 7),
        ("InvalidDatum", 1),
        ("InvalidQuery", 2),
        ("InvalidCursor", 2),
        ("DiskFull", 1),
        ("ReadOnly", 1),
        ("SchemaTooNew", 1),
        ("CapabilityMissing", 1),
    ],
)
def test_each_kind_of_error_has_its_code(error: str, code: int) -> None:
    kind = getattr(exceptions, error)
    assert exit_code(kind.__new__(kind)) == code


def end(error: BaseException, **options: Any) -> int:
    with pytest.raises(typer.Exit) as exited, ended(Kg(**options)):
        raise error
    return exited.value.exit_code


def test_an_error_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(StorageError("first\nsecond \x1b[31m third")) == 1
    assert capsys.readouterr().err == "kg: first second \\x1b[31m third\n"
    assert end(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "kg: interrupted; what was acknowledged is safe\n"


def test_a_bug_is_named_and_its_text_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(RuntimeError(SECRET)) == 1
    told = capsys.readouterr().err
    assert "a bug of ours: RuntimeError in test_exit_codes.py" in told
    assert SECRET not in told
    assert end(RuntimeError("shown"), traceback=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_warnings_are_one_line_each_and_said_once(kg: Runner, clean_room: Path) -> None:
    (clean_room / ".kgents").mkdir()
    (clean_room / ".kgents" / "config.yaml").write_text("namespace: [\n")
    done = kg("memory", "put", "x")
    assert re.fullmatch(r"warning: .*config\.yaml was passed over: line 2.*\n", done.err)


@pytest.mark.parametrize("words", ["", "memory", "memory gte", "memory get", "memory put x --ttl soon", "data --no a"])
def test_a_wrong_command_line_is_code_2_and_touches_nothing(kg: Runner, clean_room: Path, words: str) -> None:
    assert kg(*words.split(), code=2).out == b"" or words in {"", "memory"}
    assert list(clean_room.rglob("*.db")) == []


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "memory list",
        "memory put x",
        "data self.data.list",
        "data self.data.table.crystal.list",
        "db upgrade",
        "db current",
        "db check",
        "brain capture x",
        "brain search",
        f"town import {SAMPLE}",
        "memory export",
    ],
)
@pytest.mark.parametrize("strict", ["", "true"])
def test_no_secret_is_ever_shown(kg: Runner, monkeypatch: pytest.MonkeyPatch, words: str, strict: str) -> None:
    monkeypatch.setenv("KGENTS_DATABASE_URL", UNREACHABLE)
    monkeypatch.setenv("KGENTS_STRICT", strict)
    monkeypatch.setenv("KGENTS_CONNECT_TIMEOUT", "1")
    for options in ((), ("--json",), ("--traceback",)):
        done = kg(*options, *words.split(), code=None)
        assert SECRET not in done.text + done.err
        assert done.code == 6 or not strict


@pytest.mark.parametrize("url", [f"mysql://u:{SECRET}@h/x", f"nonsense {SECRET}", f"postgresql://u:{SECRET}@h:port/x"])
def test_no_unreadable_url_is_repeated(kg: Runner, url: str) -> None:
    assert SECRET not in kg("--database-url", url, "status", code=1).err


def test_a_database_that_is_none_is_told_apart(kg: Runner, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"this is no database, it is a line of text\n" * 40)
    done = kg("--database-url", f"sqlite:///{tmp_path}/x.db", "db", "current", code=7)
    assert "is damaged or is no database" in done.err


def test_a_schema_that_is_missing_says_what_to_type(kg: Runner) -> None:
    for words in ("db check", "brain search", f"town import {SAMPLE}", "data self.data.table.crystal.list"):
        assert kg(*words.split(), code=1).err.count("run `kg db upgrade`, or") == 1


def test_migrations_from_the_command_line(kg: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kg.json("db", "current") == {"revision": None, "head": "004"}
    assert kg.json("db", "upgrade", "002") == {"before": None, "revision": "002"}
    assert kg("db", "upgrade").text == "002 -> 004\n"
    assert kg("db", "upgrade").text == "004: nothing to do\n"
    assert kg.json("db", "check")["ok"] is True
    assert [each["revision"] for each in kg.json("db", "history")] == ["001", "002", "003", "004"]
    assert "refused in production" in kg("db", "downgrade", code=1).err
    monkeypatch.setenv("KGENTS_ENVIRONMENT", "development")
    assert kg.json("db", "downgrade") == {"before": "004", "revision": "003"}
    assert "this version needs 004" in kg("db", "check", code=1).err
    kg("db", "upgrade", "nowhere", code=1)


def test_status_tells_where_the_data_lies(kg: Runner, clean_room: Path) -> None:
    found = kg.json("status")
    assert found["data_dir"] == str(clean_room / "data" / "kgents")
    assert (found["schema"], found["schema_needed"]) == (None, "004")
    assert found["memory"]["namespace"] == "default"
    assert found["holds"] == {
        "memory": {"namespaces": 0, "stored": 0},
        "log": {"logs": 0, "entries": 0, "checkpoints": 0, "generations": 0},
        "tables": {},
    }
    text = kg("status").text
    assert re.search(r"^schema +none: run `kg db upgrade` *$", text, re.MULTILINE)
    assert re.search(r"^ +read only +no *$", text, re.MULTILINE)


@pytest.mark.parametrize("strict", ["", "true"])
def test_status_without_an_answer_tells_what_is_known(
    kg: Runner, clean_room: Path, monkeypatch: pytest.MonkeyPatch, strict: str
) -> None:
    kg("memory", "put", "x")
    here = kg.json("stores", "list")["stores"][0]["place"]
    ManifestFile(Settings.load().manifest_path).add_spill("jsonl:/y", here)
    monkeypatch.setenv("KGENTS_DATABASE_URL", UNREACHABLE)
    monkeypatch.setenv("KGENTS_STRICT", strict)
    monkeypatch.setenv("KGENTS_CONNECT_TIMEOUT", "1")
    done = kg("status", "--json", code=6)
    found = done.json
    assert found["data_dir"] == str(clean_room / "data" / "kgents")
    assert found["database"] == "postgresql+asyncpg://somebody:***@127.0.0.1:1/x"
    assert found["available"] is False
    assert "out of reach, and no other store may take its place" in found["reason"]
    assert done.err.splitlines()[-1] == f"kg: {found['reason']}"
    known = {store["place"]: (store["filled"], store["first"], store["waiting_for"]) for store in found["stores"]}
    assert known == {here: (True, True, []), "jsonl:/y": (False, False, [here])}
    text = " ".join(kg("status", code=6).text.split())
    assert "available no" in text
    assert f"{here} (holds data, came first)" in text
    assert f"jsonl:/y (writes for {here} wait there, or were set aside)" in text


def test_an_interrupt_ends_cleanly_and_keeps_what_was_acknowledged(kg: Runner) -> None:
    @command
    async def wait(kg: Kg) -> None:
        async with kg.storage() as storage:
            await storage.memory.put(Datum.create("kept", id="a"))
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

    lone = typer.Typer()
    lone.command()(wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    try:
        with pytest.raises(SystemExit) as exited:
            lone([], obj=Kg())
    finally:
        signal.signal(signal.SIGINT, before)
    assert exited.value.code == 130
    assert kg.json("memory", "get", "a")["text"] == "kept"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_ends_it_quietly(kg: Runner, monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    kg("memory", "put", "-", "--id", "large", stdin=b"x" * 2**20)
    running = spawned("memory", "get", "large", "--content")
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.read(10)
    running.stdout.close()
    with running.stderr:
        assert running.stderr.read() == b""
    assert running.wait(patience(30)) == 141


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_reader_that_was_never_there_ends_it_quietly(kg: Runner, how: tuple[str, ...]) -> None:
    """What people read, too: rich ends the process with 1."""
    reading, writing = os.pipe()
    os.close(reading)
    running = spawned("functor", "list", *how, stdout=writing)
    os.close(writing)
    assert running.stderr is not None
    with running.stderr:
        assert running.stderr.read() == b""
    assert running.wait(patience(60)) == 141


def test_a_pipe_gets_every_byte(kg: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    kg("memory", "put", "-", "--id", "large", stdin=b"x" * 2**20)
    assert len(spawned("memory", "get", "large", "--content").communicate(timeout=patience(60))[0]) == 2**20


def test_a_full_output_is_an_error(kg: Runner) -> None:
    kg("memory", "put", "x", "--id", "a")
    with Path("/dev/full").open("wb") as full:
        running = spawned("memory", "get", "a", stdout=full)
        assert b"No space left" in running.communicate(timeout=patience(30))[1]
    assert running.returncode == 1


def test_without_typer_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['typer'] = None; from dgent.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "kg needs typer and rich: run `pip install dgent[cli]`\n"


def test_help_loads_no_database_and_no_loop() -> None:
    script = (
        "import json, sys\nfrom dgent.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"sqlalchemy", "pydantic", "alembic", "asyncio", "rich.console", "yaml"} & loaded == set()


WORDS = st.sampled_from(
    [*{word for path in COMMANDS for word in path.split()[1:]}, "--json", "--limit", "-1", "a=1", "self.data"]
)


@given(st.lists(WORDS | st.text(max_size=6).filter(lambda text: text not in {"-", "-m", "--message"}), max_size=4))
def test_no_words_bring_a_traceback(words: list[str]) -> None:
    if "revision" in words or "-" in words:  # these write into the checkout, or wait for stdin
        return
    done = Runner()(*words, code=None)
    assert done.code in set(ExitCode)
    assert "a bug of ours" not in done.err


def test_the_version_is_told(kg: Runner) -> None:
    assert kg("--version").text.startswith("kg (dgent)")
