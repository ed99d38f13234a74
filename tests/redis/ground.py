"""What the shared state's tests stand on: a small quota domain, a store whose clock the test moves, callers that race."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import ormsgpack
from redis.exceptions import ResponseError

from shared_state import lua
from shared_state.assertion import Assertion, Correction, Standby
from shared_state.books import Audited, DomainBooks, audited, read_books
from shared_state.clock import ServerClock
from shared_state.config import MeshConfig, PoolConfig
from shared_state.domains import Kind, Order, order, read_domain, recover_due
from shared_state.keys import Keys
from shared_state.ledger import Ask, DomainLedger, How, Outcome, Settlement, Verdict
from shared_state.limits import windows_of
from shared_state.state import EntityState
from shared_state.store import Script, Store
from shared_state.topology import DomainSpec, Topology, build_topology
from tests.support.processes import wait_until

DOMAIN = PROVIDER = "alpha"
SMALL, BIG = "alpha.small", "alpha.big"
#: Monday, 23 November 2026, 09:00:00.000 UTC: where a steered clock begins.
EPOCH_MS = 1_795_424_400_000
LEASE_MS = 600_000

_TIME = """local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)"""


class SteeredStore(Store):
    """A store whose scripts read the time from a key, so that a test can let it pass."""

    def __init__(self, url: str, *, namespace: str, clock_key: str = "", timeout_s: float = 5.0) -> None:
        super().__init__(url, namespace=namespace, timeout_s=timeout_s)
        self.clock_key = clock_key or f"{namespace}:test-clock"
        for command in lua.commands():
            script = self._scripts[command] = Script(command)
            if "now_ms()" in script.text:
                _steer(script, self.clock_key)

    async def set_time(self, now_ms: int) -> None:
        """Lets it be this late."""
        await self.client.set(self.clock_key, now_ms)

    async def pass_time(self, delta_ms: int) -> int:
        """Lets time pass; the time that it is then."""
        return int(await self.client.incrby(self.clock_key, delta_ms))

    async def aclose(self) -> None:
        """Takes its libraries along: the server is shared, and each of these has a clock of its own."""
        for script in self._scripts.values():
            if script.function:
                with contextlib.suppress(ResponseError):
                    await self.client.execute_command("FUNCTION", "DELETE", script.function)
        await super().aclose()

    def move_to(self, namespace: str) -> None:
        """Goes on under other keys; the clock stays."""
        self.keys = Keys(namespace)


def _steer(script: Script, clock_key: str) -> None:
    assert script.text.count(_TIME) == 1, "lua/include/now.lua has changed: mend the steering of its clock"
    script.text = script.text.replace(_TIME, f"return tonumber(redis.call('GET', '{clock_key}'))")
    script.digest = _digest(script.text)


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def make_domain(
    account: dict[str, Any] | None = None,
    small: dict[str, Any] | None = None,
    big: dict[str, Any] | None = None,
) -> DomainSpec:
    """A domain of one account and two models, with these limits."""
    return make_mesh(account, small, big).domains[DOMAIN]


def make_mesh(
    account: dict[str, Any] | None = None,
    small: dict[str, Any] | None = None,
    big: dict[str, Any] | None = None,
) -> Topology:
    """A mesh of that one domain."""
    document = {
        "providers": {
            PROVIDER: {
                "connector": "openai-compatible.v1",
                "base_url": "http://127.0.0.1:9/v1",
                "limits": account or {},
            }
        },
        "models": {
            model: {
                "provider": PROVIDER,
                "capabilities": ["chat-completion"],
                "pricing": {"input": 0},
                "limits": limits or {},
            }
            for model, limits in ((SMALL, small), (BIG, big))
        },
    }
    return build_topology(MeshConfig.model_validate(document))


def make_pool(**rules: Any) -> PoolConfig:
    """A pool's rules; keys of both sections may be given directly."""
    recovery = {key: rules.pop(key) for key in ("cooldown", "max_cooldown", "ramp") if key in rules}
    return PoolConfig.model_validate({"deactivation": rules, "recovery": recovery})


