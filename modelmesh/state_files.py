"""State in files: all quota domains of a deployment out of its Redis, and into another one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from modelmesh.errors import StoreError
from shared_state.config.loader import load_config
from shared_state.copies import decode_copies, encode_copies, read_copy, restore_copy
from shared_state.directory import DomainDirectory
from shared_state.errors import ConfigurationError, ModelMeshError
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import Topology, build_topology

_TIMEOUT_S = 10.0


class StateFileError(ModelMeshError):
    """A file of state cannot be read, written or imported."""

    default_code = "state_file"


@dataclass(frozen=True, slots=True)
class Moved:
    """What was exported or imported of a domain.

    Attributes:
        note: what people should know of it; empty if all went as usual.
    """

    domain: str
    admissions: int = 0
    reservations: int = 0
    note: str = ""


async def export_state(path: Path, *, config_path: str | None, redis_url: str | None) -> list[Moved]:
    """Writes the state of every domain to a file that only its owner may read.

    Raises:
        ConfigurationError, StoreError, StateFileError: with what is wrong.
    """
    async with _opened(config_path, redis_url) as (store, topology):
        domains = await DomainDirectory(store, topology).specs()
        copies = [await read_copy(store, domain) for domain in domains.values()]
    _write(path, encode_copies(copies))
    return [
        Moved(
            copy.domain,
            sum(count for account, count in copy.books.items() if account.endswith("\tadmitted")),
            len(copy.reservations),
            f"{copy.left_out} more in flight are left out" if copy.left_out else "",
        )
        for copy in copies
    ]


async def import_state(
    path: Path, *, config_path: str | None, redis_url: str | None, is_forced: bool = False
) -> list[Moved]:
    """Puts the state of a file into an empty deployment; with force it is added to what is there.

    Raises:
        ConfigurationError, StoreError, CopyError: with what is wrong.
        StateFileError: the file cannot be read, or the deployment is not empty; nothing was changed.
    """
    copies = decode_copies(_read(path))
    async with _opened(config_path, redis_url) as (store, topology):
        domains = await DomainDirectory(store, topology).specs()
        live = {name: await read_copy(store, domain) for name, domain in domains.items()}
        used = [copy.domain for copy in live.values() if not copy.is_empty]
        if used and not is_forced:
            raise StateFileError(f"there is state already in {', '.join(used)}; --force adds to it")
        moved = []
        for copy in copies:
            domain = domains.get(copy.domain)
            if domain is None:
                moved.append(Moved(copy.domain, note="not in the configuration, left out"))
                continue
            # with the token that was seen last: it neither is refused nor shuts out a scheduler that leads
            done = await restore_copy(store, domain, copy, token=live[copy.domain].fence)
            note = "" if done else "nothing of it is missing"
            moved.append(
                Moved(copy.domain, done.books if done else 0, done.reservations if done else 0, note)
            )
    return moved


@asynccontextmanager
async def _opened(config_path: str | None, redis_url: str | None) -> AsyncIterator[tuple[Store, Topology]]:
    topology = build_topology(load_config(config_path))
    config = topology.config.redis
    url = redis_url or config.address
    if not url:
        raise ConfigurationError(["redis.url: give --redis, or set MODELMESH_REDIS_URL"])
    async with aclosing(Store(url, namespace=config.namespace, timeout_s=_TIMEOUT_S)) as store:
        try:
            yield store, topology
        except STORE_ERRORS as error:
            raise StoreError(f"{store.masked_url}: {error or type(error).__name__}") from error


def _write(path: Path, blob: bytes) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StateFileError(f"{path} cannot be written: {error.strerror or error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateFileError(f"{path} cannot be read: {error.strerror or error}") from error
