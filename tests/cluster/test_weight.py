"""What a node weighs: modules at its start, memory of open streams, memory of readers that do not read."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.cluster.mesh import mesh, pool, with_addresses
from tests.support.processes import ChildProcess, free_port
from tests.support.valkey import ValkeyServer

_ROOT: Final = Path(__file__).resolve().parents[2]
#: What a node with our own engines never needs, though some of it is installed and libraries would take it along.
_STRANGERS: Final = frozenset(
    [
        "aiohttp",
        "apscheduler",
        "attr",
        "click",
        "h11",
        "h2",
        "hypercorn",
        "jinja2",
        "modelmesh",
        "openai",
        "opentelemetry",
        "pygments",
        "rich",
        "scheduler",
        "sqlalchemy",
        "tiktoken",
        "typer",
    ]
)
#: A node that begins with few descriptors and tells at its end what it has come to.
_TELLING: Final = """
import atexit, resource, runpy, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
atexit.register(lambda: print("modules", *sorted(sys.modules), flush=True))
atexit.register(lambda: print("descriptors", *resource.getrlimit(resource.RLIMIT_NOFILE), flush=True))
runpy.run_module("node", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
async def told(tmp_path: Path) -> str:
    """What a node has told after a whole life: start, a request, a scrape, the end."""
    config = tmp_path / "mesh.json"
    config.write_text(
        json.dumps(with_addresses(mesh(pool("lean", "alpha")), {"alpha": "http://127.0.0.1:9/v1"}))
    )
    port = free_port()
    with closing(ValkeyServer()) as valkey:
        valkey.start()
        command = [sys.executable, "-c", _TELLING, "-c", str(config), "--redis", valkey.url]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        with closing(ChildProcess(command, name="lean", cwd=_ROOT)) as process:
            await process.wait_line(r'"event": ?"ready"', 15.0)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                asked = {"model": "lean", "messages": [{"role": "user", "content": "Hi"}]}
                assert (await client.post("/v1/chat/completions", json=asked)).status_code == 502
                assert (await client.get("/metrics")).status_code == 200
            assert await process.terminate() == 0
            return process.log()


def test_a_node_imports_nothing_that_it_does_not_need_and_takes_all_descriptors(told: str) -> None:
    """Each stranger costs every node megabytes and milliseconds; each stream takes two descriptors."""
    words = {line.split()[0]: line.split()[1:] for line in told.splitlines()}
    soft, hard = words["descriptors"]

    assert "node.service" in words["modules"]
    assert set() == _STRANGERS.intersection(name.partition(".")[0] for name in words["modules"])
    assert hard == soft
