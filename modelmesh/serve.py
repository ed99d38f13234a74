"""`modelmesh serve`: everything on this machine, from a configuration to running processes."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from modelmesh import __version__, demo
from modelmesh.addresses import http_url, listen
from modelmesh.children import Child, ChildSpec, Service
from modelmesh.edits import FileEdits
from modelmesh.embedded import EmbeddedStore
from modelmesh.errors import StartError
from modelmesh.home import make_private, state_folder
from modelmesh.supervisor import Supervisor
from shared_state.addresses import is_loopback
from shared_state.config.loader import config_from_environment, find_document, load_config
from shared_state.config.root import MeshConfig
from shared_state.config.strategies import is_custom
from shared_state.store import Store
from shared_state.topology import Topology, build_topology

_DRAIN_MARGIN_S = 5.0
_NAME_WIDTH = 9
_LOOK_S = 2.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line asks for; None means that the configuration decides."""

    config_path: str | None = None
    host: str | None = None
    port: int | None = None
    nodes: int = 1
    redis_url: str | None = None
    insecure: bool = False
    is_demo: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration comes from, and what belongs to it."""

    config: MeshConfig
    home: Path
    path: str | None = None
    mocks: tuple[ChildSpec, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before the first process starts."""

    source: Source
    topology: Topology
    listener: socket.socket
    nodes: int
    redis: Redis | None
    insecure: bool
    environ: Mapping[str, str]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()[:2]
        return host, port


@dataclass(frozen=True, slots=True)
class Redis:
    """A server of somebody else's; `label` is its URL as people may see it."""

    url: str
    label: str


def serve(options: ServeOptions, *, environ: Mapping[str, str] = os.environ) -> int:
    """Serve until a signal; the exit code.

    Raises:
        ConfigurationError: with every fault.
        FrontDoorError: the port is taken, the store cannot be started, ...; nothing runs any more.
    """
    plan = make_plan(options, environ=environ)
    with plan.listener:
        asyncio.run(_run(plan))
    return 0


def make_plan(options: ServeOptions, *, environ: Mapping[str, str]) -> Plan:
    """Check the configuration and take the port."""
    if options.is_demo:
        return _plan_demo(options, environ=environ, notes=("This is the demo:",))
    home = state_folder(environ)
    if path := options.config_path or environ.get("MODELMESH_CONFIG"):
        source = Source(load_config(path, environ=environ), home, path=os.path.abspath(path))
    else:
        config, notices = config_from_environment(environ)
        if not config.providers:
            reason = "No provider's key is in the environment (OPENAI_API_KEY, ...), so this is the demo:"
            return _plan_demo(options, environ=environ, notes=(*notices, reason))
        source = Source(config, home, notes=("Providers come from the environment.", *notices))
    return _plan(source, options=options, environ=environ)


def _plan_demo(options: ServeOptions, *, environ: Mapping[str, str], notes: tuple[str, ...]) -> Plan:
    """The port comes first: its number tells the configuration files of several demos apart."""
    home = make_private(state_folder(environ) / "demo")
    with ExitStack() as on_failure:
        listener = on_failure.enter_context(_listen(options, MeshConfig()))
        path = home / f"mesh.{listener.getsockname()[1]}.yaml"
        prepared = demo.prepare(path, environ=child_environ(environ, home=home))
        tempers = (f"  {temper.name:<9} {temper.says}" for temper in demo.TEMPERS)
        source = Source(
            load_config(path, environ=environ),
            home,
            path=str(path),
            mocks=prepared,
            notes=(*notes, *tempers),
        )
        plan = _plan(source, options=options, environ=environ, listener=listener)
        on_failure.pop_all()
        return plan


def _plan(
    source: Source,
    *,
    options: ServeOptions,
    environ: Mapping[str, str],
    listener: socket.socket | None = None,
) -> Plan:
    url = options.redis_url or environ.get("MODELMESH_REDIS_URL") or source.config.redis.address
    topology = build_topology(source.config)
    _check_strategies(topology)
    return Plan(
        source=source,
        topology=topology,
        nodes=options.nodes,
        redis=find_redis(url) if url else None,
        insecure=options.insecure,
        environ=child_environ(environ, home=source.home),
        listener=listener or _listen(options, source.config),  # last: nothing fails once it is open
    )


def _check_strategies(topology: Topology) -> None:
    """Nodes would find out about strategies that cannot be loaded, each of them, again and again."""
    names = {name for p in topology.pools.values() for name in (p.strategy, p.config.fallback_strategy)}
    if any(is_custom(name) for name in names):
        from node.routing.strategies import build_strategies

        build_strategies(topology.pools.values())


def _listen(options: ServeOptions, config: MeshConfig) -> socket.socket:
    proxy = config.proxy
    host = options.host or proxy.host
    if not (is_loopback(host) or options.insecure or proxy.auth.tokens or config.keys.required):
        raise StartError(
            f"refusing to serve on {host} without authentication: set proxy.auth.tokens or keys.required, or give --insecure"
        )
    return listen(host, proxy.port if options.port is None else options.port)


