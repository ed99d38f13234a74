"""Which quota domains there are: those of the configuration, and one of each client key that was ever made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from shared_state.books import Audited, audited
from shared_state.client_keys import ClientKeys, key_ids
from shared_state.gates import build_gate, key_gate
from shared_state.limits import has_limits
from shared_state.specs import DomainSpec
from shared_state.store import Store
from shared_state.topology import Topology


class Directory(Protocol):
    """Lists quota domains."""

    async def ids(self) -> Sequence[str]:
        """All of them; gates behind accounts."""

    async def specs(self) -> Mapping[str, DomainSpec]:
        """All that this release can read."""

    async def limited(self) -> Mapping[str, DomainSpec]:
        """Those whose windows may be held by leases."""

    async def audited(self) -> Sequence[Audited]:
        """All of them, as auditors look at them."""


class DomainDirectory:
    """All quota domains of a cluster. When Redis is away both verbs raise.

    Args:
        former: domains of earlier configurations: what is left in them is settled, stored and ended like everything else.

    Keys are made while processes run, so the list is read anew each time; what they limit, only when it has changed.
    """

    def __init__(
        self, store: Store, topology: Topology, *, former: Mapping[str, DomainSpec] | None = None
    ) -> None:
        self._store = store
        self._keys = ClientKeys(store, None)
        self._configured = {**(former or {}), **topology.domains, **topology.gates}
        self._specs = self._limited = self._configured
        self._version = 0

    async def ids(self) -> Sequence[str]:
        """All domains; revoked keys have books, too."""
        return [*self._configured, *map(key_gate, await key_ids(self._store))]

    async def specs(self) -> Mapping[str, DomainSpec]:
        """Domains of the configuration and of keys."""
        await self._refresh()
        return self._specs

    async def limited(self) -> Mapping[str, DomainSpec]:
        """Domains of the configuration, and of keys with limits."""
        await self._refresh()
        return self._limited

    async def audited(self) -> Sequence[Audited]:
        """All domains; what leases hold is compared where the windows are known."""
        known = audited(await self.specs())
        names = {domain for domain, _ in known}
        return [*known, *(Audited(domain) for domain in await self.ids() if domain not in names)]

    async def _refresh(self) -> None:
        version = await self._keys.version()
        if version == self._version:
            return
        keys = {key_gate(key.id): key.limits for key in await self._keys.all()}
        gates = {domain: build_gate(domain, limits) for domain, limits in keys.items()}
        limited = {domain: gate for domain, gate in gates.items() if has_limits(gate.limits)}
        self._specs, self._limited = {**self._configured, **gates}, {**self._configured, **limited}
        self._version = version
