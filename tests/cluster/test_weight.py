"""What a node weighs: modules at its start, memory of open streams, memory of readers that do not read."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx

from tests.cluster.mesh import mesh, pool, with_addresses
from tests.support.processes import ChildProcess, free_port
from tests.support.valkey import ValkeyServer

_ROOT: Final = Path(__file__).resolve().parents[2]
#: What a node with our own engines never needs, though some of it is installed and libraries would take it along.
_STRANGERS: Final = frozenset(
    "aiohttp apscheduler attr click h11 h2 hypercorn jinja2 modelmesh openai opentelemetry"
    " pygments rich scheduler sqlalchemy tiktoken typer".split()
)
_TELLING: Final = """
import atexit, runpy, sys
atexit.register(lambda: print("modules", *sorted(sys.modules), flush=True))
runpy.run_module("node", run_name="__main__", alter_sys=True)
"""


async def test_a_node_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """From its start over an answer and a scrape to its end; each of these costs every node megabytes and milliseconds."""
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
                statuses = [(await client.post("/v1/chat/completions", json=asked)).status_code]
                statuses.append((await client.get("/metrics")).status_code)
            await process.terminate()
            told = (await process.wait_line(r"^modules .*$"))[0].split()[1:]

    assert [502, 200] == statuses
    assert "node.service" in told
    assert set() == _STRANGERS.intersection(name.partition(".")[0] for name in told)
