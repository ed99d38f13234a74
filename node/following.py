"""Follows the versions of the configuration: judges what is proposed, has the node run what is in force, and says so in the registry.

An event is a hint; without one the node looks once a second. While Redis is away it goes on with what it runs. Should Redis have forgotten
that version, it is put back: numbers only ever grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from node.watch import StoreWatch
from shared_state.blueprints import Blueprints
from shared_state.errors import ConfigurationError, VersionNotFoundError
from shared_state.events import Event
from shared_state.logs import get_logger
from shared_state.registry import NodeInfo
from shared_state.store import STORE_ERRORS
from shared_state.topology import Topology
from shared_state.versions import KIND, Told, Version, Versions

log = get_logger(__name__)

_POLL_S: Final = 1.0
_LONGEST_FAULT: Final = 2000
_OVERRULED: Final = "a pushed configuration is in force, not this node's own file"

Adopt = Callable[[Version, Topology], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Prepared:
    version: Version
    topology: Topology


class Follower:
    """One node's following.

    Args:
        adopt: has the node run a version.
        info: what the node says of itself; verdicts are written there.
        tell: has the registry hear of it at once.

    Attributes:
        running: the version that the node runs; None: its own file.
        looked: set once the node knows whether there is a version, and runs it.
    """

    def __init__(
        self,
        versions: Versions,
        blueprints: Blueprints,
        watch: StoreWatch,
        *,
        adopt: Adopt,
        info: NodeInfo,
        tell: Callable[[], None],
    ) -> None:
        self.running: Version | None = None
        self.looked = asyncio.Event()
        self._versions = versions
        self._blueprints = blueprints
        self._watch = watch
        self._adopt = adopt
        self._info = info
        self._tell = tell
        self._wake = asyncio.Event()
        self._prepared: _Prepared | None = None
        self._refused = 0
        self._swaps = asyncio.Lock()
        watch.on_return(self._wake.set)

    def observe_event(self, event: Event) -> None:
        """Versions have changed."""
        if event.kind == KIND:
            self._wake.set()

    async def run(self) -> None:
        """Follows until cancelled.

        Raises:
            ConfigurationError: there is a version at the start, and this node cannot run it.
        """
        while True:
            self._wake.clear()
            if self._watch.connected:
                try:
                    async with self._swaps:
                        await self._look()
                except STORE_ERRORS as error:
                    self._watch.report_failure(error)
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def renew(self, version: Version | None, topology: Topology) -> bool:
        """Has the node run the same version, or its own file, as it is by now; False if another one is run meanwhile, or it does not work."""
        async with self._swaps:
            if self.running is not version:
                return False
            try:
                await self._adopt(version or Version(0, 0, Told(), self._blueprints.shared), topology)
            except (*STORE_ERRORS, asyncio.CancelledError):
                raise
            except Exception:  # ours; what runs goes on
                log.exception("changed secrets could not be put to work")
                return False
            return True

    async def _look(self) -> None:
        pulse, running = await self._versions.pulse(), self.running.number if self.running else 0
        if pulse.current > running:
            await self._move(pulse.current)
        elif pulse.current < running and self.running is not None:
            log.warning("the shared state had forgotten the configuration", number=running)
            await self._versions.put_back(self.running)
        elif not pulse.current and not self.looked.is_set():
            log.info(
                "no configuration was pushed here, this node's own file counts",
                file=self._blueprints.own.source,
            )
        self.looked.set()
        if self._info.config_fault and not pulse.proposed and pulse.current == running:
            self._info.config_fault = ""  # of a version that was withdrawn
        if pulse.proposed and pulse.proposed != self._info.config_judged:
            await self._judge(pulse.proposed)

    async def _judge(self, number: int) -> None:
        """Whether this node could run a version; all that is needed for it is at hand afterwards."""
        fault = ""
        try:
            self._prepared = await self._prepare(number)
        except VersionNotFoundError:
            return  # withdrawn in between
        except ConfigurationError as error:
            fault = error.message[:_LONGEST_FAULT]
            log.warning("a proposed configuration is refused", number=number, faults=error.faults)
        self._info.config_judged, self._info.config_fault = number, fault
        self._tell()

    async def _prepare(self, number: int) -> _Prepared:
        if self._prepared is not None and self._prepared.version.number == number:
            return self._prepared
        version = await self._versions.read(number)
        source = f"version {number}"
        return _Prepared(version, await self._blueprints.read(version.document, source=source))

    async def _move(self, number: int) -> None:
        if number == self._refused:
            return
        try:
            prepared = await self._prepare(number)
        except (ConfigurationError, VersionNotFoundError) as error:
            self._refuse(number, error)
            return
        self._prepared = None
        if not self.looked.is_set() and not self._blueprints.is_own(prepared.version.document):
            log.warning(_OVERRULED, number=number, file=self._blueprints.own.source)
        try:
            await self._adopt(prepared.version, prepared.topology)
        except (*STORE_ERRORS, asyncio.CancelledError):
            raise
        except Exception as error:  # ours; a version must not take down every node at once
            log.exception("the configuration could not be put to work", number=number)
            self._refuse(number, ConfigurationError([f"{type(error).__name__}, see the log of the node"]))
            return
        self.running, self._info.config_fault = prepared.version, ""
        self._tell()

    def _refuse(self, number: int, error: ConfigurationError | VersionNotFoundError) -> None:
        """A node that runs goes on with what it has; one that starts must not serve by rules that nobody else knows."""
        log.error("the configuration in force cannot be run here", number=number, error=error.message)
        if not self.looked.is_set():
            raise error
        self._refused = number
        self._info.config_fault = error.message[:_LONGEST_FAULT]
        self._tell()
