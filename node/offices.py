"""The quota domains of a node: for each its ledger, its batches, its leases and its term.

They live as long as the process and follow the configuration, for they are what the books know the node by: its sequences, its journal
and what it holds go on whatever version is run, and calls that began under an older one are settled like all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from node.batch import DomainBatcher
from node.leases import LeaseKeeper
from node.spool import Spool
from node.terms import StateView, TermKeeper
from node.watch import StoreWatch
from shared_state.cancellation import end_all
from shared_state.clock import ServerClock
from shared_state.config import LimitsConfig
from shared_state.ledger import DomainLedger
from shared_state.logs import get_logger
from shared_state.specs import DomainSpec
from shared_state.store import STORE_ERRORS, Store

log = get_logger(__name__)

_GOODBYE_S: Final = 2.0


class Offices:
    """One office a domain; all are found by its id.

    Args:
        nodes: number of nodes that share the windows.
        on_reply: called after each reply with its ledger, for its epoch may be news.
        on_failure: called when the work of an office has ended.
        holds_leases: whether anything is paid in advance for the loss of Redis.
        spool: where settlements wait while Redis is away; None: in memory alone.

    Attributes:
        outboxes: where settlements of a model are handed in, also of one that is configured no more.
    """

    def __init__(
        self,
        store: Store,
        watch: StoreWatch,
        *,
        node: str,
        clock: ServerClock,
        nodes: Callable[[], int],
        on_reply: Callable[[DomainLedger], None],
        on_failure: Callable[[asyncio.Task[None]], None],
        holds_leases: bool,
        spool: Spool | None = None,
    ) -> None:
        self._spool = spool
        self.outboxes: dict[str, DomainBatcher] = {}
        self.ledgers: dict[str, DomainLedger] = {}
        self.batchers: dict[str, DomainBatcher] = {}
        self.leases: dict[str, LeaseKeeper] = {}
        self.terms: dict[str, TermKeeper] = {}
        self._store = store
        self._watch = watch
        self._node = node
        self._clock = clock
        self._nodes = nodes
        self._on_reply = on_reply
        self._on_failure = on_failure
        self._holds_leases = holds_leases
        self._tasks: list[asyncio.Task[None]] = []
        self._is_started = False

    @property
    def unsettled(self) -> int:
        """Settlements that have not reached Redis yet."""
        return sum(batcher.unsettled for batcher in self.batchers.values())

    def adopt(self, domains: Iterable[DomainSpec], view: StateView) -> None:
        """Follows a configuration: its limits hold from here on, for calls under way as well."""
        for domain in domains:
            if domain.id in self.ledgers:
                follow(self.ledgers[domain.id], self.leases[domain.id], domain)
                self.terms[domain.id].look_at(view)
            else:
                self._open(domain, view)
            self.outboxes |= {model.id: self.batchers[domain.id] for model in domain.models}

    def _open(self, domain: DomainSpec, view: StateView) -> None:
        ledger = DomainLedger(self._store, domain, node=self._node, clock=self._clock)
        leases = LeaseKeeper(ledger, self._watch, nodes=self._nodes)
        self.ledgers[domain.id], self.leases[domain.id] = ledger, leases
        shelf = self._spool.shelf(domain.id) if self._spool else None
        self.batchers[domain.id] = DomainBatcher(ledger, self._watch, on_reply=self._on_reply, shelf=shelf)
        self.terms[domain.id] = TermKeeper(ledger, leases, view, self._watch)
        if self._is_started:
            self._begin(domain.id)

    def start(self) -> None:
        """Begins the work of all offices; one that is opened later begins at once."""
        self._is_started = True
        for domain in self.ledgers:
            self._begin(domain)

    def _begin(self, domain: str) -> None:
        loops = [self.terms[domain].run()]
        if self._holds_leases:
            loops.append(self.leases[domain].run())
        for loop in loops:
            task = asyncio.get_running_loop().create_task(loop)
            task.add_done_callback(self._on_failure)
            self._tasks.append(task)

    async def retire(self, domains: Iterable[str]) -> None:
        """Nothing of these domains is configured or under way any more. Their offices rest: they may be wanted again."""
        for domain in domains:
            await self.batchers[domain].flush()
            try:
                if self._holds_leases:
                    await self.leases[domain].give_back(_GOODBYE_S)
                await self.ledgers[domain].leave()
            except STORE_ERRORS as error:
                self._watch.report_failure(error)
                log.info("left a domain without goodbye", domain=domain, error=str(error))

    async def leave(self) -> None:
        """Waits until every settlement handed over so far has reached Redis, and takes leave of every domain."""
        await asyncio.gather(*(batcher.flush() for batcher in self.batchers.values()))
        await asyncio.gather(*(ledger.leave() for ledger in self.ledgers.values()))

    async def stop(self) -> None:
        """Ends the work; what leases hold ends by itself."""
        await end_all(self._tasks)


def follow(ledger: DomainLedger, leases: LeaseKeeper, domain: DomainSpec) -> None:
    """Goes on under another configuration of the same domain. What was paid in advance under other limits is given up."""
    is_changed = _limits(ledger.domain) != _limits(domain)
    ledger.follow(domain)
    leases.follow(domain, is_changed=is_changed)


def _limits(domain: DomainSpec) -> tuple[LimitsConfig, dict[str, LimitsConfig]]:
    return domain.limits, {model.id: model.config.limits for model in domain.models}
