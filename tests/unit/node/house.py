"""A node without Redis and without a network: real pipeline, router, connectors; everything beyond them noted in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import ormsgpack

from node.api.surfaces import CHAT
from node.call import Call, Surface, Trail
from node.leases import Allowance
from node.providers.connector import Connector
from node.routing.budget import RetryBudgets
from node.routing.estimate import output_room, token_room
from node.routing.gates import Gates
from node.routing.interrupts import Interrupts
from node.routing.lanes import Lane, build_lane
from node.routing.pipeline import Pipeline
from node.routing.ranking import Facts, Ranker
from node.routing.router import Router
from node.routing.slowness import Slowness, watched
from node.routing.stays import Gate
from node.routing.strategies import build_strategies
from node.signals import UNKNOWN, Signal
from shared_state.client_keys import ClientKey
from shared_state.config import LimitsConfig, MeshConfig, PoolConfig
from shared_state.errors import ModelMeshError
from shared_state.gates import ANY_MODEL, build_gate, key_gate
from shared_state.keys import Keys
from shared_state.ledger import LEASED, Ask, Code, Outcome, Settlement, Verdict
from shared_state.state import ACTIVE, EntityState
from shared_state.topology import DomainSpec, ModelSpec, PoolSpec, Topology, build_topology
from tests.unit.node.scripted import ScriptedTransport

NOW_MS = 1_700_000_000_000
ADMITTED = Verdict(Code.ADMITTED)


def mesh(
    *models: str,
    pool: dict[str, Any] | None = None,
    provider: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    differing: dict[str, dict[str, Any]] | None = None,
    **sections: Any,
) -> Topology:
    """Models such as ``alpha.small``, each on the provider of its first part, all in the pool ``chat``.

    Args:
        model: settings of all models; ``differing`` has those of single ones.
        sections: replace whole sections of the configuration.
    """
    document: dict[str, Any] = {
        "providers": {
            name.partition(".")[0]: {
                "connector": "openai-compatible.v1",
                "base_url": f"http://{name.partition('.')[0]}/v1",
                "api_key": "sk-secret",
                **(provider or {}),
            }
            for name in models
        },
        "models": {
            name: {
                "provider": name.partition(".")[0],
                "capabilities": ["chat-completion"],
                **(model or {}),
                **(differing or {}).get(name, {}),
            }
            for name in models
        },
        "pools": {"chat": {"models": list(models), **(pool or {})}},
        **sections,
    }
    return build_topology(MeshConfig.model_validate(document))


class FixedClock:
    """Server time that stands still."""

    def now_ms(self) -> int:
        return NOW_MS


class Watch:
    """Whether Redis is there, as the test says."""

    def __init__(self) -> None:
        self.connected = True
        self.failures: list[BaseException] = []
        self.losses = 0
        self.returns: list[Callable[[], None]] = []
        self.held: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()

    def hold(self, domain: str) -> None:
        self.held.add(domain)
        self.open.clear()

    def release(self, domain: str) -> None:
        self.held.discard(domain)
        if not self.held:
            self.open.set()

    async def until_open(self) -> None:
        await self.open.wait()

    @property
    def mode(self) -> str:
        return "exact" if self.connected else "leased"

    def on_return(self, callback: Callable[[], None]) -> None:
        self.returns.append(callback)

    def report_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self.connected = False


class View:
    """A snapshot that holds what the test puts there."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.clock = FixedClock()
        self.is_complete = asyncio.Event()
        self.is_complete.set()
        self.current: dict[str, str] = {}
        self.models: dict[str, EntityState] = {}
        self.providers: dict[str, EntityState] = {}

    def model(self, spec: ModelSpec) -> EntityState:
        return self.models.get(spec.id, ACTIVE)

    def provider(self, spec: ModelSpec) -> EntityState:
        return self.providers.get(spec.provider, ACTIVE)


class Pointers:
    """Cursors of one node alone."""

    def __init__(self, current: dict[str, str]) -> None:
        self.current = current
        self.turns: dict[str, Iterator[int]] = {}
        self.moves: list[tuple[str, str]] = []

    async def turn(self, pool: str) -> int:
        return next(self.turns.setdefault(pool, itertools.count()))

    async def peek(self, pool: str) -> int:
        raise NotImplementedError

    def point_at(self, pool: str, model: str) -> None:
        self.moves.append((pool, model))
        self.current[pool] = model


