"""Decisions for operators: the record of a request, the same decision again, and what would be decided now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from node.ops.explain import Explainer
from node.ops.operations import Operation, ViewResponse, read_body
from node.ops.replay import Replayer
from node.routing.ranking import Ranker
from node.routing.strategies import build_strategies
from node.snapshot import Snapshot
from shared_state.decisions import read_decision
from shared_state.errors import ModelNotFoundError
from shared_state.shapes.decision import DecisionView, ExplainBody, ExplainView, ReplayView
from shared_state.store import Store
from shared_state.topology import Topology

_MOST_BODY_BYTES = 4_000_000


class Archive(Protocol):
    """Remembers configurations."""

    async def recall(self, number: int, digest: str) -> Topology | None:
        """The configuration of that number, or without one of that digest; None if it is not remembered, or means nothing any more."""


class DecisionDesk:
    """Handlers of one node.

    Args:
        ranker: the node's own.
        archive: configurations of then; None: there is only the one of now.
        queued: how many requests wait for a pool on this node.
    """

    def __init__(
        self,
        store: Store,
        topology: Topology,
        snapshot: Snapshot,
        ranker: Ranker,
        *,
        node: str,
        archive: Archive | None = None,
        queued: Callable[[str], int] = lambda pool: 0,
    ) -> None:
        self._store = store
        self._topology = topology
        self._archive = archive
        self._rules = topology.config.observability.decisions
        self._explainer = Explainer(store, topology, snapshot, ranker, node=node, queued=queued)
        self._replayer = Replayer(topology, ranker.strategies)

    def operations(self) -> list[Operation]:
        """Their routes."""
        return [
            Operation(
                "requests/{request_id}/replay",
                self._replay,
                "A recorded decision made again, out of what the record holds.",
                ReplayView,
            ),
            Operation(
                "requests/{request_id}",
                self._show,
                "Why a request went where it did, as its node has recorded it.",
                DecisionView,
            ),
            Operation(
                "explain",
                self._explain,
                "What would be chosen now; nothing is sent, nothing is taken.",
                ExplainView,
                method="POST",
                body=ExplainBody,
            ),
        ]

    async def read(self, request_id: str) -> DecisionView:
        """The record of a request.

        Raises:
            ModelNotFoundError: there is none, any more or at all.
        """
        raw = await read_decision(self._store, request_id)
        if raw is None:
            raise ModelNotFoundError(self._why_none(request_id), code="decision_not_found")
        try:
            return DecisionView.model_validate_json(raw)
        except ValidationError:
            raise ModelNotFoundError(
                f"the record of request {request_id!r} is of another release", code="decision_not_found"
            ) from None

    def _why_none(self, request_id: str) -> str:
        rules = self._rules
        kept = "those that failed or went on to another model" if rules.failures else "no failures as such"
        return (
            f"no decision is recorded for request {request_id!r}: {kept} and {rules.sample:.0%} of the others are"
            f" recorded, for {rules.ttl:g} s (observability.decisions)"
        )

    async def _show(self, request: Request) -> Response:
        return ViewResponse(await self.read(request.path_params["request_id"]))

    async def _replay(self, request: Request) -> Response:
        decision = await self.read(request.path_params["request_id"])
        return ViewResponse(await (await self._replayer_of(decision)).replay(decision))

    async def _replayer_of(self, decision: DecisionView) -> Replayer:
        """On the configuration of then if it can be had, else on the one of now: the answer says which."""
        if self._archive is None or decision.config_version == self._topology.version:
            return self._replayer
        then = await self._archive.recall(decision.config_number, decision.config_version)
        return self._replayer if then is None else Replayer(then, build_strategies(then.pools.values()))

    async def _explain(self, request: Request) -> Response:
        asked = await read_body(request, ExplainBody, most_bytes=_MOST_BODY_BYTES)
        return ViewResponse(await self._explainer.explain(asked))
