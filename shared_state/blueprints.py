"""From a version's document to what this process runs: its own parts put in, references resolved in its own environment, everything checked."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from shared_state.config.loader import Written, read_config, read_secrets
from shared_state.config.portions import shared_part, with_own_part
from shared_state.topology import Topology, build_topology
from shared_state.versions import is_same


class Blueprints:
    """What documents come to in this process.

    Args:
        own: what the process was started with.
        check: further conditions of the process; raises ConfigurationError.
    """

    def __init__(
        self,
        own: Written,
        *,
        check: Callable[[Topology], None] = lambda topology: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.own = own
        self._check = check
        self._environ = environ
        self._salt = secrets.token_bytes(32)

    @property
    def shared(self) -> dict[str, Any]:
        """The part of the process's own document that could be a version."""
        return shared_part(self.own.document)

    def is_own(self, document: Mapping[str, Any]) -> bool:
        """Whether a version says what the process's own document says."""
        return is_same(document, self.shared)

    def build(self, document: Mapping[str, Any], *, source: str) -> Topology:
        """What a version's document comes to here.

        Raises:
            ConfigurationError: with every fault; no message holds a secret.
        """
        whole = with_own_part(document, self.own.document)
        topology = build_topology(read_config(whole, environ=self._environ, source=source))
        self._check(topology)
        return topology

    def mark_secrets(self, document: Mapping[str, Any]) -> bytes | None:
        """What tells in this process whether a secret of a version's document has changed; None if none can.

        Raises:
            ConfigurationError, SecretStoreError: the store cannot be used.
        """
        found = read_secrets(with_own_part(document, self.own.document), environ=self._environ)
        if found is None:
            return None
        return hashlib.blake2b(repr(sorted(found.items())).encode(), key=self._salt).digest()

    async def read(self, document: Mapping[str, Any], *, source: str) -> Topology:
        """The same beside the event loop: a large mesh takes a while, and requests are under way."""
        return await asyncio.to_thread(self.build, document, source=source)
