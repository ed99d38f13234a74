"""The operators' API of one node over a real store, with traffic that a test makes by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from node.api.application import Application, build_application
from node.api.auth import Doorkeeper
from node.findings import StoreFindings
from node.ops.routes import OpsParts, ops_routes
from node.routing.cursors import Cursors
from node.routing.ranking import Facts, Ranker
from node.routing.sessions import Sessions
from node.routing.strategies import build_strategies
from node.signals import Signals
from node.snapshot import Snapshot
from node.watch import StoreWatch
from shared_state.clock import ServerClock
from shared_state.config import MeshConfig
from shared_state.ledger import Outcome
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.redis.ground import Caller, make_pool
from tests.unit.node.api.asgi import Heard, ask


def mesh(
    models: dict[str, dict[str, Any]],
    *,
    accounts: dict[str, dict[str, Any]] | None = None,
    pools: dict[str, list[str]] | None = None,
) -> Topology:
    """Models such as ``alpha.small`` with these limits, each on the account of its first part, in these pools or in ``chat``."""
    names = {model.partition(".")[0] for model in models}
    document = {
        "providers": {
            name: {
                "connector": "openai-compatible.v1",
                "base_url": "http://127.0.0.1:9/v1",
                "limits": (accounts or {}).get(name, {}),
            }
            for name in sorted(names)
        },
        "models": {
            model: {
                "provider": model.partition(".")[0],
                "capabilities": ["chat-completion"],
                "pricing": {"input": 0},
                "limits": limits,
            }
            for model, limits in models.items()
        },
        "pools": {name: {"models": members} for name, members in (pools or {"chat": list(models)}).items()},
    }
    return build_topology(MeshConfig.model_validate(document))


class Office:
    """A node's operators' API; open to everybody."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self.store = store
        self.topology = topology
        self.watch = StoreWatch(store, on_loss="leased")
        self.snapshot = Snapshot(store, topology, self.watch, clock=ServerClock())
        self.parts = OpsParts(
            "node-1",
            store,
            topology,
            self.snapshot,
            self.watch,
            StoreFindings(store, self.watch),
            self._ranker(),
        )
        self.app = self._open()
        self.callers = {name: Caller(store, domain, node="n1") for name, domain in topology.domains.items()}

    def _open(self) -> Application:
        doorkeeper = Doorkeeper([SecretStr("admin")], is_open=False)
        return build_application({}, routes=ops_routes(self.parts, doorkeeper))

    def open_again(self) -> None:
        """With other parts."""
        self.app = self._open()

    def _ranker(self) -> Ranker:
        self.signals = signals = Signals(
            self.store, [], self.watch, clock=self.snapshot.clock, nodes=lambda: 1
        )
        self.cursors = Cursors(self.store, self.watch, self.snapshot.current)
        self.sessions = Sessions(self.store, self.watch, epoch_of=self.snapshot.epoch_of)
        facts = Facts(self.cursors, self.sessions, signals)
        strategies = build_strategies(self.topology.pools.values())
        return Ranker(strategies, self.snapshot, facts, draw=random.random)

    async def attempt(
        self,
        model: str,
        outcome: Outcome = Outcome.SUCCESS,
        *,
        tokens: tuple[int, int] = (0, 0),
        **fields: Any,
    ) -> None:
        """One request from admission to settlement."""
        caller = self.callers[self.topology.models[model].domain]
        reservation, verdict = await caller.admit(model, tokens=tokens)
        assert not verdict.code, verdict
        await caller.settle(reservation, outcome, pool=make_pool(), **fields)

    async def admit(self, model: str, **options: Any) -> str:
        """A request that stays in flight."""
        reservation, verdict = await self.callers[self.topology.models[model].domain].admit(model, **options)
        assert not verdict.code, verdict
        return reservation

    async def expire(self, model: str) -> None:
        """Has what is past its lease booked as abandoned, as the next admission does."""
        await asyncio.sleep(0.005)
        await self.callers[self.topology.models[model].domain].ledger.admit([])

    async def look_again(self) -> None:
        """Has the node read the shared state again."""
        await self.snapshot._refresh(poll=True)

    async def ask(self, path: str, *, method: str = "GET", body: bytes = b"", query: str = "") -> Heard:
        """What the API answers to an operator."""
        headers = [(b"authorization", b"Bearer admin")]
        return await ask(self.app, method, f"/ops/{path}", body, headers=headers, query=query)

    async def view(self, path: str, *, query: str = "") -> Any:
        """A view, which must be as the API's own description says."""
        heard = await self.ask(path, query=query)
        assert heard.status == 200, heard.body
        await self.check(f"/ops/{path}", heard)
        return heard.json

    async def check(self, template: str, heard: Heard, *, method: str = "get") -> None:
        """Validates an answer against the description."""
        document = (await self.ask("openapi.json")).json
        responses = document["paths"][template][method]["responses"]
        schema = responses[str(heard.status)]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(
            orjson.loads(heard.body)
        )


@asynccontextmanager
async def open_office(store: Store, topology: Topology) -> AsyncIterator[Office]:
    """An office whose node has seen the shared state."""
    office = Office(store, topology)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(office.watch.run()), tasks.create_task(office.snapshot.run())]
        await office.snapshot.is_complete.wait()
        yield office
        for task in running:
            task.cancel()
