"""Where the gates of a node stand: each with its ledger, its batches, its leases and its term, built when it is first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from node.batch import DomainBatcher
from node.leases import LeaseKeeper
from node.offices import follow
from node.routing.estimate import output_room, token_room
from node.routing.stays import Gate
from node.terms import TermKeeper
from node.watch import StoreWatch
from shared_state.assertion import Standby
from shared_state.cancellation import end_all
from shared_state.client_keys import ClientKey
from shared_state.clock import ServerClock
from shared_state.config import LimitsConfig
from shared_state.domains import read_pulses
from shared_state.gates import ANY_MODEL, build_gate, key_gate
from shared_state.ledger import DomainLedger
from shared_state.limits import may_refuse
from shared_state.specs import DomainSpec
from shared_state.store import STORE_ERRORS, Store

_NOTHING: Final = LimitsConfig()
_POLL_S: Final = 1.0


class _Stateless:
    """What a node knows of a gate's states: there are none, so nothing can be forgotten but its epoch."""

    def __init__(self, ledger: DomainLedger) -> None:
        self._ledger = ledger

    def epoch(self, _: str) -> int:
        return self._ledger.epoch

    def standbys(self, _: str) -> list[Standby]:
        return []

    def refresh(self, _: str) -> None:
        """Nothing to read."""


class Gatehouse:
    """Builds gates and keeps their leases and terms.

    There is a gate for every client key that this node has seen; a key never changes, so neither does its gate.

    Args:
        node: signs reservations.
        nodes: number of nodes that share the windows.
        on_loss: leases are held only for ``leased``.
        on_failure: called when the work behind a gate has broken down.
    """

    def __init__(
        self,
        store: Store,
        watch: StoreWatch,
        *,
        clock: ServerClock,
        node: str,
        nodes: Callable[[], int],
        on_loss: str,
        on_failure: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._store = store
        self._watch = watch
        self._clock = clock
        self._node = node
        self._nodes = nodes
        self._holds_leases = on_loss == "leased"
        self._on_failure = on_failure
        self._ledgers: dict[str, DomainLedger] = {}
        self._batchers: dict[str, DomainBatcher] = {}
        self._leases: dict[str, LeaseKeeper] = {}
        self._renewed: set[str] = set()
        self._of_keys: dict[str, Gate] = {}
        self._waiting: list[Callable[[], Coroutine[Any, Any, None]]] = [self._poll]
        self._tasks: list[asyncio.Task[None]] = []
        self._is_started = False

    def build(self, domain: DomainSpec) -> Gate:
        """A gate; the work behind it begins with `start`, or at once if that was called. One that stood before goes on under these limits."""
        if domain.id in self._ledgers:
            follow(self._ledgers[domain.id], self._leases[domain.id], domain)
        else:
            self._open(domain)
        leases, is_limited = self._leases[domain.id], may_refuse(domain.limits)
        if is_limited and self._holds_leases and domain.id not in self._renewed:
            self._renewed.add(domain.id)
            self._waiting.append(leases.run)
        if self._is_started:
            self.start()
        return Gate(
            domain.id,
            domain.limits,
            self._batchers[domain.id],
            leases.allowances[ANY_MODEL],
            token_room(domain.limits, _NOTHING),
            output_room(domain.limits, _NOTHING),
            is_limited,
        )

    def _open(self, domain: DomainSpec) -> None:
        ledger = self._ledgers[domain.id] = DomainLedger(
            self._store, domain, node=self._node, clock=self._clock
        )
        self._batchers[domain.id] = DomainBatcher(ledger, self._watch, on_reply=_ignore)
        leases = self._leases[domain.id] = LeaseKeeper(ledger, self._watch, nodes=self._nodes)
        self._waiting.append(TermKeeper(ledger, leases, _Stateless(ledger), self._watch).run)

    def of_key(self, key: ClientKey) -> Gate:
        """The gate of a client key, built when it is first used."""
        gate = self._of_keys.get(key.id)
        if gate is None:
            gate = self._of_keys[key.id] = self.build(build_gate(key_gate(key.id), key.limits))
        return gate

    def start(self) -> None:
        """Begins the work behind the gates."""
        self._is_started = True
        for work in self._waiting:
            task = asyncio.get_running_loop().create_task(work())
            task.add_done_callback(self._on_failure)
            self._tasks.append(task)
        self._waiting.clear()

    async def _poll(self) -> None:
        """Notices a loss at gates that are not in use, until cancelled."""
        while True:
            await asyncio.sleep(_POLL_S)
            if self._watch.connected and self._ledgers:
                try:
                    pulses = await read_pulses(self._store, list(self._ledgers))
                except STORE_ERRORS as error:
                    self._watch.report_failure(error)
                    continue
                for domain, pulse in pulses.items():
                    self._ledgers[domain].observe_term(pulse.term)
                    self._ledgers[domain].journal.copied_ms = pulse.copied_ms

    @property
    def unsettled(self) -> int:
        """Settlements that have not reached Redis yet."""
        return sum(batcher.unsettled for batcher in self._batchers.values())

    async def leave(self) -> None:
        """Waits until every settlement handed over so far has reached Redis, and takes leave of every domain."""
        for domain, batcher in list(self._batchers.items()):
            await batcher.flush()
            await self._ledgers[domain].leave()

    async def flush(self) -> None:
        """Waits until every settlement handed over so far has reached Redis."""
        for batcher in list(self._batchers.values()):
            await batcher.flush()

    async def stop(self) -> None:
        """Lets the leases go; what they hold ends by itself."""
        await end_all(self._tasks)


def _ignore(_: DomainLedger) -> None:
    """A gate has no state that could be news."""
