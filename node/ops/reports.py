"""The read side for operators: gathers what nodes, scripts and the scheduler have left in Redis. Never on a request's path."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import orjson

from node.findings import StoreFindings
from node.ops.books import view_books
from node.ops.events import read_news, view_event
from node.ops.statistics import view_statistics
from node.ops.usage import view_usage
from node.snapshot import Snapshot
from node.watch import StoreWatch
from shared_state.availability import Health, read_health
from shared_state.books import BookRow, read_books
from shared_state.directory import DomainDirectory
from shared_state.domains import read_domain
from shared_state.events import Event
from shared_state.gates import pool_gate
from shared_state.leadership import read_lead
from shared_state.leftovers import items_of, read_in_flight, read_known
from shared_state.limits import has_limits
from shared_state.panics import Panic, read_panics
from shared_state.recent import read_recent
from shared_state.registry import Registry
from shared_state.shapes.statistics import StatsQuery, StatsView
from shared_state.shapes.status import (
    BooksView,
    EventView,
    FindingView,
    JobView,
    LeftoverView,
    ModelView,
    NodeView,
    PanicView,
    PoolView,
    ProviderView,
    SchedulerView,
    StatusView,
    StoreView,
    WindowView,
)
from shared_state.shapes.usage import UsageView
from shared_state.state import EntityState, Status
from shared_state.statistics import minutes_of, read_minute
from shared_state.store import Store
from shared_state.topology import DomainSpec, ModelSpec, Topology
from shared_state.usage import WindowUse, in_units, read_domain_use, read_usage

_EVENTS_SHOWN = 50


class Reports:
    """Views of the cluster as one node sees it."""

    def __init__(
        self,
        store: Store,
        topology: Topology,
        snapshot: Snapshot,
        watch: StoreWatch,
        findings: StoreFindings,
    ) -> None:
        self._store = store
        self._topology = topology
        self._snapshot = snapshot
        self._watch = watch
        self._findings = findings
        self._registry = Registry(store)
        self._directory = DomainDirectory(store, topology)

    async def status(self) -> StatusView:
        """Everything at once."""
        began = time.perf_counter()
        await self._store.ping()
        round_trip_ms = (time.perf_counter() - began) * 1000
        return StatusView(
            mode=self._watch.mode,
            config_version=self._topology.version,
            store=self._store_view(round_trip_ms),
            scheduler=await self.scheduler(),
            nodes=await self.nodes(),
            pools=await self.pools(),
            models=await self.models(),
            providers=await self.providers(),
            events=await self.events(),
        )

    def _store_view(self, round_trip_ms: float) -> StoreView:
        report = self._findings.report
        return StoreView(
            url=self._store.masked_url,
            connected=self._watch.connected,
            round_trip_ms=round(round_trip_ms, 3),
            checked=_seconds(report.checked_ms) if report else None,
            findings=[
                FindingView(code=found.code, severity=found.severity, message=found.message)
                for found in self._findings.findings
            ],
        )

    async def scheduler(self) -> SchedulerView:
        """Who leads, and how the jobs went."""
        lead = await read_lead(self._store)
        raw: dict[bytes, bytes] = await self._store.command("HGETALL", self._store.keys.jobs)
        jobs = [JobView.model_validate(orjson.loads(report)) for _, report in sorted(raw.items())]
        leads = int(lead.get("until", 0)) > self._snapshot.clock.now_ms()
        return SchedulerView(
            leader=(lead.get("owner") or None) if leads else None,
            token=int(lead.get("token", 0)),
            since=_seconds(int(lead.get("since", 0))) if leads else None,
            jobs=jobs,
            config_number=int(lead.get("config", 0)),
            config_fault=lead.get("fault", ""),
        )

    async def nodes(self) -> list[NodeView]:
        """All nodes in the registry."""
        rows = []
        for node in await self._registry.nodes():
            info = node.info
            rows.append(
                NodeView(
                    id=info.id,
                    host=info.host,
                    port=info.port,
                    pid=info.pid,
                    started=info.started,
                    seen_s=round(node.seen_s, 3),
                    state="dead" if node.is_dead else info.state,
                    version=info.version,
                    config_version=info.config_version,
                    mode=info.mode,
                    in_flight=info.in_flight,
                    config_number=info.config_number,
                    config_fault=info.config_fault,
                )
            )
        return rows

    async def pools(self) -> list[PoolView]:
        """All pools, from this node's snapshot; what their own limits have let through, from Redis."""
        rows, panics = [], await read_panics(self._store, list(self._topology.pools))
        for pool in self._topology.pools.values():
            active = sum(map(self._snapshot.is_active, pool.models))
            rows.append(
                PoolView(
                    id=pool.id,
                    capability=pool.capability,
                    strategy=pool.strategy,
                    active=active,
                    standby=len(pool.models) - active,
                    models=[model.id for model in pool.models],
                    current=self._snapshot.current.get(pool.id) or None,
                    windows=await self.gate_windows(self._topology.gates.get(pool_gate(pool.id))),
                    panic=_panic_view(panics.get(pool.id)),
                )
            )
        return rows

    async def providers(self) -> list[ProviderView]:
        """All provider accounts."""
        watched: dict[str, Health] = {}
        for domain in self._topology.domains:
            watched |= (await read_health(self._store, domain)).providers
        members = Counter(model.provider for model in self._topology.models.values())
        rows = []
        for provider in self._topology.providers.values():
            state = self._snapshot.provider_state(provider.domain, provider.id)
            health = watched.get(provider.id)
            rows.append(
                ProviderView(
                    id=provider.id,
                    domain=provider.domain,
                    connector=provider.connector.id,
                    status=state.status,
                    reason=_reason(state),
                    trigger=_trigger(state),
                    until=_seconds(state.until_ms),
                    models=members[provider.id],
                    health=health.status if health else None,
                    availability=round(health.score, 3) if health else None,
                    probed=health.probed if health else None,
                )
            )
        return rows

    async def models(self) -> list[ModelView]:
        """All models with their windows and counts."""
        rows = []
        for domain in self._topology.domains.values():
            # The snapshot does not follow the count of failures.
            _, live = await read_domain(self._store, domain)
            books = await read_books(self._store, domain.id)
            failed = await self._failed(domain.id)
            windows = await self._windows(domain)
            watched = (await read_health(self._store, domain.id)).models
            rows += [
                _model_view(
                    model,
                    live.models[model.id],
                    [row for row in books.rows if row.model == model.id],
                    failed=failed[model.id],
                    windows=windows[model.id],
                    health=watched.get(model.id),
                )
                for model in domain.models
            ]
        return rows

    async def _failed(self, domain: str) -> Counter[str]:
        """Failed attempts by model in the minutes that were not flushed yet."""
        failed: Counter[str] = Counter()
        for minute in await minutes_of(self._store, domain):
            for row in await read_minute(self._store, domain, minute):
                failed[row.model] += row.metrics.get("failed", 0)
        return failed

    async def gate_windows(self, gate: DomainSpec | None) -> list[WindowView]:
        """How full the windows of a gate are; none where there is no gate."""
        if gate is None or not has_limits(gate.limits):
            return []
        use = await read_domain_use(self._store, gate, now_ms=self._snapshot.clock.now_ms())
        return [_window_view(window) for window in use.account]

    async def _windows(self, domain: DomainSpec) -> dict[str, list[WindowView]]:
        use = await read_domain_use(self._store, domain, now_ms=self._snapshot.clock.now_ms())
        shared = [_window_view(window, prefix="account.") for window in use.account]
        return {model: [*map(_window_view, windows), *shared] for model, windows in use.models.items()}

    async def usage(self) -> UsageView:
        """Every quota: used, left, and until when it lasts."""
        now_ms = self._snapshot.clock.now_ms()
        usage = await read_usage(self._store, self._topology.domains, now_ms=now_ms)
        return view_usage(usage, self._topology, is_active=self._snapshot.is_active)

    async def statistics(self, asked: StatsQuery) -> StatsView:
        """What went through in the last minutes, those that were not stored durably yet included."""
        recent = await read_recent(self._store, self._topology.domains, minutes=asked.minutes)
        return view_statistics(recent, asked, self._topology)

    async def news(self) -> list[Event]:
        """All events that the domains remember, oldest first."""
        pools = [pool_gate(pool) for pool in self._topology.pools]
        return await read_news(self._store, dict.fromkeys([*await self._directory.limited(), *pools]))

    async def events(self) -> list[EventView]:
        """The latest events of all domains, newest first."""
        return [view_event(event) for event in reversed((await self.news())[-_EVENTS_SHOWN:])]

    async def books(self) -> BooksView:
        """The books of all domains."""
        domains = [
            await read_books(self._store, domain, limited=limited)
            for domain, limited in await self._directory.audited()
        ]
        books = view_books(domains, self._topology)
        return books.model_copy(update={"leftovers": await self._leftovers()})

    async def _leftovers(self) -> list[LeftoverView]:
        """What is known and not configured here."""
        configured, grace_s = items_of(self._topology), self._topology.config.scheduler.forget_after
        left = {item: at for item, at in (await read_known(self._store)).items() if item not in configured}
        in_flight = await read_in_flight(self._store, sorted({item.domain for item in left}))
        return [
            LeftoverView(
                kind=item.kind,
                domain=item.domain,
                id=item.id,
                seen=at / 1000,
                goes=at / 1000 + grace_s if grace_s else None,
                in_flight=in_flight[item.domain],
            )
            for item, at in sorted(left.items())
        ]


