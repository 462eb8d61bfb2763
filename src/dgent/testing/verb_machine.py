"""Law L-D3 as a machine: a drawn list of steps, each asked of the store and of the model."""

# ruff: noqa: S101  # laws are tests: they assert, and their names say what

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hypothesis import strategies as st

from dgent.change_page import ChangeRecord
from dgent.datum import Datum
from dgent.exceptions import DgentError
from dgent.operations import Delete, Operation, Outcome, Purge, Put, Touch
from dgent.query import Query
from dgent.store import Backend, DgentProtocol, Revision, StoreStats
from dgent.testing.contract_base import START, ContractBase, all_changes, fresh, pages
from dgent.testing.manual_clock import ManualClock
from dgent.testing.order_laws import key_pages, orders_of
from dgent.testing.reference_model import ReferenceModel

if TYPE_CHECKING:
    from collections.abc import Mapping

JUMPS: Final = (-0.5, -1.0, -4.0, 100.0, -100.0, 10 * 86_400.0, -10 * 86_400.0)
"""How clocks are set: to what they should have been, to the wrong day and back."""


LEASE: Final = 3.0
AGO: Final = (0.0, 0.5, 1.0, 3.0, 1e9)
"""How long ago a time is that is asked for."""


class VerbStep(NamedTuple):
    """A verb with its arguments; `expect` is the distance from the live version and `time` the time ago."""

    verb: str
    args: tuple[Any, ...] = ()
    named: dict[str, Any] = {}  # noqa: RUF012  # never changed


@lru_cache(maxsize=16)
def steps(contract: ContractBase) -> st.SearchStrategy[list[VerbStep]]:
    """Draw steps of which the store is capable.

    Made once for a contract: hypothesis checks a strategy, and all in it, before the first draw from it.
    """
    one = st.one_of(_writes(contract), _writes(contract), _reads(contract), _rare(contract))
    return st.lists(one, min_size=1, max_size=6) | st.lists(one, min_size=20, max_size=40)