class Map:
    """Sessions of one node alone."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], str] = {}
        self.moves: list[tuple[str, str, str]] = []

    async def model_of(self, pool: PoolSpec, session: str, wish: str) -> str:
        return self.held.setdefault((pool.id, session), wish)

    async def peek(self, pool: PoolSpec, session: str, wish: str) -> str:
        return self.held.get((pool.id, session), wish)

    def move(self, pool: PoolSpec, session: str, *, seen: str, model: str) -> None:
        self.moves.append((session, seen, model))
        self.held[pool.id, session] = model


class Gauge:
    """Signals that say what the test puts there."""

    def __init__(self) -> None:
        self.signals: dict[str, Signal] = {}
        self.under_way_now: list[str] = []
        self.told: list[tuple[str, tuple[float, float] | None]] = []

    def of(self, model: str) -> Signal:
        return self.signals.get(model, UNKNOWN)

    def wants(self, model: str) -> bool:
        return True

    def tell(self, model: str, told: tuple[float, float] | None) -> None:
        self.told.append((model, told))

    def begin(self, model: str) -> None:
        self.under_way_now.append(model)

    def end(self, model: str) -> None:
        self.under_way_now.remove(model)


class Ledger:
    """Stands for the batchers of all domains; refuses what the test says and checks that every end is settled once."""

    def __init__(self) -> None:
        self.verdicts: dict[str, list[Verdict]] = {}
        self.wait: Callable[[], Any] | None = None
        self.asks: list[Ask] = []
        self.open: set[str] = set()
        self.settled: list[Settlement] = []
        self.learned: list[tuple[str, list[tuple[str, int, int]]]] = []
        self.takes_early_words = True

    async def admit(self, ask: Ask, pool: PoolConfig) -> Verdict:
        self.asks.append(ask)
        if self.wait is not None:
            await self.wait()
        script = self.verdicts.get(ask.model, [])
        verdict = script.pop(0) if script else ADMITTED
        if verdict.code is Code.ADMITTED:
            self.open.add(ask.reservation)
        return verdict

    def settle(self, settlement: Settlement) -> None:
        if not settlement.flags & LEASED:
            self.open.remove(settlement.reservation)
        self.settled.append(settlement)

    def learn(self, model: str, learned: Sequence[tuple[str, int, int]]) -> bool:
        if self.takes_early_words:
            self.learned.append((model, list(learned)))
        return self.takes_early_words

    async def until_settled(self, within_s: float) -> None:
        """Nothing is ever on its way here."""

    @property
    def outcomes(self) -> list[tuple[str, Outcome]]:
        """Model and outcome of everything that was settled, in order."""
        return [(settlement.model, settlement.outcome) for settlement in self.settled]


class Reader:
    """The caller's end: keeps what arrives and may read slowly.

    Attributes:
        wait: awaited in every send.
    """

    def __init__(self) -> None:
        self.is_started = False
        self.begun = 0
        self.status = 0
        self.body = b""
        self.sends: list[bytes] = []
        self.ended = 0
        self.errors: list[ModelMeshError] = []
        self.wait: Callable[[], Any] | None = None

    async def whole(self, status: int, content_type: bytes, body: bytes, trail: Trail) -> None:
        self.is_started = True
        self.status = status
        await self.part(body)
        self.ended += 1

    async def begin(self, trail: Trail, content_type: bytes = b"") -> None:
        self.is_started = True
        self.status = 200
        self.begun += 1

    async def part(self, data: bytes) -> None:
        if self.wait is not None:
            await self.wait()
        self.sends.append(data)
        self.body += data

    async def end(self) -> None:
        self.ended += 1

    async def break_off(self, error: ModelMeshError) -> None:
        if self.wait is not None:
            await self.wait()
        self.errors.append(error)


class RetryBooks:
    """The retry budget in Redis of a fleet of one: what ten seconds allow, once."""

    keys = Keys("t")

    def __init__(self) -> None:
        self.requests = self.retries = self.good = 0

    async def run(self, script: str, keys: list[str], args: list[Any]) -> int:
        assert script == "share_retries"
        self.requests, self.retries = self.requests + args[2], self.retries + args[3]
        self.good += args[4]
        share, floor, unpaid = map(float, args[6:9])
        paid = min(floor * 10, unpaid + self.good)
        return max(0, int(max(share * self.requests, paid) - self.retries))


class WaitBooks:
    """The waits in Redis of a fleet of one: all that it was ever told."""

    keys = Keys("t")

    def __init__(self) -> None:
        self.waits: dict[str, dict[str, int]] = {}
        self.reads = 0

    async def run(self, script: str, keys: list[str], args: list[Any]) -> list[int]:
        assert script == "share_waits"
        self.reads += 1
        p95s = []
        for model, told in ormsgpack.unpackb(args[0]):
            known = self.waits.setdefault(model, {})
            known.update(zip(told[::2], told[1::2], strict=True))
            waits = sorted(known.values())
            p95s.append(waits[int(0.95 * len(waits))] if len(waits) >= 20 else -1)
        return p95s


class House:
    """One node of the test: serves calls against a script and says what became of them."""

    def __init__(
        self,
        topology: Topology,
        transport: ScriptedTransport,
        *,
        on_loss: str = "leased",
        draw: Sequence[float] = (0.0,),
    ) -> None:
        self.topology = topology
        self.transport = transport
        self.watch = Watch()
        self.view = View(topology)
        self.cursors = Pointers(self.view.current)
        self.ledger = Ledger()
        now = asyncio.get_running_loop().time
        self.allowances = {model: Allowance(model, now=now) for model in topology.models}
        self.gates = {domain.id: self._gate(domain) for domain in topology.gates.values()}
        draws = itertools.cycle(draw)
        self.sessions, self.signals = Map(), Gauge()
        facts = Facts(self.cursors, self.sessions, self.signals)  # type: ignore[arg-type]
        ranker = Ranker(
            build_strategies(topology.pools.values()),
            self.view,  # type: ignore[arg-type]
            facts,
            draw=lambda: next(draws),
        )
        self.pipeline = Pipeline(self.view, ranker, draw=lambda: next(draws))  # type: ignore[arg-type]
        self.budgets = RetryBudgets(
            RetryBooks(),  # type: ignore[arg-type]
            topology.pools,
            self.watch,  # type: ignore[arg-type]
            node="n1",
            nodes=lambda: 1,
        )
        self.waits = WaitBooks()
        self.slowness = Slowness(
            self.waits,  # type: ignore[arg-type]
            watched(topology.pools.values()),
            self.watch,  # type: ignore[arg-type]
            nodes=lambda: 1,
        )
        lanes = self._lanes()
        self.router = Router(
            self.pipeline,
            lanes,
            self.watch,  # type: ignore[arg-type]
            self.signals,  # type: ignore[arg-type]
            self.budgets,
            self.slowness,
            clock=self.view.clock,  # type: ignore[arg-type]
            reservations=(f"r{number}" for number in itertools.count(1)),
            on_loss=on_loss,
            gates=Gates(
                self.gates,
                lanes,
                of_key=self._key_gate,
                watch=self.watch,  # type: ignore[arg-type]
                reservations=(f"g{number}" for number in itertools.count(1)),
                now_ms=self.view.clock.now_ms,
                on_loss=on_loss,
            ),
            draw=lambda: next(draws),
        )
        self.reader = Reader()
        self.trail = Trail()
        self.interrupts: Interrupts | None = None

    def _lanes(self) -> dict[str, Lane]:
        providers = self.topology.providers
        connectors = {name: Connector(spec, self.transport) for name, spec in providers.items()}
        return {
            model.id: build_lane(
                model,
                providers[model.provider],
                connectors[model.provider],
                self.ledger,  # type: ignore[arg-type]
                self.allowances[model.id],
            )
            for model in self.topology.models.values()
        }

    def _gate(self, domain: DomainSpec) -> Gate:
        """A gate with books of its own: ``gates[...].batcher`` is a `Ledger`."""
        now = asyncio.get_running_loop().time
        return Gate(
            domain.id,
            domain.limits,
            Ledger(),  # type: ignore[arg-type]
            Allowance(ANY_MODEL, now=now),
            token_room(domain.limits, LimitsConfig()),
            output_room(domain.limits, LimitsConfig()),
            is_limited=True,
        )

    def _key_gate(self, key: ClientKey) -> Gate:
        domain = build_gate(key_gate(key.id), key.limits)
        return self.gates.setdefault(domain.id, self._gate(domain))

    def at_gate(self, domain: str) -> Ledger:
        """What a gate was asked and told."""
        return self.gates[domain].batcher  # type: ignore[return-value]

    async def serve(self, call: Call | None = None, **fields: Any) -> None:
        """Serves a call in the current task."""
        task = asyncio.current_task()
        assert task is not None
        self.interrupts = Interrupts(task)
        await self.router.serve(call or chat(**fields), self.reader, self.interrupts, self.trail)

    def start(self, call: Call | None = None, **fields: Any) -> asyncio.Task[None]:
        """Serves a call in a task of its own, to be interrupted."""
        return asyncio.get_running_loop().create_task(self.serve(call, **fields))

    def assert_clean(self) -> None:
        """Nothing is left behind: every admission settled, every answer closed, no timer running."""
        assert self.ledger.open == set()
        assert [self.at_gate(gate).open for gate in self.gates] == [set()] * len(self.gates)
        assert [answer.body.closed for answer in self.transport.answers] == [1] * len(self.transport.answers)
        assert self.router.in_flight == 0
        assert self.interrupts is not None
        assert self.interrupts._handle is None


def chat(
    *,
    deadline_s: float | None = None,
    provider: str | None = None,
    key: ClientKey | None = None,
    session: str = "",
    surface: Surface = CHAT,
    **fields: Any,
) -> Call:
    """A chat call to the pool ``chat``, or as the fields say."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **fields}
    return Call(
        surface=surface,
        request_id="req-1",
        fields=body,
        body_bytes=len(orjson.dumps(body)),
        started=asyncio.get_running_loop().time(),
        deadline_s=deadline_s,
        provider=provider,
        key=key,
        session=session,
    )
