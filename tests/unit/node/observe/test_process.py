"""What Prometheus is told of the process."""

from __future__ import annotations

import asyncio
import os

import httpx
from prometheus_client import CollectorRegistry

from node.observe.process import ProcessGauges
from node.upstream import FastTransport, open_transport


def told(transport: httpx.AsyncBaseTransport) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(ProcessGauges(transport))
    return registry


async def test_tasks_descriptors_and_memory_are_told() -> None:
    """What a leak would show in."""
    registry = told(FastTransport())
    before = registry.get_sample_value("modelmesh_tasks")
    pause = asyncio.create_task(asyncio.sleep(10))
    pipe = os.pipe()
    after = registry.get_sample_value("modelmesh_tasks")
    descriptors = registry.get_sample_value("process_open_fds")
    pause.cancel()
    for end in pipe:
        os.close(end)

    assert before is not None and after == before + 1
    assert descriptors == (registry.get_sample_value("process_open_fds") or 0) + 2
    assert (registry.get_sample_value("process_resident_memory_bytes") or 0) > 10e6


async def test_connections_to_providers_are_told() -> None:
    """By what they are doing; they come back when a provider has answered."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    transport = FastTransport()
    registry = told(transport)
    port = server.sockets[0].getsockname()[1]
    response = await transport.handle_async_request(httpx.Request("GET", f"http://127.0.0.1:{port}/"))
    seen = [registry.get_sample_value("modelmesh_upstream_connections", {"state": "idle"})]
    await response.aclose()
    await transport.aclose()
    server.close()
    await server.wait_closed()
    seen.append(registry.get_sample_value("modelmesh_upstream_connections", {"state": "idle"}))

    assert seen == [1, 0]


async def test_the_stock_transport_says_nothing_of_its_connections() -> None:
    """No number is better than a wrong one."""
    registry = told(open_transport("stock", has_tls=False))

    assert registry.get_sample_value("modelmesh_upstream_connections", {"state": "idle"}) is None
