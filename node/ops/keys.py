"""Client keys for operators: make one, look at all, revoke one. The text of a key leaves the node once, in the answer that made it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from node.ops.operations import Operation, ViewResponse, read_small_body
from shared_state.client_keys import ClientKey, ClientKeys, new_key_id, new_key_text
from shared_state.config.checks import spends_money, with_budget
from shared_state.errors import ModelNotFoundError, RequestError
from shared_state.gates import build_gate, key_gate
from shared_state.shapes.keys import KeyBody, KeysView, KeyView, NewKeyView
from shared_state.shapes.status import WindowView
from shared_state.specs import DomainSpec
from shared_state.topology import Topology


class KeyOrders:
    """What operators do with client keys.

    Args:
        windows: how full those of a key's gate are.
        node: signs the orders.
        now_ms: server time.
    """

    def __init__(
        self,
        keys: ClientKeys,
        topology: Topology,
        *,
        windows: Callable[[DomainSpec], Awaitable[list[WindowView]]],
        node: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._windows = windows
        self._keys = keys
        self._topology = topology
        self._node = node
        self._now_ms = now_ms

    def operations(self) -> list[Operation]:
        """The routes under ``/ops/keys``."""

        async def listing(request: Request) -> Response:
            return ViewResponse(await self.all())

        async def create(request: Request) -> Response:
            return ViewResponse(await self.create(await read_small_body(request, KeyBody)))

        async def revoke(request: Request) -> Response:
            return ViewResponse(await self.revoke(request.path_params["key"]))

        return [
            Operation("keys", listing, "All client keys, without their text.", KeysView),
            Operation("keys", create, "Make a client key.", NewKeyView, method="POST", body=KeyBody),
            Operation("keys/{key}", revoke, "Make a client key void for good.", KeyView, method="DELETE"),
        ]

    async def all(self) -> KeysView:
        """All keys, oldest first."""
        keys = await self._keys.all()
        return KeysView(
            keys=[
                self._view(key, await self._windows(build_gate(key_gate(key.id), key.limits))) for key in keys
            ]
        )

    async def create(self, body: KeyBody) -> NewKeyView:
        """Makes a key.

        Raises:
            RequestError: it would open nothing, or its money could not be counted.
        """
        now_s = self._now_ms() / 1000
        key = ClientKey(
            id=new_key_id(),
            name=body.name,
            created=now_s,
            expires=now_s + body.expires_s if body.expires_s else None,
            models=tuple(body.models),
            limits=with_budget(body.limits, body.budget),
            note=body.note,
        )
        self._check(key)
        text = new_key_text()
        await self._keys.put(key, text, node=self._node)
        return NewKeyView(key=text, **self._view(key).model_dump())

    async def revoke(self, key_id: str) -> KeyView:
        """Makes a key void for good, on every node.

        Raises:
            ModelNotFoundError: there is no such key.
        """
        key = await self._keys.revoke(key_id, node=self._node)
        if key is None:
            raise ModelNotFoundError(f"no client key has the id {key_id!r}", code="key_not_found")
        return self._view(key)

    def _check(self, key: ClientKey) -> None:
        for name in key.models:
            if "*" not in name:
                self._check_name(name)
        if spends_money(key.limits) and not any(model.is_priced for model in self._topology.models.values()):
            raise RequestError("money is limited, but no model has a price (models.ID.pricing)")

    def _check_name(self, name: str) -> None:
        try:
            self._topology.resolve(name)
        except ModelNotFoundError as error:
            raise RequestError(error.message, param="models") from None

    def _view(self, key: ClientKey, windows: Sequence[WindowView] = ()) -> KeyView:
        return KeyView(
            id=key.id,
            name=key.name,
            status=key.status(self._now_ms()),
            created=key.created,
            expires=key.expires,
            revoked=key.revoked,
            models=list(key.models),
            limits=key.limits.model_dump(mode="json", exclude_unset=True),
            windows=list(windows),
            note=key.note,
        )