def _step(verb: str, *args: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[VerbStep]:
    return st.builds(VerbStep, st.just(verb), st.tuples(*args), st.fixed_dictionaries({}, optional=named))


def _named(verb: str, **named: st.SearchStrategy[Any]) -> st.SearchStrategy[VerbStep]:
    return st.builds(VerbStep, st.just(verb), st.just(()), st.fixed_dictionaries(named))


def _writes(contract: ContractBase) -> st.SearchStrategy[VerbStep]:
    can, id = contract.capabilities, st.sampled_from(contract.few_ids())
    parent = st.none() | id if can.causal else st.none()
    datum = st.builds(contract.make_datum, id, st.integers(0, 6), parent)
    ttl = {"ttl": st.sampled_from([1.0, 4.0, "keep"] if can.ttl else ["keep"])}
    expect = {"expect": st.sampled_from([-1, 0, 0, 1])} if can.versioned else {}
    lease = [_step("lease", datum)] if can.versioned and can.ttl else []
    return st.one_of(
        *lease,
        _step("put", datum, **expect, **ttl),
        _step("put", datum),
        _step("put_many", st.lists(datum, max_size=5), **ttl),
        _step("delete", id, **expect, **_told(contract)),
        _step("delete_many", st.lists(id, max_size=3)),
        *([_step("touch", st.lists(id, max_size=3), st.sampled_from([None, 1.0, 4.0]))] if can.ttl else []),
        _step("apply", st.lists(_operations(contract, datum, id), max_size=4)),
    )


def _operations(
    contract: ContractBase, datum: st.SearchStrategy[Datum], id: st.SearchStrategy[str]
) -> st.SearchStrategy[Operation]:
    can = contract.capabilities
    expect = st.sampled_from([None, None, None, 0, 1, 2]) if can.versioned else st.none()
    ttl = st.sampled_from([None, None, 1.0, "keep"] if can.ttl else [None, "keep"])
    found: list[st.SearchStrategy[Operation]] = [
        st.builds(Put, datum, expect, ttl),
        st.builds(Delete, id, expect, **_told(contract)),
    ]
    if can.history:
        found.append(st.builds(Purge, id, expect))
    if can.ttl:
        found.append(st.builds(Touch, id, st.sampled_from([None, 1.0]), expect))
    return st.one_of(found)


def _told(contract: ContractBase) -> dict[str, st.SearchStrategy[str | None]]:
    """Draw who deletes and why, where the store keeps it."""
    if not contract.capabilities.history:
        return {"author": st.none(), "reason": st.none()}
    return {"author": st.sampled_from([None, "é"]), "reason": st.sampled_from([None, "", 'a "reason"\n'])}


def _reads(contract: ContractBase) -> st.SearchStrategy[VerbStep]:
    can, id = contract.capabilities, st.sampled_from(contract.few_ids())
    prefix = st.sampled_from(["", *contract.few_ids()])
    order = st.sampled_from(orders_of(contract))
    limit = st.integers(1, 4)
    after = st.sampled_from([START - 1, START, START + 2])
    always = [
        _step("get", id),
        _step("get_many", st.lists(id, max_size=4)),
        _step("exists", id),
        _step("count", prefix=prefix),
        _step("list", limit, prefix=prefix, order=order, after=after),
        _step("list", limit, order=order, offset=st.integers(0, 3), **({"causal_parent": id} if can.causal else {})),
        _step("keys", limit, prefix=prefix, order=order),
        _step("segments", prefix, st.integers(1, 2)),
        _step("causal_chain", id, limit=st.integers(0, 3)),
    ]
    with_history = [
        _step("get", id, version=st.integers(0, 4)),
        _step("history", id, limit=st.integers(0, 4), before=st.integers(0, 5)),
        _step("as_of", limit, st.sampled_from([0.0, 0.5, 1.0, 3.0]), prefix=prefix),
    ]
    ordered = [
        _step("head"),
        _step("list", limit, as_of=st.sampled_from(AGO), expired=st.booleans(), order=order, prefix=prefix),
        _step("causal_chain", id, version=st.integers(0, 4), limit=st.integers(1, 3)),
        _step("causal_chain", id, as_of=st.sampled_from(AGO), limit=st.integers(1, 3)),
        _named("seq_at", time=st.sampled_from(AGO)),
        _step("changes", limit, st.integers(0, 9), until=st.integers(0, 12)),
    ]
    return st.one_of(*always, *([*with_history, *ordered] if can.history else []))


def _rare(contract: ContractBase) -> st.SearchStrategy[VerbStep]:
    can, id = contract.capabilities, st.sampled_from(contract.few_ids())
    found = [_step("tick", st.sampled_from([0.5, 1.0, 3.0])), _step("tick", st.sampled_from(JUMPS))]
    if can.durable:
        found.append(_step("reopen"))
    if can.history:
        ago = st.sampled_from([0.0, 1.0, 3.0])
        found += [
            _step("purge", id),
            _step("purge_many", st.lists(id, max_size=3)),
            _named("erase", prefix=id),
            _step("stats"),
            _step("compact", keep_versions=st.integers(0, 2), older_than=ago),
        ]
    return st.one_of(found)


class VerbMachine:
    """A store and its model, side by side."""

    def __init__(self, contract: ContractBase, place: Any) -> None:
        self.contract, self.place, self.namespace = contract, place, fresh()
        self.clock = ManualClock()
        self.model = ReferenceModel(self.clock)
        self.store: DgentProtocol

    async def run(self, planned: list[VerbStep]) -> None:
        """Take the steps and compare each answer."""
        await self._open()
        try:
            for step in planned:
                await self._take(step)
            await self._take(VerbStep("list", (3,), {}))
        finally:
            await self.contract.close(self.store)

    async def _open(self) -> None:
        self.store = await self.contract.open(self.place, self.namespace, clock=self.clock)

    async def _take(self, step: VerbStep) -> None:
        if step.verb == "tick":
            self.clock.advance(step.args[0])
        elif step.verb == "reopen":
            await self.contract.close(self.store)
            await self._open()
        elif isinstance(self.store, Backend) or step.verb not in {"stats", "compact", "erase"}:
            wanted = self._comparable(self._of_model(step))
            given = self._comparable(await self._of_store(step))
            assert given == wanted, f"{step.verb}{step.args}{step.named}: {given} is not {wanted}"

    async def _of_store(self, step: VerbStep) -> Any:
        store, named = self.store, self._timed(step.named)
        try:
            match step.verb:
                case "list":
                    return await pages(lambda at: store.query(Query(limit=step.args[0], cursor=at, **named)))
                case "keys":
                    return await key_pages(lambda at: store.keys(limit=step.args[0], cursor=at, **named))
                case "segments":
                    return await store.segments(step.args[0], depth=step.args[1])
                case "as_of":
                    limit, time = step.args[0], self._ago(step.args[1])
                    return await pages(lambda at: store.as_of(time, limit=limit, cursor=at, **named))
                case "changes":
                    limit, start = step.args
                    return await all_changes(lambda at: store.changes(at, limit=limit, **named), start)
                case "put" | "delete" if "expect" in named:
                    named["expect"] = _expected(await store.get(_id(step.args[0])), named["expect"])
                case "apply":
                    live = await store.get_many({one.id for one in step.args[0]})
                    return await store.apply(_expecting(step.args[0], live))
                case "lease":
                    return await store.put(step.args[0], expect=0, ttl=LEASE)
            return await getattr(store, step.verb)(*step.args, **named)
        except DgentError as error:
            return type(error)

    def _of_model(self, step: VerbStep) -> Any:
        model, args, named = self.model, step.args, self._timed(step.named)
        try:
            match step.verb:
                case "list":
                    return model.query(Query(**named))[named.get("offset", 0) :]
                case "keys":
                    return model.keys(Query(**{"order": "id", **named}))
                case "segments":
                    return model.segments(*args)
                case "as_of":
                    return model.as_of(self._ago(args[1]), **named)
                case "changes":
                    return model.changes(args[1], **named)
                case "put" | "delete" if "expect" in named:
                    named["expect"] = _expected(model.get(_id(args[0])), named["expect"])
                case "apply":
                    return model.apply(_expecting(self._normal(args[0]), model.live))
                case "lease":
                    return model.put(self._normal(args[0]), expect=0, ttl=LEASE)
            return getattr(model, step.verb)(*map(self._normal, args), **named)
        except DgentError as error:
            return type(error)

    def _timed(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments in which what is drawn as a time ago is a time."""
        return {
            name: self._ago(value) if name in {"older_than", "as_of", "time"} else value
            for name, value in named.items()
        }

    def _ago(self, seconds: float) -> float:
        return self.clock.now - seconds

    def _normal(self, arg: Any) -> Any:
        if isinstance(arg, list):
            return [self._normal(one) for one in arg]
        if isinstance(arg, Put):
            return Put(self.contract.expected(arg.datum), arg.expect, arg.ttl)
        return self.contract.expected(arg) if isinstance(arg, Datum) else arg

    def _comparable(self, answer: Any) -> Any:
        if isinstance(answer, Datum):
            numbers = (answer.version, answer.seq, answer.stored_at, answer.expires_at)
            return (answer, *numbers) if self.contract.capabilities.history else answer
        if isinstance(answer, Revision):
            told = (answer.version, answer.seq, answer.stored_at, answer.author, answer.reason)
            return (*told, self._comparable(answer.datum))
        if isinstance(answer, ChangeRecord):
            return (*answer._replace(datum=None), self._comparable(answer.datum))
        if isinstance(answer, Outcome):
            appended = (answer.version, answer.seq) if self.contract.capabilities.history else ()
            return (self._comparable(answer.datum), answer.changed, answer.erased, *appended)
        if isinstance(answer, list):
            return [self._comparable(one) for one in answer]
        if isinstance(answer, dict):
            return [self._comparable(one) for one in answer.values()]
        if isinstance(answer, StoreStats):
            return replace(answer, size=None)
        return answer


def _id(subject: Datum | str) -> str:
    return subject.id if isinstance(subject, Datum) else subject


def _expecting(operations: list[Operation], live: Mapping[str, Datum]) -> list[Operation]:
    """Return operations that expect what they say, plus one, as the distance from the version that is live before all.

    Only the first of an id expects something: a table begins to count anew when a row was deleted.
    """
    first = {one.id: at for at, one in reversed([*enumerate(operations)])}
    found: list[Operation] = []
    for at, one in enumerate(operations):
        wanted = None
        if one.expect is not None and first[one.id] == at:
            wanted = _expected(live.get(one.id), one.expect - 1)
        found.append(_with_expect(one, wanted))
    return found


def _with_expect(one: Operation, expect: int | None) -> Operation:
    match one:
        case Put(datum, _, ttl):
            return Put(datum, expect, ttl)
        case Delete(id, _, author, reason):
            return Delete(id, expect, author, reason)
        case Purge(id, _):
            return Purge(id, expect)
        case Touch(id, ttl, _):
            return Touch(id, ttl, expect)


def _expected(live: Datum | None, distance: int) -> int:
    return max(0, (live.version if live else 0) + distance)
