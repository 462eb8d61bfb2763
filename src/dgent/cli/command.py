"""What every command of `kg` has in common: its settings, its storage, where it writes and how it ends."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
import warnings
from contextlib import asynccontextmanager, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from dgent.cli.exit_codes import ExitCode, exit_code, explained, warned
from dgent.exceptions import DgentError, InvalidSettings, NotFound
from dgent.warnings import DgentWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from rich.console import Console, RenderableType

    from dgent.settings import Origins, Settings
    from dgent.storage import StorageProvider

Json = Annotated[bool, typer.Option("--json", help="Write JSON for machines on stdout.")]


@dataclass
class Kg:
    """One run of `kg`: the global options, and what follows from them when it is asked for."""

    overrides: dict[str, Any] = field(default_factory=dict)
    json: bool = False
    traceback: bool = False

    @property
    def settings(self) -> Settings:
        """The settings, with the global options over them."""
        return self._resolved[0]

    @property
    def origins(self) -> Origins:
        """Where each of them comes from."""
        return self._resolved[1]

    @cached_property
    def _resolved(self) -> tuple[Settings, Origins]:
        from dgent.settings import Settings

        resolved = Settings.resolve(**self.overrides)
        if resolved[0].in_memory:
            raise InvalidSettings("a database in memory ends with this command: name a file in database_url")
        return resolved

    @cached_property
    def console(self) -> Console:
        """Where people read; not used with --json."""
        from rich.console import Console

        class Piped(Console):
            def on_broken_pipe(self) -> None:  # rich's own ends the process with 1; `ended` knows what to do
                raise BrokenPipeError

        known = sys.stdout.isatty() or "COLUMNS" in os.environ
        return Piped(highlight=False, width=None if known else 120)  # a pipe has no width of its own

    def import_modules(self) -> None:
        """Import what declares schemas and tables, before they are asked for.

        A module may lie where it is named: in the folder of a trusted project, or in the working directory where that
        was said for this run. What the user's own file names is installed: it must not be found in whatever folder
        somebody entered.
        """
        from dgent.cli.user_modules import import_modules

        import_modules(self.settings.modules, self._folder_of_modules())

    def _folder_of_modules(self) -> Path | None:
        origin, project = self.origins.named.get("modules"), self.origins.project
        if origin in {None, "user file"}:
            return None
        return project.path.parent.parent if origin == "project file" and project is not None else Path.cwd()

    @asynccontextmanager
    async def storage(self, *, anew: bool = False) -> AsyncIterator[StorageProvider]:
        """Open the storage, and close it at the end.

        A place that the command line names and that does not exist is created only with `anew`, for a command that
        stores something: for any other it is a typing mistake.

        Nothing takes the place of the first store: a command that ends cannot keep what it acknowledges in memory, and
        "nothing" must not be the answer of a store that holds only what was written since. Memory serves where it is
        the first of the chain, which is to ask for it by name.

        Raises:
            NotFound: nothing is where the command line says.
            DgentError: the first store cannot be opened.
        """
        from dgent.storage import StorageProvider

        self.import_modules()
        if not anew:
            self._find_named()
        settings = self.settings.model_copy(update={"strict": True})
        async with await StorageProvider.from_config(settings) as storage:
            yield storage

    def _find_named(self) -> None:
        settings, named = self.settings, self.origins.named
        if named.get("database_url") == "argument" and settings.url.get_backend_name() == "sqlite":
            place = Path(settings.url.database or "")
        elif named.get("data_dir") == "argument" and "database_url" not in named:
            place = settings.data_dir
        else:
            return
        try:
            place.lstat()
        except FileNotFoundError:
            raise NotFound(f"there is no {place}: check the path; the first `kg memory put` makes it") from None
        except OSError:  # the store says what is wrong there
            return

    def answer(self, value: Any, *shown: RenderableType) -> None:
        """Write the answer: with --json the value on one line, else what is shown to people; a text has no markup."""
        from dgent.cli.output import clean, to_json

        if self.json:
            self.raw(to_json(value) + b"\n")
            return
        for each in shown:
            if isinstance(each, str):
                self.console.print(clean(each), markup=False, soft_wrap=True)
            else:
                self.console.print(each)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are, all of them: under PYTHONUNBUFFERED one write to a pipe may take only some."""
        sys.stdout.flush()
        rest = memoryview(data)
        while rest:
            rest = rest[sys.stdout.buffer.write(rest) :]


