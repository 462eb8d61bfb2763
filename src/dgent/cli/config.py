"""`kg config`: which settings hold and where each comes from, and which projects are trusted to make them."""

from __future__ import annotations

from pathlib import Path  # typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgent.cli.command import Kg, command

if TYPE_CHECKING:
    from dgent.settings import ConfigFile
    from dgent.settings.trust import Trust

app = typer.Typer(help="The settings, and which projects are trusted to make them.", no_args_is_help=True)
Project = Annotated[
    Path | None, typer.Argument(help="The project's folder or its config file; the one around here if there is none.")
]


@app.command()
@command
async def show(kg: Kg) -> None:
    """Show every setting and where it comes from. What of the project's file is ignored is named, too."""
    from dgent.cli.output import grid, line
    from dgent.settings.trust import Trust

    values = kg.settings.model_dump(mode="json")
    rows = {name: {"value": value, "from": _origin(kg, name)} for name, value in values.items()}
    table = grid("setting", "from", "value")
    for name, row in rows.items():
        table.add_row(name, line(row["from"]), line(_said(row["value"])))
    files = [_file("user file", kg.origins.user)]
    if kg.origins.project is not None:
        files.append(_file("project file", kg.origins.project))
    known = sorted(Trust(kg.settings.trust_path).files())
    kg.answer(
        {"settings": rows, "files": files, "trusted": known}, table, *map(_described, files), *_listed(known, files)
    )


@app.command()
@command
async def trust(kg: Kg, project: Project = None) -> None:
    """Let a project's config file count in full. Read it before; a changed one counts no more."""
    from dgent.settings import Settings, approved

    file = approved(_named(project), Settings)
    record = _record(kg)
    record.add(file.path, file.content or b"")
    lines = [f"  {name}: {_said(_plain(value))}" for name, value in file.values.items()]
    path = file.path.resolve()
    answer = {"path": str(path), "settings": sorted(file.values)}
    kg.answer(answer, f"trusted until it changes: {path}", *lines)


@app.command()
@command
async def untrust(kg: Kg, project: Project = None) -> None:
    """Let a project's config file count no longer. What is harmless in it still does."""
    from dgent.exceptions import NotFound

    path = _named(project)
    if not _record(kg).drop(path):
        raise NotFound(f"{path.resolve()} is not trusted: `kg config show` lists what is")
    kg.answer({"path": str(path.resolve())}, f"not trusted any more: {path.resolve()}")


def _named(project: Path | None) -> Path:
    from dgent.exceptions import NotFound
    from dgent.settings import config_path, project_folder

    folder = project_folder() if project is None else project
    if folder is None:
        raise NotFound("there is no .kgents/config.yaml here or in a folder above")
    return (config_path(folder) if folder.is_dir() else folder).absolute()


def _record(kg: Kg) -> Trust:
    """Return the record of what is trusted; what the settings warn of is what this command is about."""
    import warnings

    from dgent.settings.trust import Trust
    from dgent.warnings import SettingsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SettingsWarning)
        return Trust(kg.settings.trust_path)


def _origin(kg: Kg, name: str) -> str:
    return kg.origins.named.get(name, "default")


def _file(kind: str, file: ConfigFile) -> dict[str, Any]:
    state = "not there" if file.content is None and not file.problem else "trusted" if file.trusted else "not trusted"
    return {"kind": kind, "path": str(file.path), "state": state, "ignored": file.ignored, "problem": file.problem}


def _described(file: dict[str, Any]) -> str:
    text = f"{file['kind']}: {file['path']} ({file['state']})"
    if file["problem"]:
        text += f", passed over: {file['problem']}"
    return text + (f", ignored: {', '.join(file['ignored'])}" if file["ignored"] else "")


def _listed(known: list[str], files: list[dict[str, Any]]) -> list[str]:
    """Return what is trusted, a line for each; a file that was looked at and has changed is not any more."""
    changed = {str(Path(file["path"]).resolve()) for file in files if file["state"] == "not trusted"}
    return [
        f"{'was trusted, but not as it is now' if path in changed else 'trusted while it is as it was'}: {path}"
        for path in known
    ]


def _plain(value: Any) -> Any:
    from sqlalchemy.engine import URL

    from dgent.settings import shown

    return shown(value) if isinstance(value, URL) else value


def _said(value: Any) -> str:
    from dgent.cli.output import to_json

    if value is None:
        return "none"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return to_json(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)
