"""Law D3 as a machine: a drawn list of steps, each asked of the store and of the model."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import note
from hypothesis import strategies as st

from dgent.datum import Datum
from dgent.exceptions import DgentError
from dgent.protocol import Backend, DgentProtocol, Revision
from dgent.query import Query
from dgent.testing.base import START, ContractBase, fresh, pages
from dgent.testing.clock import ManualClock
from dgent.testing.model import Model


class Step(NamedTuple):
    """A verb with its arguments; `expect` is the distance from the live version and `time` the time ago."""

    verb: str
    args: tuple[Any, ...] = ()
    named: dict[str, Any] = {}  # noqa: RUF012  # never changed


def steps(contract: ContractBase) -> st.SearchStrategy[list[Step]]:
    """Draw steps of which the store is capable."""
    one = st.one_of(_writes(contract), _writes(contract), _reads(contract), _rare(contract))
    return st.lists(one, min_size=1, max_size=6) | st.lists(one, min_size=20, max_size=40)


def _step(verb: str, *args: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(verb), st.tuples(*args), st.fixed_dictionaries({}, optional=named))


def _writes(contract: ContractBase) -> st.SearchStrategy[Step]:
    can, id = contract.capabilities, st.sampled_from(contract.few_ids())
    parent = st.none() | id if can.causal else st.none()
    datum = st.builds(contract.make_datum, id, st.integers(0, 6), parent)
    ttl = {"ttl": st.sampled_from([1.0, 4.0])} if can.ttl else {}
    expect = {"expect": st.sampled_from([-1, 0, 0, 1])} if can.versioned else {}
    return st.one_of(
        _step("put", datum, **expect, **ttl),
        _step("put", datum),
        _step("put_many", st.lists(datum, max_size=5), **ttl),
        _step("delete", id, **expect),
        _step("delete_many", st.lists(id, max_size=3)),
    )


def _reads(contract: ContractBase) -> st.SearchStrategy[Step]:
    can, id = contract.capabilities, st.sampled_from(contract.few_ids())
    prefix = st.sampled_from(["", *contract.few_ids()])
    order = st.sampled_from(["newest", "oldest", "seq"] if can.history else ["newest", "oldest"])
    limit = st.integers(1, 4)
    after = st.sampled_from([START - 1, START, START + 2])
    always = [
        _step("get", id),
        _step("get_many", st.lists(id, max_size=4)),
        _step("exists", id),
        _step("count", prefix=prefix),
        _step("list", limit, prefix=prefix, order=order, after=after),
        _step("causal_chain", id),
    ]
    with_history = [
        _step("get", id, version=st.integers(0, 4)),
        _step("history", id, limit=st.integers(0, 4), before=st.integers(0, 5)),
        _step("as_of", limit, st.sampled_from([0.0, 0.5, 1.0, 3.0]), prefix=prefix),
    ]
    return st.one_of(*always, *(with_history if can.history else []))


def _rare(contract: ContractBase) -> st.SearchStrategy[Step]:
    can, id = contract.capabilities, st.sampled_from(contract.few_ids())
    found = [_step("tick", st.sampled_from([0.5, 1.0, 3.0]))]
    if can.durable:
        found.append(_step("reopen"))
    if can.history:
        ago = st.sampled_from([0.0, 1.0, 3.0])
        found += [_step("purge", id), _step("stats"), _step("compact", keep_versions=st.integers(0, 2), older_than=ago)]
    return st.one_of(found)


class Machine:
    """A store and its model, side by side."""

    def __init__(self, contract: ContractBase, place: Any) -> None:
        self.contract, self.place, self.namespace = contract, place, fresh()
        self.clock = ManualClock()
        self.model = Model(self.clock)
        self.store: DgentProtocol

    async def run(self, planned: list[Step]) -> None:
        """Take the steps and compare each answer."""
        await self._open()
        try:
            for step in planned:
                note(f"{step.verb} {step.args} {step.named}")
                await self._take(step)
            await self._take(Step("list", (3,), {}))
        finally:
            await self.contract.close(self.store)

    async def _open(self) -> None:
        self.store = await self.contract.open(self.place, self.namespace, clock=self.clock)

    async def _take(self, step: Step) -> None:
        if step.verb == "tick":
            self.clock.advance(step.args[0])
        elif step.verb == "reopen":
            await self.contract.close(self.store)
            await self._open()
        else:
            wanted = self._comparable(self._of_model(step))
            given = self._comparable(await self._of_store(step))
            assert given == wanted, f"{step.verb}{step.args}{step.named}: {given} is not {wanted}"

    async def _of_store(self, step: Step) -> Any:
        store, named = self.store, self._resolved(step)
        try:
            if "expect" in named:
                live = await store.get(_id(step.args[0]))
                named["expect"] = max(0, (live.version if live else 0) + named["expect"])
            if step.verb == "list":
                return await pages(lambda at: store.list(limit=step.args[0], cursor=at, **named))
            if step.verb == "as_of":
                limit, time = step.args[0], self.clock.now - step.args[1]
                return await pages(lambda at: store.as_of(time, limit=limit, cursor=at, **named))
            if step.verb == "stats":
                return await store.stats() if isinstance(store, Backend) else None
            if step.verb == "compact" and not isinstance(store, Backend):
                return None
            return await getattr(store, step.verb)(*step.args, **named)
        except DgentError as error:
            return type(error)

    def _of_model(self, step: Step) -> Any:
        model, named = self.model, self._resolved(step)
        try:
            match step.verb:
                case "put":
                    return model.put(self.contract.expected(step.args[0]), **self._expecting(step, named))
                case "put_many":
                    return model.put_many(map(self.contract.expected, step.args[0]), **named)
                case "delete":
                    return model.delete(step.args[0], **self._expecting(step, named))
                case "delete_many":
                    return sum(model.delete(id) for id in step.args[0])
                case "get_many":
                    return {id: model.live[id] for id in step.args[0] if id in model.live}
                case "exists":
                    return step.args[0] in model.live
                case "count":
                    return sum(id.startswith(named.get("prefix", "")) for id in model.live)
                case "list":
                    return model.query(Query(**named))
                case "as_of":
                    then = model.at(self.clock.now - step.args[1])
                    return [then[id] for id in sorted(then) if id.startswith(named.get("prefix", ""))]
                case "stats" if isinstance(self.store, Backend):
                    return (len(model.live), len(model.log), model.seq)
                case "stats" | "compact" if not isinstance(self.store, Backend):
                    return None
                case verb:
                    return getattr(model, verb)(*step.args, **named)
        except DgentError as error:
            return type(error)

    def _resolved(self, step: Step) -> dict[str, Any]:
        named = dict(step.named)
        if "older_than" in named:
            named["older_than"] = self.clock.now - named["older_than"]
        return named

    def _expecting(self, step: Step, named: dict[str, Any]) -> dict[str, Any]:
        if "expect" in named:
            live = self.model.live.get(_id(step.args[0]))
            named["expect"] = max(0, (live.version if live else 0) + named["expect"])
        return named

    def _comparable(self, answer: Any) -> Any:
        if isinstance(answer, Datum):
            return (answer, answer.version, answer.seq) if self.contract.capabilities.history else answer
        if isinstance(answer, Revision):
            return (answer.version, answer.seq, answer.stored_at, answer.datum)
        if isinstance(answer, list):
            return [self._comparable(one) for one in answer]
        if isinstance(answer, dict):
            return [(key, self._comparable(value)) for key, value in answer.items()]
        return (answer.live, answer.versions, answer.seq) if hasattr(answer, "versions") else answer


def _id(subject: Datum | str) -> str:
    return subject.id if isinstance(subject, Datum) else subject
