"""The read side for operators: gathers what nodes, scripts and the scheduler have left in Redis. Never on a request's path."""

from __future__ import annotations

import time
from collections import Counter

import orjson
import ormsgpack

from node.findings import StoreFindings
from node.ops.schema import (
    BooksView,
    BookView,
    EventView,
    FindingView,
    JobView,
    ModelView,
    NodeView,
    PoolView,
    ProviderView,
    SchedulerView,
    StatusView,
    StoreView,
    WindowView,
)
from node.snapshot import Snapshot
from node.watch import StoreWatch
from shared_state.books import DomainBooks, read_books
from shared_state.domains import read_domain
from shared_state.events import decode_event
from shared_state.leadership import read_lead
from shared_state.limits import Algorithm, Dimension, Window, windows_of
from shared_state.registry import Registry
from shared_state.state import EntityState, Status
from shared_state.statistics import minutes_of, read_minute
from shared_state.store import Store
from shared_state.topology import DomainSpec, ModelSpec, Topology

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
            pools=self.pools(),
            models=await self.models(),
            providers=self.providers(),
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
                )
            )
        return rows

    def pools(self) -> list[PoolView]:
        """All pools, from this node's snapshot."""
        rows = []
        for pool in self._topology.pools.values():
            active = sum(self._is_active(model) for model in pool.models)
            rows.append(
                PoolView(
                    id=pool.id,
                    capability=pool.capability,
                    strategy=pool.strategy,
                    active=active,
                    standby=len(pool.models) - active,
                    models=[model.id for model in pool.models],
                    current=self._snapshot.current.get(pool.id) or None,
                )
            )
        return rows

    def _is_active(self, model: ModelSpec) -> bool:
        states = (self._snapshot.model(model), self._snapshot.provider(model))
        return all(state.status == Status.ACTIVE for state in states)

    def providers(self) -> list[ProviderView]:
        """All provider accounts."""
        members = Counter(model.provider for model in self._topology.models.values())
        rows = []
        for provider in self._topology.providers.values():
            state = self._snapshot.provider_state(provider.domain, provider.id)
            rows.append(
                ProviderView(
                    id=provider.id,
                    domain=provider.domain,
                    connector=provider.connector.id,
                    status=state.status,
                    reason=_reason(state),
                    until=_seconds(state.until_ms),
                    models=members[provider.id],
                )
            )
        return rows

    async def models(self) -> list[ModelView]:
        """All models with their windows and counts."""
        rows = []
        for domain in self._topology.domains.values():
            _, live = await read_domain(
                self._store, domain
            )  # the snapshot does not follow the count of failures
            books = await read_books(self._store, domain.id)
            failed = await self._failed(domain.id)
            windows = await self._windows(domain)
            for model in domain.models:
                state = live.models[model.id]
                own = [row for row in books.rows if row.model == model.id]
                rows.append(
                    ModelView(
                        id=model.id,
                        provider=model.provider,
                        domain=domain.id,
                        status=state.status,
                        phase=state.phase,
                        reason=_reason(state),
                        since=_seconds(state.since_ms),
                        until=_seconds(state.until_ms),
                        fails=state.fails,
                        in_flight=sum(row.in_flight for row in own),
                        requests=sum(row.admitted for row in own),
                        failed=failed[model.id],
                        windows=windows[model.id],
                    )
                )
        return rows

    async def _failed(self, domain: str) -> Counter[str]:
        """Failed attempts by model in the minutes that were not flushed yet."""
        failed: Counter[str] = Counter()
        for minute in await minutes_of(self._store, domain):
            for row in await read_minute(self._store, domain, minute):
                failed[row.model] += row.metrics.get("failed", 0)
        return failed

    async def _windows(self, domain: DomainSpec) -> dict[str, list[WindowView]]:
        now_ms = self._snapshot.clock.now_ms()
        account = windows_of(domain.providers[0].config.limits, now_ms)
        scopes = [
            ("", account),
            *((model.id, windows_of(model.config.limits, now_ms)) for model in domain.models),
        ]
        _, *rows = await self._store.run(
            "read_windows", [self._store.keys.domain(domain.id)], [ormsgpack.packb(scopes)]
        )
        shared = _window_views(account, rows[0], prefix="account.")
        return {
            model.id: _window_views(scope[1], row) + shared
            for model, scope, row in zip(domain.models, scopes[1:], rows[1:], strict=True)
        }

    async def events(self) -> list[EventView]:
        """The latest events of all domains, newest first."""
        found = []
        for domain in self._topology.domains:
            raw = await self._store.command("LRANGE", self._store.keys.news(domain), 0, _EVENTS_SHOWN - 1)
            found += [event for event in map(decode_event, raw) if event is not None]
        found.sort(key=lambda event: (event.time_ms, event.epoch), reverse=True)
        return [
            EventView(
                time=event.time_ms / 1000,
                type=event.type,
                domain=event.domain,
                model=event.id if event.kind == "model" else None,
                provider=event.id if event.kind == "provider" else None,
                reason=event.reason,
                until=_seconds(event.until_ms),
                node=event.node or None,
            )
            for event in found[:_EVENTS_SHOWN]
        ]

    async def books(self) -> BooksView:
        """The books of all domains."""
        domains = [await read_books(self._store, domain) for domain in self._topology.domains]
        rows = [
            self._book_row(row.domain, books, index)
            for books in domains
            for index, row in enumerate(books.rows)
        ]
        names = ("admitted", "settled", "abandoned", "in_flight", "difference")
        return BooksView(
            balanced=all(books.is_balanced for books in domains),
            time=time.time(),
            rows=rows,
            totals={name: sum(getattr(row, name) for row in rows) for name in names},
        )

    def _book_row(self, domain: str, books: DomainBooks, index: int) -> BookView:
        row = books.rows[index]
        known = self._topology.models.get(row.model)
        return BookView(
            domain=domain,
            model=row.model,
            provider=known.provider if known else "",
            pool=row.pool,
            admitted=row.admitted,
            settled=row.settled,
            abandoned=row.abandoned,
            in_flight=row.in_flight,
            difference=row.difference,
        )


def _window_views(windows: list[Window], flat: list[int], *, prefix: str = "") -> list[WindowView]:
    return [
        WindowView(
            name=prefix + window[1],
            used=max(0, used) / _unit(window),
            limit=window[3] / _unit(window),
            resets=_seconds(resets_ms),
        )
        for window, used, resets_ms in zip(windows, flat[::2], flat[1::2], strict=True)
        if window[0] not in (Algorithm.SPACING, Algorithm.CAP)
    ]


def _unit(window: Window) -> int:
    """What one of a window's numbers is worth: money is kept in 1e-9 USD."""
    return 10**9 if window[2] == Dimension.COST else 1


def _reason(state: EntityState) -> str:
    return state.reason if state.status == Status.STANDBY else ""


def _seconds(ms: int) -> float | None:
    return ms / 1000 if ms > 0 else None
