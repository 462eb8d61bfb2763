"""The documentation is true: its code runs, its tables are fresh and complete, its links and targets lead somewhere."""

from __future__ import annotations

import ast
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dgent import exceptions, warnings, wrong_loop
from dgent.memory import datum_index
from dgent.settings import Settings
from dgent.testing.contract_base import patience

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUN = [page for page in PAGES if page.name in {"README.md", "laws.md"} or page.parent.name == "how-to"]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
OF_NOW = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "decisions"]
FOLDERS = ("alembic", "benchmarks", "docs", "models", "src", "tests")
FILE = re.compile(rf"`([\w./-]+\.py|(?:{'|'.join(FOLDERS)})/[\w./-]*)`")
WRITTEN_BY_THE_READER = {"models/shop.py", "models/witness_marks.py"}
SKIP = re.compile(r"<!-- not run: (?P<reason>.{10,}?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    skipped: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        skip = SKIP.search(text[: match.start()])
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(match["language"], match["code"], line, skip["reason"] if skip else None))
    return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def database(page: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the settings name a PostgreSQL where the page says `<!-- needs: postgres -->`; keep the umask."""
    if "<!-- needs: postgres -->" in page.read_text("utf-8"):
        monkeypatch.setenv("KGENTS_DATABASE_URL", request.getfixturevalue("postgres_url"))
    mask = os.umask(0o022)
    yield
    os.umask(mask)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("page", RUN, ids=name)
async def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of one page in order, as one reader would: names of one block are there in the next."""
    monkeypatch.setattr(datum_index, "_registered", [*datum_index.registered()])  # a page registers one of its own
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and block.skipped is None:
            source = "\n" * block.line + block.code  # so that a traceback shows the line of the page
            code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            if inspect.isawaitable(result := eval(code, names)):  # noqa: S307 - our own pages
                await result


def test_the_contract_page_proves_its_backend(tmp_path: Path) -> None:
    """Its first block is a whole test file: here a few of the laws are enough."""
    block = next(block for block in blocks(ROOT / "docs" / "how-to" / "prove-your-backend.md"))
    (tmp_path / "test_my_backend.py").write_text(block.code, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "d10 or d11 or d8 or history"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(120), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_name_their_language(page: Path) -> None:
    assert [block.line for block in blocks(page) if not block.language] == []
    assert page.read_text("utf-8").count("```") == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", OF_NOW, ids=name)
def test_every_dotted_name_exists(page: Path) -> None:
    named = re.findall(r"`(dgent(?:\.\w+)+)", page.read_text("utf-8"))
    assert [each for each in named if not is_importable(each)] == []


def is_importable(dotted: str) -> bool:
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", OF_NOW, ids=name)
def test_every_file_in_backticks_exists(page: Path) -> None:
    """It is named by its path, or by the end of that."""
    there = [f"/{name(path)}/" for folder in FOLDERS for path in (ROOT / folder, *(ROOT / folder).rglob("*"))]
    named = set(FILE.findall(page.read_text("utf-8"))) - WRITTEN_BY_THE_READER
    assert {each for each in named if not any(path.endswith(f"/{each.rstrip('/')}/") for path in there)} == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
    assert named <= targets


def test_every_page_is_in_an_index() -> None:
    linked = set()
    for page in PAGES:
        linked |= {(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))}
    assert [name(page) for page in PAGES if page not in linked and page != ROOT / "README.md"] == []


def test_every_test_that_a_promise_names_exists() -> None:
    sources = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "src" / "dgent" / "testing").glob("*.py")]
    there = set(re.findall(r"def (test_\w+)", "\n".join(path.read_text("utf-8") for path in sources)))
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "promises.md").read_text("utf-8")))
    assert len(named) > 20
    assert named <= there, named - there


def test_the_architecture_shows_the_layers_of_the_import_contract() -> None:
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    picture = blocks(ROOT / "docs" / "architecture.md")[0].code
    shown = [line.strip().partition("  ")[0].replace(" │ ", " | ") for line in picture.splitlines()]
    assert shown == contract["layers"]


def test_every_file_that_the_architecture_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## Each file")[2].partition("\n## ")[0]
    package, there = ROOT / "src" / "dgent", set()
    for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE):
        folder = package
        for name in re.findall(r"`([\w/]+\.py)`", row):  # one without a folder lies in that of the one before
            folder = package / name.rpartition("/")[0] if "/" in name else folder
            there.add(folder / name.rpartition("/")[2])
    assert {path for path in there if not path.is_file()} == set()
    silent, summed_up = {"__init__.py", "__main__.py"}, {"cli"}
    files = {path for path in package.rglob("*.py") if path.name not in silent}
    listed = {path for path in files if str(path.parent.relative_to(package)) not in summed_up}
    assert {str(path.relative_to(package)) for path in listed - there} == set()


def test_generated_tables_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_every_error_is_documented() -> None:
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    classes = {
        kind.__name__
        for module in (exceptions, wrong_loop, warnings)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__
    }
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == classes
