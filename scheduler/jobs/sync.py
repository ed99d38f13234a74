"""Reads what providers list, and has told and done what has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from pydantic import ValidationError

from scheduler.comparison import Changes, Configured, compare, discovered, unlisted
from scheduler.contact import read_server_time_s
from scheduler.jobs.registration import Registrar
from scheduler.nodes import NobodyAliveError, NodeAnswer, Nodes, NoNodeError
from shared_state.listings import Listing, ModelNews, keep_listing, read_listing
from shared_state.logs import get_logger
from shared_state.shapes.listing import ListedModel, ListingView
from shared_state.store import Store
from shared_state.topology import ProviderSpec, Topology

log = get_logger(__name__)

#: A list that could not be read is tried again after this long.
RETRY_S: Final = 300.0
_KEPT_INTERVALS: Final = 3
_KEPT_S: Final = 7 * 86400.0


class Sync:
    """Looks which providers' lists are due. When that was last is in Redis, so that a takeover reads none again.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        topology: Topology,
        nodes: Nodes,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._topology = topology
        self._nodes = nodes
        self._clock = clock
        self._rules = topology.config.discovery.sync
        names = self._rules.providers
        self._providers = [p for p in topology.providers.values() if not names or p.id in names]
        self._due = dict.fromkeys((provider.id for provider in self._providers), 0.0)
        self._failing: dict[str, str] = {}
        self._registrar = Registrar(topology, nodes)

    async def run(self, token: int) -> None:
        """One look; a provider whose list cannot be read keeps the others waiting for one timeout at most.

        Raises:
            NoNodeError, NodeRefusedError: no node answers, or none lets us in.
            FencedOffError: another scheduler leads.
            RedisError, OSError, TimeoutError: the store is away.
        """
        for provider in self._providers:
            if self._clock() < self._due[provider.id]:
                continue
            before = await read_listing(self._store, provider.domain, provider.id)
            age_s = await read_server_time_s(self._store) - before.time_ms / 1000
            if before.time_ms and age_s < self._rules.interval:
                self._due[provider.id] = self._clock() + self._rules.interval - max(0.0, age_s)
                continue
            try:
                await self._sync(provider, before, token)
            except NobodyAliveError:
                return  # the next look comes soon

    async def _sync(self, provider: ProviderSpec, before: Listing, token: int) -> None:
        self._due[provider.id] = self._clock() + min(RETRY_S, self._rules.interval)
        try:
            answer = await self._nodes.get(
                f"providers/{provider.id}/models", timeout_s=self._topology.config.discovery.health.timeout
            )
        except NoNodeError:
            self._due[provider.id] = 0.0  # as soon as there is one
            raise
        models = _models_in(answer)
        if not models:
            self._fail(provider.id, answer.code or f"status {answer.status}")
            return
        self._failing.pop(provider.id, None)
        await self._take(provider, before, models, token)
        self._due[provider.id] = self._clock() + self._rules.interval

    async def _take(
        self, provider: ProviderSpec, before: Listing, models: list[ListedModel], token: int
    ) -> None:
        configured = self._configured(provider)
        time_ms = int(await read_server_time_s(self._store) * 1000)
        changes = compare(before, models, configured, self._rules, provider=provider.id, now_s=time_ms / 1000)
        news = await self._register(provider, changes)
        is_first = await keep_listing(
            self._store,
            provider.domain,
            provider.id,
            models,
            token=token,
            version=before.version,
            time_ms=time_ms,
            kept_s=max(_KEPT_S, _KEPT_INTERVALS * self._rules.interval),
            news=news,
            orders=changes.orders,
            mismatches=changes.mismatches,
        )
        if not is_first:
            return
        if not before.time_ms and (absent := unlisted(models, configured)):
            log.info("configured models are not on the provider's list", provider=provider.id, models=absent)
        for item in news:
            log.info(item.event.replace("_", " "), provider=provider.id, model=item.model, reason=item.reason)

    def _configured(self, provider: ProviderSpec) -> list[Configured]:
        return [
            Configured(
                m.id, m.upstream, m.config.constraints.context_window, m.config.constraints.max_output_tokens
            )
            for m in self._topology.models.values()
            if m.provider == provider.id
        ]

    async def _register(self, provider: ProviderSpec, changes: Changes) -> Sequence[ModelNews]:
        """Before the list is kept: if nobody can be asked, the next look finds the same models new. The news, with what became of them."""
        if self._rules.on_new_model != "register" or not changes.new:
            return changes.news
        fates = await self._registrar.register(provider, changes.new)
        others = changes.news[: len(changes.news) - len(discovered(changes.new, provider.id))]
        return [*others, *discovered(changes.new, provider.id, fates)]

    def _fail(self, provider: str, why: str) -> None:
        if self._failing.get(provider) != why:
            log.warning("models were not listed", provider=provider, error=why)
        self._failing[provider] = why


def _models_in(answer: NodeAnswer) -> list[ListedModel]:
    """The list in an answer; an empty one is not believed, for it would take out everything."""
    if answer.status != 200:
        return []
    try:
        return ListingView.model_validate(answer.body).models
    except ValidationError:
        return []
