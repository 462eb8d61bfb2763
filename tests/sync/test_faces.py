"""The faces have every verb of what they stand for, and their types are those of the source."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from tests.sync.stores import faced

from dgent.memory.inmemory.backend import MemoryBackend
from dgent.store import Backend, DgentProtocol
from dgent.sync import SyncStorage, faces
from dgent.sync.face import READS, Face

FACES = {name: face for name, face in vars(faces).items() if name.startswith("Sync")}
STUB = Path(str(faces.__file__)).with_suffix(".pyi").read_text("utf-8")


def verbs(kind: type) -> set[str]:
    return {name for name, one in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize("face", FACES.values(), ids=FACES)
def test_a_face_has_every_verb_and_none_of_them_waits_for_a_loop(face: type[Face]) -> None:
    for name in verbs(face.kind):
        mine, theirs = getattr(face, name), getattr(face.kind, name)
        assert not inspect.iscoroutinefunction(mine), name
        assert inspect.signature(mine) == inspect.signature(theirs), name
        assert mine.__doc__ == theirs.__doc__, name


@pytest.mark.parametrize("name", FACES)
def test_the_types_name_every_verb(name: str) -> None:
    """Where this fails after a verb was added: `make docs`."""
    (body,) = [part for part in STUB.split("\nclass ") if part.startswith(f"{name}(")]
    own = {verb for verb in verbs(FACES[name].kind) if verb in vars(FACES[name].kind)}
    missing = {verb for verb in own if f" def {verb}(" not in body}
    bound = {verb for verb in own if isinstance(vars(FACES[name].kind)[verb], classmethod | staticmethod)}
    assert missing - bound == set()


def test_a_class_of_somebody_else_has_a_face_of_its_own() -> None:
    class Theirs(MemoryBackend):
        async def longest(self) -> str:
            """Return the longest id."""
            return max([datum.id for datum in await self.list()], key=len, default="")

    store = faced(Theirs())
    try:
        assert store.longest() == ""
        assert issubclass(type(store), faces.SyncBackend)
        assert verbs(DgentProtocol) | verbs(Backend) <= verbs(type(store))
        assert store.within("other").namespace == "other"
        assert store == type(store)(store._target, store._road)
        assert len({store, store.within("other")}) == 2
        with pytest.raises(AttributeError):
            _ = store.no_such_verb
    finally:
        store._road.thread.end()


def test_what_only_reads_is_known_by_its_right() -> None:
    assert {"get", "list", "query", "history"} <= READS <= verbs(DgentProtocol)
    assert {"put", "delete", "purge", "apply"} & READS == set()
    assert issubclass(SyncStorage, faces.SyncStorageProvider)
