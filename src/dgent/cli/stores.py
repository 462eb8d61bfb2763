"""`kg stores`: what the manifest knows of the stores that served here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgent.cli.command import Kg, command

if TYPE_CHECKING:
    from dgent.memory.failover.manifest import Manifest

app = typer.Typer(help="What the manifest knows of the stores that served here.", no_args_is_help=True)


@app.command("list")
@command
async def list_(kg: Kg) -> None:
    """List the stores that served here. Each with its place, what it held, and what waits there; opens none."""
    found = known_stores(kg)
    kg.answer({"manifest": str(kg.settings.manifest_path), "stores": found}, *map(described, found))


def known_stores(kg: Kg) -> list[dict[str, Any]]:
    """Return what the manifest knows of the stores that served here, and of those in which writes may lie."""
    from dgent.memory.failover.manifest import KnownStore, ManifestFile

    known = ManifestFile(kg.settings.manifest_path).read()
    nothing = KnownStore("", filled=False)
    met = {**dict.fromkeys((here for here, _ in known.spills), nothing), **known.stores}
    return [
        {
            "id": store.id,
            "place": place,
            "filled": store.filled,
            "first": place == known.first,
            "waiting_for": [target for here, target in known.spills if here == place],
        }
        for place, store in sorted(met.items())
    ]


def described(store: dict[str, Any]) -> str:
    """Return what is known of a store on one line, for people."""
    said = [name for name, true in (("holds data", store["filled"]), ("came first", store["first"])) if true]
    said += [f"writes for {target} wait there, or were set aside" for target in store["waiting_for"]]
    return f"{store['id'] or 'no id'}  {store['place']}" + (f"  ({', '.join(said)})" if said else "")


@app.command()
@command
async def forget(
    kg: Kg,
    store: Annotated[str, typer.Argument(help="Its id, its place, or its kind if there is one of that kind.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Even if writes wait there or for it.")] = False,
) -> None:
    """Let the manifest forget a store. It is not missed and not held against another any more; its data stays."""
    from dgent.memory.failover.manifest import ManifestFile

    file = ManifestFile(kg.settings.manifest_path)
    gone: list[str] = []

    def change(known: Manifest) -> None:
        gone[:] = _places(known, store)
        _check(known, gone, force=force)
        for place in gone:
            known.forget(place)

    file.update(change)
    kg.answer({"forgotten": gone}, *(f"forgotten: {place}" for place in gone))


def _places(known: Manifest, store: str) -> list[str]:
    """Return the places that are meant: all of a store if its id is given."""
    from dgent.exceptions import InvalidInput, NotFound

    named = {
        *known.stores,
        *(place for pair in known.spills for place in pair),
        *([known.first] if known.first else []),
    }
    if store in named:
        return [store]
    if places := known.places(store):
        return places
    found = sorted(place for place in named if place.partition(":")[0] == store)
    if not found:
        raise NotFound(f"the manifest knows no store {store!r}: see `kg stores list`")
    if len({known.stores[place].id if place in known.stores else place for place in found}) > 1:
        raise InvalidInput(f"{len(found)} places are of the kind {store}: name one of {', '.join(found)}")
    return found


def _check(known: Manifest, places: list[str], *, force: bool) -> None:
    from dgent.exceptions import Conflict

    waiting = [pair for pair in known.spills if set(pair) & set(places)]
    if waiting and not force:
        here, target = waiting[0]
        raise Conflict(
            f"writes for {target} may wait in {here}: open a storage that has both in its chain, so that they go home, "
            "or say --force to let go of them"
        )
