"""The configuration of the cluster for operators: what is in force and who runs it, the history, a push, a rollback.

A push asks every live node, and the scheduler that leads, first. Only if each says that it can run the version it is put into force; otherwise nothing has changed anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from node.following import Follower
from node.ops.operations import Operation, ViewResponse, read_body, read_small_body
from shared_state.blueprints import Blueprints
from shared_state.config.portions import (
    find_literal_secrets,
    own_keys,
    shared_part,
    without_literal_secrets,
)
from shared_state.errors import (
    ConfigurationError,
    RequestError,
    VersionNotFoundError,
    VersionRefusedError,
)
from shared_state.leadership import read_lead, read_word
from shared_state.registry import NODE_LEASE_S, NodeInfo, Registry
from shared_state.shapes.configuration import (
    ConfigView,
    HistoryView,
    PushBody,
    PushView,
    RollbackBody,
    RunnerView,
    StoredVersionView,
    VersionView,
)
from shared_state.store import Store
from shared_state.topology import Topology
from shared_state.versions import Told, Version, Versions, is_same

_MOST_BODY_BYTES: Final = 4_000_000
_LOOK_EVERY_S: Final = 0.05
#: A node that says nothing for so long is either out of the registry by then, or does not know of versions.
_VERDICTS_S: Final = NODE_LEASE_S + 3.0


class ConfigDesk:
    """Handlers of one node.

    Args:
        blueprints: what documents come to here.
        follower: what this node runs.
        node: signs pushes without an author.
    """

    def __init__(
        self,
        versions: Versions,
        registry: Registry,
        blueprints: Blueprints,
        follower: Follower,
        *,
        store: Store,
        node: str,
    ) -> None:
        self._store = store
        self.versions = versions
        self._registry = registry
        self.blueprints = blueprints
        self._follower = follower
        self._node = node

    def operations(self) -> list[Operation]:
        """The routes under ``/ops/config``."""
        return [
            Operation("config", self._show, "The configuration in force, and who runs it.", ConfigView),
            Operation(
                "config",
                self._push,
                "Give the cluster a new version, if every live node can run it.",
                PushView,
                method="POST",
                body=PushBody,
                changes_all=True,
            ),
            Operation(
                "config/history",
                self._history,
                "The versions that are remembered, newest first.",
                HistoryView,
            ),
            Operation(
                "config/rollback",
                self._rollback,
                "Put a remembered version into force again, as a new one.",
                PushView,
                method="POST",
                body=RollbackBody,
                changes_all=True,
            ),
            Operation("config/{number:int}", self._read, "A remembered version.", StoredVersionView),
        ]

    async def recall(self, number: int, digest: str) -> Topology | None:
        """The configuration of that number, or without one of that digest; None if it is not remembered, or means nothing any more."""
        try:
            if not number:
                known = await self.versions.history()
                number = next((version.number for version in known if version.told.digest == digest), 0)
            version = await self.versions.read(number)
            return await self.blueprints.read(version.document, source=f"version {number}")
        except (VersionNotFoundError, ConfigurationError):
            return None

    async def _show(self, request: Request) -> Response:
        pulse = await self.versions.pulse()
        version = await self.versions.read(pulse.current) if pulse.current else None
        document = version.document if version else without_literal_secrets(self.blueprints.shared)
        return ViewResponse(
            ConfigView(
                number=pulse.current,
                proposed=pulse.proposed,
                told=_view(version, pulse.current) if version else None,
                document=dict(document),
                nodes=[_runner(node) for node in await self._live()],
                scheduler=await self._scheduler(),
            )
        )

    async def _history(self, request: Request) -> Response:
        current = (await self.versions.pulse()).current
        known = await self.versions.history()
        return ViewResponse(
            HistoryView(current=current, versions=[_view(version, current) for version in known])
        )

    async def _read(self, request: Request) -> Response:
        version = await self.versions.read(request.path_params["number"])
        told = _view(version, (await self.versions.pulse()).current)
        return ViewResponse(StoredVersionView(document=dict(version.document), **told.model_dump()))

    async def _push(self, request: Request) -> Response:
        body = await read_body(request, PushBody, most_bytes=_MOST_BODY_BYTES)
        return ViewResponse(
            await self.push(
                shared_part(body.document),
                base=body.base,
                author=body.author,
                comment=body.comment,
                is_forced=body.force,
                left_out=own_keys(body.document),
            )
        )

    async def _rollback(self, request: Request) -> Response:
        body = await read_small_body(request, RollbackBody)
        version = await self.versions.read(body.number)
        comment = body.comment or f"rollback to version {body.number}"
        return ViewResponse(
            await self.push(
                version.document, base=body.base, author=body.author, comment=comment, is_forced=True
            )
        )

    async def push(
        self,
        document: Mapping[str, Any],
        *,
        base: int | None,
        author: str,
        comment: str,
        is_forced: bool,
        left_out: list[str] | None = None,
    ) -> PushView:
        """Puts a document into force.

        Raises:
            RequestError: it is wrong, or holds a secret.
            VersionConflictError: another version has come into force.
            VersionRefusedError: a live node, or the scheduler, cannot run it.
        """
        digest = await self._check(document)
        current = (await self.versions.pulse()).current
        if not is_forced and current and is_same((await self.versions.read(current)).document, document):
            return PushView(number=current, version=digest, is_new=False, left_out=left_out or [])
        number = await self.versions.propose(
            document,
            Told(author or self._node, comment, digest),
            base=current if base is None else base,
            before=None if current else await self._before(),
        )
        await self._settle(number)
        return PushView(number=number, version=digest, is_new=True, left_out=left_out or [])

    async def _check(self, document: Mapping[str, Any]) -> str:
        """The digest of what a document comes to here."""
        faults = [str(fault) for fault in find_literal_secrets(document)]
        try:
            if faults:
                raise ConfigurationError(faults)
            return (await self.blueprints.read(document, source="configuration")).version
        except ConfigurationError as error:
            raise RequestError(error.message, code=error.code) from None

    async def _before(self) -> tuple[dict[str, Any], Told] | None:
        """What this node runs without any version, if it may be kept."""
        document = self.blueprints.shared
        if find_literal_secrets(document):
            return None
        source = self.blueprints.own.source
        digest = (await self.blueprints.read(document, source=source)).version
        return document, Told(self._node, "what ran before the first push", digest)

    async def _settle(self, number: int) -> None:
        """Waits for the verdicts of all that live; the version is in force then, or withdrawn."""
        try:
            faults = await self._faults(number)
        except BaseException:
            await asyncio.shield(self.versions.decide(number, is_good=False))
            raise
        is_in_force = await self.versions.decide(number, is_good=not faults)
        if faults:
            lines = "\n".join(f"{node}: {fault}" for node, fault in faults.items())
            raise VersionRefusedError(f"nothing was changed, for not everybody can run it\n{lines}")
        if not is_in_force:
            raise VersionRefusedError("nothing was changed: another push came in between")

    async def _faults(self, number: int) -> dict[str, str]:
        """By process, why it cannot run the version; as soon as one says so, or all have said that they can.

        The scheduler that leads is asked as well. Nodes do without one, so one that says nothing holds up nobody for good.
        """
        deadline = asyncio.get_running_loop().time() + _VERDICTS_S
        while True:
            live, word = await self._live(), await read_word(self._store)
            faults = {n.id: n.config_fault for n in live if n.config_judged == number and n.config_fault}
            if word is not None and word.number == number and word.fault:
                faults[f"scheduler {word.owner}"] = word.fault
            silent = [node.id for node in live if node.config_judged != number]
            is_awaited = word is not None and word.number != number
            if faults or not (silent or is_awaited):
                return faults
            if asyncio.get_running_loop().time() > deadline:
                return dict.fromkeys(silent, "does not say whether it can run it; is it of an older release?")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _scheduler(self) -> RunnerView | None:
        lead = await read_lead(self._store)
        if not lead.get("owner") or "config" not in lead:
            return None
        number, fault = int(lead["config"]), lead.get("fault", "")
        return RunnerView(id=lead["owner"], state="leads", number=number, version="", fault=fault)

    async def _live(self) -> list[NodeInfo]:
        return [
            node.info
            for node in await self._registry.nodes()
            if not node.is_dead and node.info.state == "alive"
        ]


def _view(version: Version, current: int) -> VersionView:
    told = version.told
    return VersionView(
        number=version.number,
        time=version.time_ms / 1000,
        author=told.author,
        comment=told.comment,
        version=told.digest,
        is_current=version.number == current,
    )


def _runner(info: NodeInfo) -> RunnerView:
    return RunnerView(
        id=info.id,
        state=info.state,
        number=info.config_number,
        version=info.config_version,
        fault=info.config_fault,
    )
