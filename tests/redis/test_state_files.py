"""`modelmesh state export` and `import`: the state of one deployment goes into another, whole, and only where nothing is."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from modelmesh.cli.app import app
from modelmesh.state_files import export_state, import_state
from shared_state.books import read_books
from shared_state.store import Store
from tests.redis.scheduler_ground import DOMAIN, Node, make_config, make_topology
from tests.support.valkey import ValkeyServer


@pytest.fixture
async def store(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[Store]:
    async with aclosing(Store(valkey_server.url, namespace=namespace, timeout_s=5)) as store:
        yield store


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    """A configuration file for a namespace: a deployment of its own on the same server."""

    def write(namespace: str) -> str:
        path = tmp_path / f"{namespace}.json"
        path.write_bytes(orjson.dumps(make_config(namespace=namespace)))
        return str(path)

    return write


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["state", *arguments], catch_exceptions=False)


async def test_state_moves_to_another_deployment(
    store: Store, valkey_server: ValkeyServer, namespace: str, config: Callable[[str], str], tmp_path: Path
) -> None:
    """Books, and what is in flight, which can be settled there; the file is private; a second import is refused."""
    file, url = tmp_path / "state", valkey_server.url
    node = Node(store, make_topology(), "n")
    done, running = await node.admit(), await node.admit()
    await node.settle(done)
    (exported,) = await export_state(file, config_path=config(namespace), redis_url=url)
    target = config(f"{namespace}b")
    (imported,) = await import_state(file, config_path=target, redis_url=url)
    async with aclosing(Store(url, namespace=f"{namespace}b", timeout_s=5)) as other:
        there = Node(other, make_topology(), "n")
        await there.assert_known()
        assert await there.settle(running)
        books = await read_books(other, DOMAIN)

    assert (exported.domain, exported.admissions, exported.reservations) == (DOMAIN, 2, 1)
    assert imported == exported
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert books.is_balanced
    assert [(row.admitted, row.settled) for row in books.rows] == [(2, 2)]
    assert [(row.admitted, row.settled) for row in (await read_books(store, DOMAIN)).rows] == [(2, 1)]


def test_a_deployment_with_state_is_refused(
    valkey_server: ValkeyServer, namespace: str, config: Callable[[str], str], tmp_path: Path
) -> None:
    """One line, exit code 1; with --force it says that nothing is missing. Nothing happened yet is no error."""
    import asyncio

    async def use() -> None:
        async with aclosing(Store(valkey_server.url, namespace=namespace, timeout_s=5)) as store:
            await Node(store, make_topology(), "n").admit()

    asyncio.run(use())
    options = (str(tmp_path / "state"), "-c", config(namespace), "--redis", valkey_server.url)
    exported = invoke("export", *options)
    refused, forced = invoke("import", *options), invoke("import", *options, "--force")

    assert (exported.exit_code, exported.stdout.strip()) == (0, "alpha: 1 admissions, 1 in flight exported")
    assert refused.exit_code == 1
    assert refused.stderr.strip() == "modelmesh: there is state already in alpha; --force adds to it"
    assert forced.exit_code == 0
    assert "nothing of it is missing" in forced.stdout


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), (b"garbage", "no exported state")])
def test_a_file_that_is_none_is_one_line(
    content: bytes | None,
    words: str,
    valkey_server: ValkeyServer,
    namespace: str,
    config: Callable[[str], str],
    tmp_path: Path,
) -> None:
    """And changes nothing."""
    file = tmp_path / "state"
    if content is not None:
        file.write_bytes(content)
    result = invoke("import", str(file), "-c", config(namespace), "--redis", valkey_server.url)

    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_redis_that_is_away_is_one_line(config: Callable[[str], str], tmp_path: Path) -> None:
    """Without a half-written file."""
    url = f"unix://{tmp_path}/nobody"
    result = invoke("export", str(tmp_path / "state"), "-c", config("t"), "--redis", url)

    assert result.exit_code != 0
    assert "nobody" in result.stderr
    assert not (tmp_path / "state").exists()
