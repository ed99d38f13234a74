"""Where the gates of a node stand: each with its ledger, its batches and its leases, built when it is first needed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from node.batch import DomainBatcher
from node.leases import LeaseKeeper
from node.routing.estimate import token_room
from node.routing.gates import Gate
from node.watch import StoreWatch
from shared_state.client_keys import ClientKey
from shared_state.clock import ServerClock
from shared_state.config import LimitsConfig
from shared_state.gates import ANY_MODEL, build_gate, key_gate
from shared_state.ledger import DomainLedger
from shared_state.limits import has_limits
from shared_state.specs import DomainSpec
from shared_state.store import Store

_NOTHING: Final = LimitsConfig()
#: Gates of keys that are kept at hand; beyond that, those that are idle make room.
_MOST_KEYS: Final = 10_000


class Gatehouse:
    """Builds gates and keeps their leases alive.

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
        self._batchers: dict[str, DomainBatcher] = {}
        self._waiting: dict[str, LeaseKeeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._of_keys: OrderedDict[str, Gate] = OrderedDict()
        self._is_started = False

    def build(self, domain: DomainSpec) -> Gate:
        """A new gate; its leases are held from `start` on, or at once if that was called."""
        ledger = DomainLedger(self._store, domain, node=self._node, clock=self._clock)
        batcher = self._batchers[domain.id] = DomainBatcher(ledger, self._watch, on_reply=_ignore)
        keeper = LeaseKeeper(ledger, self._watch, nodes=self._nodes)
        gate = Gate(
            domain.id,
            domain.limits,
            batcher,
            keeper.allowances[ANY_MODEL],
            token_room(domain.limits, _NOTHING),
            has_limits(domain.limits),
        )
        if gate.is_limited and self._holds_leases:
            self._waiting[domain.id] = keeper
            if self._is_started:
                self.start()
        return gate

    def of_key(self, key: ClientKey) -> Gate:
        """The gate of a client key, built when it is first used."""
        gate = self._of_keys.get(key.id)
        if gate is None:
            gate = self._of_keys[key.id] = self.build(build_gate(key_gate(key.id), key.limits))
            if len(self._of_keys) > _MOST_KEYS:
                self._make_room()
        self._of_keys.move_to_end(key.id)
        return gate

    def _make_room(self) -> None:
        """Gives up the gate that was used least recently, unless it still has something to hand in."""
        key, gate = next(iter(self._of_keys.items()))
        if gate.batcher.unsettled or not gate.allowance.is_idle():
            self._of_keys.move_to_end(key)
            return
        del self._of_keys[key], self._batchers[gate.id]
        task = self._tasks.pop(gate.id, None)
        if task is not None:
            task.cancel()

    def start(self) -> None:
        """Begins to hold leases."""
        self._is_started = True
        for domain, keeper in self._waiting.items():
            task = self._tasks[domain] = asyncio.get_running_loop().create_task(keeper.run())
            task.add_done_callback(self._on_failure)
        self._waiting.clear()

    @property
    def unsettled(self) -> int:
        """Settlements that have not reached Redis yet."""
        return sum(batcher.unsettled for batcher in self._batchers.values())

    async def flush(self) -> None:
        """Waits until every settlement handed over so far has reached Redis."""
        for batcher in list(self._batchers.values()):
            await batcher.flush()

    async def stop(self) -> None:
        """Lets the leases go; what they hold ends by itself."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _ignore(_: DomainLedger) -> None:
    """A gate has no state that could be news."""
