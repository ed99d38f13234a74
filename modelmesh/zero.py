"""`modelmesh.create`: a client for scripts and notebooks, and behind it a mesh in a thread of its own.

Clients with the same configuration share one mesh. It ends with the last of them, or with the interpreter.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from modelmesh.extras import require_openai
from modelmesh.loop_thread import LoopThread
from modelmesh.mesh import ModelMesh
from modelmesh.plan import Configuration, Plan, plan_of, written
from modelmesh.zero_config import Wishes, find_providers
from shared_state.errors import ConfigurationError
from shared_state.topology import Topology

if TYPE_CHECKING:
    from modelmesh.mesh_client import MeshClient

_OVERRULED: Final = (
    "version {number} of the configuration is in force in this cluster: providers, models, strategy and api_keys cannot change that;"
    " give another redis.namespace"
)
_READY_S: Final = 15.0
_DRAIN_AT_EXIT_S: Final = 1.0


def create(
    *capabilities: str,
    pool: str | None = None,
    providers: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    strategy: str | None = None,
    api_keys: Mapping[str, str] | None = None,
    config: Configuration | None = None,
    redis: str | None = None,
    **options: Any,
) -> MeshClient:
    """An `openai.OpenAI` client for a capability, over whatever providers the environment has keys for.

    Args:
        capabilities: what ``model`` means where a call leaves it out: the first of them that suits the API.
        pool: the same, by a pool's name; it comes before capabilities.
        providers: only these of the environment.
        models: only these, by id.
        strategy: of every pool; the default is stick-until-failure.
        api_keys: keys by provider, in place of the environment's; no other provider is used.
        config: a whole configuration, as for `ModelMesh.initialize`. One without providers is laid over the environment's.
        redis: as for `ModelMesh.initialize`.
        options: those of `openai.OpenAI`.

    Raises:
        ValueError: no name is given, or a wish that means nothing.
        NoProvidersError: no key was found; the message names the variables.
        ModelNotFoundError: nothing here serves the name.
        ConfigurationError: with every fault.
        FrontDoorError: the store cannot be used or does not answer.
    """
    names = [pool] if pool else list(capabilities)
    if not names and config is None:
        raise ValueError('what is it for? Name a capability, as in modelmesh.create("chat-completion")')
    require_openai()
    wishes = Wishes(providers, models, strategy, api_keys)
    plan = _plan(wishes, config, redis)
    for name in names:
        plan.topology.resolve(name)
    lease = _rent(plan)
    try:
        if wishes.any and (number := lease.mesh.overruled_by):
            raise ConfigurationError([_OVERRULED.format(number=number)])
        for name in names:  # again: the cluster may run another version of the configuration
            lease.topology.resolve(name)
        return _client(lease, names, options)
    except BaseException:
        lease.release()
        raise


def _plan(wishes: Wishes, config: Configuration | None, redis: str | None) -> Plan:
    lays_over = isinstance(config, Mapping) and not config.get("providers")
    if not (lays_over or config is None and (wishes.any or not os.environ.get("MODELMESH_CONFIG"))):
        wishes.refuse()
        return plan_of(written(config, os.environ), redis=redis, environ=os.environ)
    found, environ = find_providers(wishes, os.environ)
    over = config if isinstance(config, Mapping) else {}
    return plan_of(found._replace(document={**found.document, **over}), redis=redis, environ=environ)


def _client(lease: Lease, names: Sequence[str], options: Mapping[str, Any]) -> MeshClient:
    from modelmesh.clients import sync_client
    from modelmesh.mesh_client import MeshClient

    transport = lease.mesh.sync_transport()
    client = sync_client(transport, base_url=lease.mesh.base_url, kind=MeshClient, **options)
    client.attach(lease.mesh, defaults=lease.topology, names=names, on_close=lease.release)
    return client


@dataclass(slots=True, eq=False)
class _Shared:
    thread: LoopThread
    mesh: ModelMesh
    users: int = 0


_shared: dict[str, _Shared] = {}
_lock = threading.RLock()


@dataclass(slots=True, eq=False)
class Lease:
    """The use of a shared mesh by one client."""

    key: str
    mesh: ModelMesh
    _is_over: bool = field(default=False, init=False)

    @property
    def topology(self) -> Topology:
        """What the mesh runs now."""
        return self.mesh.topology

    def release(self) -> None:
        """Ends the mesh if this was its last use. May be called again."""
        with _lock:
            shared = _shared.get(self.key)
            if self._is_over or shared is None or shared.mesh is not self.mesh:
                return
            self._is_over = True
            shared.users -= 1
            if not shared.users:
                del _shared[self.key]
                _end(shared)


def _rent(plan: Plan) -> Lease:
    key = _key_of(plan)
    with _lock:
        shared = _shared.get(key)
        if shared is None or shared.mesh.is_closed:
            shared = _shared[key] = _begin(plan)
        shared.users += 1
        return Lease(key, shared.mesh)


def _begin(plan: Plan) -> _Shared:
    thread = LoopThread("modelmesh")
    try:
        work = ModelMesh.open(plan, scheduler=True, name="program", ready_within=_READY_S)
        return _Shared(thread, thread.run(work))
    except BaseException:
        thread.end()
        raise


def _end(shared: _Shared, *, drain: float | None = None) -> None:
    try:
        shared.thread.run(shared.mesh.close(drain=drain))
    finally:
        shared.thread.end()


def _key_of(plan: Plan) -> str:
    """What has to be the same for one mesh to do for both; keys count too, and are not to be read off it."""
    config = plan.topology.config
    parts = [str(plan.redis_url), str(plan.home), config.redis.namespace, config.model_dump_json()]
    secrets = [
        provider.api_key.get_secret_value() for provider in config.providers.values() if provider.api_key
    ]
    return hashlib.sha256(orjson.dumps([parts, secrets])).hexdigest()


def _end_all() -> None:
    """At the interpreter's exit: whoever still calls is a daemon, and nobody waits for him."""
    with _lock:
        while _shared:
            _end(_shared.popitem()[1], drain=_DRAIN_AT_EXIT_S)


def _forget() -> None:
    """In a forked child: threads stayed with the parent, and one of them may have held the lock."""
    global _lock
    _lock = threading.RLock()
    _shared.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget)