def find_redis(url: str) -> Redis:
    """The server behind a URL, which need not answer yet.

    Raises:
        ConfigurationError: the URL is of a kind that we do not understand.
        StartError: it is none.
    """
    try:
        return Redis(url, Store(url).masked_url)
    except ValueError as error:
        raise StartError(f"not the URL of a Redis: {error}") from error


def child_environ(environ: Mapping[str, str], *, home: Path) -> dict[str, str]:
    """The environment of our children: they use our state folder, and the packages that this process runs."""
    result = {**environ, "MODELMESH_HOME": str(home)}
    root = str(Path(__file__).resolve().parents[1])
    if root != sysconfig.get_path("purelib"):
        result["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    return result


async def _run(plan: Plan) -> None:
    store = plan.redis or EmbeddedStore(plan.source.home / "store", environ=plan.environ, tell=tell)

    def stores() -> Sequence[Service]:
        return [store] if isinstance(store, EmbeddedStore) else []

    def edits() -> Sequence[Service]:
        return [file_edits(plan, store)]

    def mocks() -> Sequence[Service]:
        return [Child(spec, tell=tell) for spec in plan.source.mocks]

    def schedulers() -> Sequence[Service]:
        return [Child(scheduler_spec(plan, redis_url=store.url), tell=tell)]

    def nodes() -> Sequence[Service]:
        return [Child(spec, tell=tell) for spec in node_specs(plan, redis_url=store.url)]

    supervisor = Supervisor([stores, edits, mocks, schedulers, nodes])
    await supervisor.run(when_ready=lambda: print_banner(plan, store_label=store.label))


def file_edits(plan: Plan, store: EmbeddedStore | Redis) -> FileEdits:
    """The look at the file before anything reads the versions; the demo's file is its own, wherever its store is."""
    redis = plan.topology.config.redis
    return FileEdits(
        find_document(plan.source.path, environ=plan.environ),
        open_store=lambda: Store(store.url, namespace=redis.namespace, timeout_s=_LOOK_S),
        digest=plan.topology.version,
        may_push=bool(plan.source.mocks) or (isinstance(store, EmbeddedStore) and not store.is_attached),
        tell=tell,
    )


def scheduler_spec(plan: Plan, *, redis_url: str) -> ChildSpec:
    """How the scheduler is started."""
    return ChildSpec(
        name="scheduler",
        argv=(*_module("scheduler"), *_config_flags(plan), "--name", "scheduler"),
        environ={**plan.environ, "MODELMESH_REDIS_URL": redis_url},  # not an argument: it may hold a password
    )


def node_specs(plan: Plan, *, redis_url: str) -> list[ChildSpec]:
    """How the nodes are started, all on one listening socket."""
    host, port = plan.address
    fd = plan.listener.fileno()
    flags = (*_config_flags(plan), "--host", host, "--port", str(port), "--fd", str(fd))
    flags += ("--insecure",) if plan.insecure else ()
    return [
        ChildSpec(
            name=f"node-{number}",
            argv=(*_module("node"), *flags, "--name", f"node-{number}"),
            environ={**plan.environ, "MODELMESH_REDIS_URL": redis_url},
            pass_fds=(fd,),
            announces_ready=True,
            grace_s=plan.topology.config.server.drain + _DRAIN_MARGIN_S,
        )
        for number in range(1, plan.nodes + 1)
    ]


def _module(name: str) -> tuple[str, ...]:
    """Run a package of ours; -P, because the current folder may hold another one of the same name."""
    return (sys.executable, "-P", "-m", name)


def _config_flags(plan: Plan) -> tuple[str, ...]:
    return ("-c", plan.source.path) if plan.source.path else ()


def tell(name: str, line: str) -> None:
    """One line of a child, on standard error; a closed one must not stop the supervisor."""
    try:
        sys.stderr.write(f"{name:<{_NAME_WIDTH}} | {line}\n")
        sys.stderr.flush()
    except OSError:
        pass


def print_banner(plan: Plan, *, store_label: str) -> None:
    """Say what runs, and where."""
    url = http_url(*plan.address)
    topology = plan.topology
    counts = {"provider": topology.providers, "model": topology.models, "pool": topology.pools}
    routes = ", ".join(
        f"{len(those)} {kind}{'' if len(those) == 1 else 's'}" for kind, those in counts.items()
    )
    lines = [
        f"ModelMesh {__version__} serves on {url}",
        *plan.source.notes,
        f"  nodes     {plan.nodes}",
        f"  store     {store_label}",
        f"  routes    {routes}",
        f"  page      {url}/ui",
    ]
    if plan.source.mocks:
        body = f'{{"model": "{demo.MODEL}", "messages": [{{"role": "user", "content": "hello"}}]}}'
        lines.append(
            f"  try       curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
        )
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for line in lines:
        console.print(line)
