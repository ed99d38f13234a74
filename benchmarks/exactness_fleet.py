"""The fleet under test: windows of every kind over several models and accounts. Only this side knows whose fleet it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.exactness_oracle import Balance, compare
from benchmarks.exactness_upstream import CountingUpstream
from benchmarks.exactness_windows import Plan, Price, Window
from tests.cluster.cluster import Cluster, Node
from tests.cluster.mesh import Member, mesh, pool
from tests.support.processes import free_port
from tests.support.valkey import ValkeyServer

_TIMEOUTS: Final = {"connect": "1s", "first_token": "2s", "idle": "2s", "total": "4s"}
#: How long a reservation lives: the timeouts of its provider, and the time to settle.
LEASE_S: Final = 1.0 + 4.0 + 15.0
#: How long a node's allowance for outages is kept for it, and the time to look.
ALLOWANCE_S: Final = 60.0 + 5.0
_START_S: Final = 60.0
_ZONE: Final = "Asia/Kathmandu"
_PRICE: Final = {"input": 1.0, "output": 4.0}

#: Each on a model, and on an account, of its own.
_LIMITS: Final[dict[str, dict[str, Any]]] = {
    "rpm": {"rpm": 40},
    "rph": {"rph": 50},
    "rpd": {"rpd": 45},
    "turn": {"rpm": 30, "algorithms": {"rpm": "calendar"}},
    "bucket": {"rpm": 40, "algorithms": {"rpm": "token_bucket"}},
    "tpm": {"tpm": 20_000},
    "tpd": {"tpd": 30_000, "timezone": _ZONE},
    "itpm": {"itpm": 12_000},
    "otpm": {"otpm": 8_000},
    "slots": {"concurrency": 3},
    "wide": {"concurrency": 5},
    "apart": {"min_delta": "100ms"},
    "money": {"usd_per_day": 0.1},
}
#: What is asked for more often than the others: slots come back soon.
_ASKED_MORE: Final = ("slots", "wide", "wide")
#: One account with three models, one of which has a limit of its own.
_ACCOUNT: Final = {"rpm": 80, "tpm": 30_000, "concurrency": 6}
_OWN_RPM: Final = 35
#: No model is taken out for long, else nobody would be left to fill the windows.
_RULES: Final[dict[str, Any]] = {
    "deactivation": {"retry_limit": 1000, "error_min_requests": 100_000},
    "recovery": {"cooldown": "500ms", "max_cooldown": "500ms", "ramp": [1.0]},
}
_RETRY: Final = {"scope": "same_model", "max_attempts": 2, "initial_delay": "10ms"}


def config(prefixes: Sequence[str]) -> dict[str, Any]:
    """All windows, once for each prefix, so that several runs in one fleet share nothing."""
    fragments = []
    for prefix in prefixes:
        for name, limits in _LIMITS.items():
            model = {"pricing": _PRICE} if name == "money" else {}
            member = Member("upstream", limits=limits, provider={"timeouts": _TIMEOUTS}, model=model)
            rules = _RULES | ({"retry": _RETRY} if name in ("rph", "wide") else {})
            fragments.append(pool(prefix + name, member, **rules))
        fragments.append(_shared(prefix + "shared"))
    return mesh(*fragments, scheduler={"lease": "3s"})


def _shared(name: str) -> dict[str, Any]:
    account = {"timeouts": _TIMEOUTS, "limits": _ACCOUNT}
    members = [
        Member("upstream", one, limits={"rpm": _OWN_RPM} if one == "a" else {}, provider=account)
        for one in "abc"
    ]
    fragment = pool(name, *members)
    fragment["pools"] = {f"{name}-{one}": {"models": [f"{name}.{one}"], **_RULES} for one in "abc"}
    return fragment


def plan(prefix: str = "") -> Plan:
    """The same limits as an outsider reads them."""
    windows = [_window(prefix + name, limits) for name, limits in _LIMITS.items()]
    shared = f"{prefix}shared"
    models = frozenset(f"{shared}.{one}" for one in "abc")
    windows += [Window(f"account {shared}", models, kind, limit) for kind, limit in _ACCOUNT.items()]
    windows.append(Window(f"{shared}.a", frozenset({f"{shared}.a"}), "rpm", _OWN_RPM))
    asks = [prefix + name for name in (*_LIMITS, *_ASKED_MORE)] + [f"{shared}-{one}" for one in "abc"]
    return Plan(tuple(asks), tuple(windows))


def _window(name: str, limits: dict[str, Any]) -> Window:
    kind, limit = next(iter(limits.items()))
    model = f"{name}.upstream"
    return Window(
        name,
        frozenset({model}),
        kind,
        0.1 if kind == "min_delta" else limit,
        algorithm=limits.get("algorithms", {}).get(kind, ""),
        timezone=limits.get("timezone", "UTC"),
        prices={model: Price(**_PRICE)},
    )


class Fleet:
    """Nodes, schedulers, nginx and a store that keeps its data through a restart, in front of a counting upstream.

    Attributes:
        busy: nodes that a fault has in its hands; another fault leaves them alone.
    """

    def __init__(
        self,
        upstream: CountingUpstream,
        *,
        nodes: int,
        prefixes: Sequence[str] = ("",),
        store_url: str | None = None,
    ) -> None:
        self.cluster = Cluster(config(prefixes), mocks={}, nodes=nodes, store_url=store_url)
        self.cluster.mocks["upstream"] = upstream  # type: ignore[assignment]  # only its address is asked for
        if store_url is None:
            self.cluster.valkey = ValkeyServer(port=self.cluster.valkey.port or free_port(), persistence=True)
        self.busy: set[Node] = set()
        self._upstream = upstream
        self._wanted = nodes

    def __enter__(self) -> Fleet:
        self.cluster.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()

    @property
    def idle_nodes(self) -> list[Node]:
        """Nodes that a fault may strike."""
        return [node for node in self.cluster.nodes if node not in self.busy]

    async def restart(self, node: Node) -> None:
        """Start a dead node again, however long its store takes."""
        node.spawn()
        await node.process.wait_line(r'"event": ?"ready"', _START_S)

    async def scale(self, count: int) -> None:
        """Let nodes join or leave in order until there are so many; nginx hears of it before a node leaves."""
        new = [self.cluster.add_node() for _ in range(count - len(self.cluster.nodes))]
        for node in new:
            await node.process.wait_line(r'"event": ?"ready"', _START_S)
        leaving = self.idle_nodes[: max(0, len(self.cluster.nodes) - count)]
        for node in leaving:
            self.cluster.nodes.remove(node)
        assert self.cluster.nginx is not None
        self.cluster.nginx.reload([("127.0.0.1", node.port) for node in self.cluster.nodes])
        await asyncio.gather(*(node.process.terminate(_START_S) for node in leaving))

    async def mend(self) -> None:
        """As many nodes and as many schedulers as there were."""
        await self.scale(self._wanted)
        if not any(scheduler.is_running for scheduler in self.cluster.schedulers):
            self.cluster.start_scheduler()

    async def balance(self, models: frozenset[str]) -> Balance:
        """Calls of these models against the books of the operators' API at this moment."""
        arrivals, _ = await self._upstream.ledger()
        rows = (await self.cluster.ops("books"))["rows"]
        return compare(
            [one for one in arrivals if one.model in models], [row for row in rows if row["model"] in models]
        )