class Caller:
    """A node, as far as the shared state can see it: asks, settles, knows the server's time from replies."""

    numbers = itertools.count(1)

    def __init__(self, store: Store, domain: DomainSpec, *, node: str = "n1") -> None:
        self.store = store
        self.domain = domain
        self.node = node
        self.clock = ServerClock()
        self.ledger = DomainLedger(store, domain, node=node, clock=self.clock)
        self._models: dict[str, str] = {}

    def ask(
        self,
        model: str = SMALL,
        *,
        tokens: tuple[int, int] = (0, 0),
        lease_ms: int = LEASE_MS,
        reservation: str = "",
        resent: bool = False,
        how: How = How.NORMAL,
    ) -> Ask:
        """A request for admission under a new reservation."""
        reservation = reservation or f"{self.node}.{next(self.numbers)}"
        self._models[reservation] = model
        return Ask(reservation, model, "chat", *tokens, 1000, lease_ms, resent, how)

    async def admit(self, model: str = SMALL, **options: Any) -> tuple[str, Verdict]:
        """Asks once: the reservation and the verdict."""
        ask = self.ask(model, **options)
        (verdict,) = await self.ledger.admit([ask])
        return ask.reservation, verdict

    async def admit_many(self, count: int, model: str = SMALL, **options: Any) -> list[Verdict]:
        """Asks for so many in one batch."""
        return await self.ledger.admit([self.ask(model, **options) for _ in range(count)])

    async def settle(
        self, reservation: str, outcome: Outcome = Outcome.SUCCESS, *, pool: PoolConfig, **fields: Any
    ) -> bool:
        """Ends an attempt; whether it was still open."""
        settlement = Settlement(reservation, self._models.get(reservation, SMALL), pool, outcome, **fields)
        (applied,) = await self.ledger.settle([settlement])
        return applied

    async def assert_known(
        self, standbys: Sequence[Standby] = (), *, assertion: Assertion | None = None
    ) -> Correction:
        """What a node does when it has seen another term; it waits for a durable copy as long as it must."""
        assertion = assertion or Assertion(self.ledger)
        await wait_until(lambda: assertion.begin(epoch=self.ledger.epoch), what="no copy is waited for")
        await assertion.replay()
        return await assertion.finish(standbys, epoch=self.ledger.epoch)

    async def books(self) -> DomainBooks:
        """The books of the domain."""
        return await read_books(self.store, self.domain.id)

    async def used(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Of each window (scope, name): what is used, when it resets."""
        account = self.domain.providers[0].config.limits
        scopes = {"": account, **{model.id: model.config.limits for model in self.domain.models}}
        now_ms, _ = await read_domain(self.store, self.domain)
        specs = [(scope, windows_of(limits, now_ms)) for scope, limits in scopes.items()]
        _, *rows = await self.store.run(
            "read_windows", [self.store.keys.domain(self.domain.id)], [ormsgpack.packb(specs)]
        )
        return {
            (scope, window[1]): (row[2 * i], row[2 * i + 1])
            for (scope, windows), row in zip(specs, rows, strict=True)
            for i, window in enumerate(windows)
        }


class Bench(Caller):
    """One caller at a steered clock, and everything that can be seen of the domain's states."""

    store: SteeredStore

    def __init__(self, store: SteeredStore, domain: DomainSpec, *, pool: PoolConfig | None = None) -> None:
        super().__init__(store, domain)
        self.pool = pool or make_pool()
        self.clock.observe(EPOCH_MS)

    async def attempt(self, outcome: Outcome = Outcome.SUCCESS, model: str = SMALL, **fields: Any) -> Verdict:
        """Asks, and if it is admitted settles with this outcome."""
        reservation, verdict = await self.admit(model)
        if not verdict.code:
            await self.end(reservation, outcome, **fields)
        return verdict

    async def end(self, reservation: str, outcome: Outcome = Outcome.SUCCESS, **fields: Any) -> bool:
        """Settles under the bench's pool rules."""
        return await self.settle(reservation, outcome, pool=self.pool, **fields)

    async def order(self, action: Any, *, kind: Kind = "model", name: str = SMALL, for_s: float = 0) -> Order:
        """An operator's order."""
        return await order(self.store, DOMAIN, kind=kind, name=name, action=action, for_s=for_s)

    async def recover(self, token: int = 1) -> list[tuple[str, str]]:
        """The scheduler's walk."""
        return await recover_due(self.store, DOMAIN, token=token)

    async def model(self, model: str = SMALL) -> EntityState:
        """A model's state."""
        return (await read_domain(self.store, self.domain))[1].models[model]

    async def provider(self) -> EntityState:
        """The account's state."""
        return (await read_domain(self.store, self.domain))[1].providers[PROVIDER]

    async def epoch(self) -> int:
        """The domain's epoch."""
        return (await read_domain(self.store, self.domain))[1].epoch

    async def now_ms(self) -> int:
        """The steered time."""
        return (await read_domain(self.store, self.domain))[0]

    async def news(self) -> list[dict[str, Any]]:
        """Events of the domain, oldest first."""
        raw = await self.store.client.lrange(self.store.keys.news(DOMAIN), 0, -1)
        return [orjson.loads(event) for event in reversed(raw)]

    async def due(self) -> dict[str, int]:
        """The due list: name -> time."""
        rows = await self.store.client.zrange(self.store.keys.due(DOMAIN), 0, -1, withscores=True)
        return {name.decode(): int(at) for name, at in rows}


class Only:
    """A directory of these quota domains and no others."""

    def __init__(self, *domains: str | DomainSpec) -> None:
        self._specs = {domain.id: domain for domain in domains if isinstance(domain, DomainSpec)}
        self._ids = [domain if isinstance(domain, str) else domain.id for domain in domains]

    async def ids(self) -> Sequence[str]:
        return self._ids

    async def specs(self) -> Mapping[str, DomainSpec]:
        return self._specs

    limited = specs

    async def audited(self) -> Sequence[Audited]:
        known = audited(self._specs)
        return [*known, *(Audited(name) for name in self._ids if name not in self._specs)]


def admitted(verdicts: Iterable[Verdict]) -> int:
    """How many were let through."""
    return sum(not verdict.code for verdict in verdicts)