def _window_view(window: WindowUse, *, prefix: str = "") -> WindowView:
    return WindowView(
        name=prefix + window.name,
        used=in_units(window.dimension, window.used),
        limit=in_units(window.dimension, window.limit),
        resets=_seconds(window.resets_ms),
    )


def _panic_view(panic: Panic | None) -> PanicView | None:
    if panic is None:
        return None
    return PanicView(since=panic.since_ms / 1000, asked=panic.asked, answered=panic.answered)


def _trigger(state: EntityState) -> str:
    return state.trigger if state.status == Status.STANDBY else ""


def _model_view(
    model: ModelSpec,
    state: EntityState,
    books: Sequence[BookRow],
    *,
    failed: int,
    windows: list[WindowView],
    health: Health | None,
) -> ModelView:
    pricing = model.config.pricing if model.is_priced else None
    return ModelView(
        id=model.id,
        provider=model.provider,
        domain=model.domain,
        status=state.status,
        phase=state.phase,
        reason=_reason(state),
        trigger=_trigger(state),
        since=_seconds(state.since_ms),
        until=_seconds(state.until_ms),
        fails=state.fails,
        in_flight=sum(row.in_flight for row in books),
        requests=sum(row.admitted for row in books),
        failed=failed,
        windows=windows,
        availability=round(health.score, 3) if health else None,
        price_input=pricing.input if pricing else None,
        price_output=pricing.output if pricing else None,
    )


def _reason(state: EntityState) -> str:
    return state.reason if state.status == Status.STANDBY else ""


def _seconds(ms: int) -> float | None:
    return ms / 1000 if ms > 0 else None
