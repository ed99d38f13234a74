"""What a scheduler thinks of a proposed version of the configuration: whether it could run it, its storage and targets of events included."""

from __future__ import annotations

from typing import Final

from scheduler.sinks import make_sink
from scheduler.sinks.events import make_target
from shared_state.blueprints import Blueprints
from shared_state.config.storage import StorageConfig
from shared_state.errors import ConfigurationError, ModelMeshError, VersionNotFoundError
from shared_state.leadership import Verdict
from shared_state.logs import get_logger
from shared_state.versions import Versions

log = get_logger(__name__)

_LONGEST_FAULT: Final = 2000


class Judge:
    """Judges each proposal once.

    Attributes:
        verdict: on the latest one.
    """

    def __init__(self, versions: Versions, blueprints: Blueprints) -> None:
        self.verdict = Verdict()
        self._versions = versions
        self._blueprints = blueprints

    async def look(self, proposed: int, storage: StorageConfig) -> None:
        """Has a verdict on what is proposed, if anything is.

        Args:
            storage: what is in use already.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        if not proposed or proposed == self.verdict.number:
            return
        try:
            await self._try(proposed, storage)
        except VersionNotFoundError:
            return  # withdrawn in between
        except ConfigurationError as error:
            self._refuse(proposed, error.message)
        except ModelMeshError as error:
            self._refuse(proposed, f"storage: {error.message}")
        else:
            self.verdict = Verdict(proposed)

    async def _try(self, number: int, storage: StorageConfig) -> None:
        version = await self._versions.read(number)
        topology = await self._blueprints.read(version.document, source=f"version {number}")
        for target in topology.config.observability.events:
            await make_target(target).aclose()
        wanted = topology.config.storage
        if wanted != storage:
            sink = make_sink(wanted)
            try:
                await sink.open()
            finally:
                await sink.aclose()

    def _refuse(self, number: int, fault: str) -> None:
        log.warning("a proposed configuration is refused", number=number, fault=fault)
        self.verdict = Verdict(number, fault[:_LONGEST_FAULT])