def command(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a command of a coroutine function: its parameters after the first are the command's, and --json is added."""

    @wraps(work)
    def run(context: typer.Context, *, json: bool = False, **arguments: Any) -> None:
        import asyncio

        kg: Kg = context.obj
        kg.json = kg.json or json
        with ended(kg):
            asyncio.run(work(kg, **arguments))

    hints = get_type_hints(work, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(work).parameters.values())[1:]
    parameters = [
        inspect.Parameter("context", kind, annotation=typer.Context),
        *(each.replace(kind=kind, annotation=_labelled(each.name, hints[each.name])) for each in own),
        inspect.Parameter("json", kind, annotation=Json, default=False),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads both of these
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _labelled(name: str, hint: Any) -> Any:
    """Return the hint of a parameter with what help calls its value: typer shows braces and Python's own types."""
    info = copy(hint.__metadata__[0])
    if info.metavar is None and isinstance(info, ArgumentInfo):
        info.metavar = name.rstrip("_").upper()
    elif info.metavar is None and get_origin(get_args(hint.__origin__ | None)[0]) is list:
        info.metavar = "<str>"
    return Annotated[hint.__origin__, info]


@contextmanager
def ended(kg: Kg) -> Iterator[None]:
    """Run a block and end the process as a script expects: its code, one line on stderr for an error, no traceback."""
    try:
        with spoken_warnings():
            yield
        sys.stdout.flush()
    except (typer.Exit, SystemExit):
        raise
    except DgentError as error:
        _failed(kg, explained(error), exit_code(error))
    except KeyboardInterrupt:
        _failed(kg, "interrupted; what was acknowledged is safe", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        _hush()
        raise typer.Exit(ExitCode.BROKEN_PIPE) from None
    except OSError as error:
        _hush()
        _failed(kg, f"{error.filename or 'output'}: {error.strerror or error}", ExitCode.FAILED)
    except Exception as error:  # the last net: a person gets a line, never a traceback
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"  # noqa: PTH119  # not a path to open
        _failed(kg, f"a bug of ours: {type(error).__name__} in {place}; --traceback shows more", ExitCode.FAILED)


def refuse_damaged(damaged: Sequence[object]) -> None:
    """End with the code for damage, if something was left out of the answer."""
    if damaged:
        raise typer.Exit(ExitCode.CORRUPT)


def misused(problem: str) -> NoReturn:
    """End with the code for a wrong use of the command line."""
    say("kg", problem)
    raise typer.Exit(ExitCode.USAGE)


def sure(question: str) -> None:
    """Ask before something is erased for good; end where nobody can be asked, or says no."""
    if not sys.stdin.isatty():
        misused("this erases for good: say --yes where nobody can be asked")
    if not typer.confirm(question, err=True):
        misused("nothing was erased")


@contextmanager
def spoken_warnings() -> Iterator[None]:
    """Show each warning of ours as one line on stderr, once."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, DgentWarning) and str(message) not in said:
            said.add(str(message))
            say("warning", warned(str(message)))

    with warnings.catch_warnings():
        warnings.simplefilter("always", DgentWarning)
        warnings.showwarning = show
        yield


def say(who: str, text: str) -> None:
    """Write one line on stderr."""
    from dgent.cli.output import clean

    print(f"{who}: {clean(' '.join(text.split()))}", file=sys.stderr)


def _failed(kg: Kg, problem: str, code: ExitCode) -> NoReturn:
    if kg.traceback:
        traceback.print_exc()
    say("kg", problem)
    raise typer.Exit(code) from None


def _hush() -> None:
    """Let the interpreter's last flush of a stdout that nobody reads go nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
