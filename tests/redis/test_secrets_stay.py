"""S06: a real node with a key that its provider quotes in every way: it appears nowhere. Then the key changes under it."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from typer.testing import CliRunner

from modelmesh.cli.app import app
from modelmesh.state_files import export_state
from shared_state.copies import decode_copies
from shared_state.store import Store
from tests.support.processes import ChildProcess, free_port, wait_until
from tests.support.valkey import ValkeyServer

_ROOT: Final = Path(__file__).resolve().parents[2]
CANARY: Final = "sk-canary-0815"
EXTRA: Final = 'token-canary"\\4711'  # spelt in another way in JSON
BODY: Final = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
ADMIN: Final = {"authorization": "Bearer admin"}


class Parrot:
    """A provider that answers as it is told and quotes what it was sent.

    Attributes:
        says: status, content type, and whether the quotation is an error object.
        heard: the keys that came.
    """

    def __init__(self) -> None:
        self.says: tuple[int, str] = (200, "answer")
        self.heard: list[str] = []
        handler = type("Handler", (_Handler,), {"parrot": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    parrot: Parrot

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        key, extra = self.headers["authorization"].removeprefix("Bearer "), self.headers["x-token"]
        self.parrot.heard.append(key)
        status, form = self.parrot.says
        error = {"message": f"bad key {key} and {extra}", "type": "x", "code": key, "param": extra}
        answer = {"choices": [{"message": {"role": "assistant", "content": "hi"}}], "usage": {}}
        body = {
            "answer": json.dumps(answer),
            "error": json.dumps({"error": error}),
            "text": f"bad key {key} and {extra}",
            "event": f"data: {json.dumps({'error': error})}\n\n",
        }[form].encode()
        self.send_response(status)
        self.send_header(
            "content-type", {"event": "text/event-stream", "text": "text/plain"}.get(form, "application/json")
        )
        self.send_header("x-quoted", key)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Site:
    """A node of its own file, with a dotenv file beside it."""

    def __init__(self, folder: Path, parrot: Parrot, redis_url: str, namespace: str) -> None:
        self.folder, self.parrot, self.redis_url = folder, parrot, redis_url
        self.config = folder / "mesh.json"
        self.write_key(CANARY)
        self.document = {
            "redis": {"url": redis_url, "namespace": namespace},
            "secrets": {"store": "modelmesh.dotenv.v1", "path": str(folder / "mesh.env"), "cache_ttl": 0},
            "providers": {
                "alpha": {
                    "connector": "openai-compatible.v1",
                    "base_url": parrot.base_url,
                    "api_key": "${secrets:ALPHA_KEY}",
                    "headers": {"x-token": "${secrets:EXTRA}"},
                }
            },
            "models": {"alpha.m": {"provider": "alpha", "capabilities": ["chat-completion"]}},
            "pools": {
                "chat": {
                    "models": ["alpha.m"],
                    "retry": {"max_attempts": 1},
                    "deactivation": {"retry_limit": 1000, "error_min_requests": 1000},
                }
            },
            "observability": {"decisions": {"sample": 1.0}},
        }
        self.config.write_text(json.dumps(self.document))
        self.url = f"http://127.0.0.1:{free_port()}"
        port = self.url.rpartition(":")[2]
        self.process = ChildProcess(
            [*(sys.executable, "-m", "node", "-c", self.config), *("--host", "127.0.0.1", "--port", port)],
            name="canary",
            env={"MODELMESH_HOME": str(folder), "MODELMESH_ADMIN_TOKEN": "admin"},
            cwd=_ROOT,
        )
        self.process.wait_line_blocking(r'"event": ?"ready"', 20)

    def write_key(self, key: str) -> None:
        extra = EXTRA.replace("\\", "\\\\").replace('"', '\\"')
        (self.folder / "mesh.env").write_text(f'ALPHA_KEY={key}\nEXTRA="{extra}"\n')

    def close(self) -> None:
        self.process.close()

    def client(self) -> httpx.AsyncClient:
        """An operator's; without certificates, which take long to read and are not needed here."""
        return httpx.AsyncClient(base_url=self.url, timeout=10, headers=ADMIN, verify=False)

    async def ask(self, *, stream: bool = False) -> str:
        """Everything that a caller gets."""
        async with self.client() as client:
            body = {**BODY, "stream": stream}
            response = await client.post("/v1/chat/completions", json=body)
            return f"{response.status_code} {response.headers} {response.text}"

    async def revive(self) -> None:
        """A refused key or a limit takes the account out."""
        async with self.client() as client:
            for name in ("models/alpha.m", "providers/alpha"):
                (await client.post(f"/ops/{name}/activate", json={})).raise_for_status()

    async def hear(self, status: int, form: str, *, stream: bool = False) -> str:
        """What a caller gets when the provider says that; asked again until it was the provider who was asked."""
        self.parrot.says = status, form

        async def heard() -> str | None:
            before = len(self.parrot.heard)
            await self.revive()
            told = await self.ask(stream=stream)
            return told if len(self.parrot.heard) > before else None

        return await wait_until(heard, 15, interval=0.05)

    async def look(self, path: str) -> str:
        async with self.client() as client:
            response = await client.get(path)
            assert response.status_code == 200, (path, response.text)
            return response.text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: ValkeyServer) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("canary")
    with (
        closing(Parrot()) as parrot,
        closing(Site(folder, parrot, valkey_server.url, "canary")) as site,
    ):
        yield site


async def dump(store: Store) -> str:
    """All keys with all they hold."""
    found = []
    async for key in store.client.scan_iter(match="*canary*"):
        kind = (await store.client.type(key)).decode()
        read = {
            "string": lambda key: store.client.get(key),
            "hash": lambda key: store.client.hgetall(key),
            "set": lambda key: store.client.smembers(key),
            "zset": lambda key: store.client.zrange(key, 0, -1, withscores=True),
            "list": lambda key: store.client.lrange(key, 0, -1),
            "stream": lambda key: store.client.xrange(key),
        }[kind]
        found.append(f"{key!r} {await read(key)!r}")
    assert found
    return "\n".join(found)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "says",
    [
        *((status, "error") for status in (200, 400, 401, 403, 404, 422, 429, 500, 503)),
        *((status, "text") for status in (200, 400, 404, 500)),
        (200, "event"),
    ],
)
async def test_callers_never_see_the_key(site: Site, says: tuple[int, str], stream: bool):
    """Whatever the provider quotes, in whatever form; what else it says is passed on as ever."""
    told = await site.hear(*says, stream=stream)

    assert not any(secret in told for secret in (CANARY, EXTRA, json.dumps(EXTRA)[1:-1])), told


async def test_nothing_that_is_kept_or_shown_holds_the_key(site: Site, monkeypatch: pytest.MonkeyPatch):
    """Redis, the log, metrics, the operators' API, the commands, an export of the state; after a push, too."""
    for status in (401, 500, 400):
        await site.hear(status, "error")
    shared = {name: section for name, section in site.document.items() if name != "redis"}
    site.config.with_name("push.json").write_text(json.dumps(shared))
    monkeypatch.setenv("MODELMESH_URL", site.url)
    monkeypatch.setenv("MODELMESH_ADMIN_TOKEN", "admin")
    said = [
        CliRunner().invoke(app, words).output
        for words in (
            ["config", "push", str(site.config.with_name("push.json"))],
            ["config", "show"],
            ["config", "history"],
            ["config", "check", str(site.config)],
            ["secrets", "list", "-c", str(site.config)],
            ["explain", "-m", "chat"],
            ["providers", "--json"],
        )
    ]
    paths = "status nodes pools models providers stats usage books config config/history keys openapi.json"
    seen = [await site.look(f"/ops/{path}") for path in paths.split()]
    seen += [await site.look(path) for path in ("/metrics", "/ready", "/v1/models")]
    await export_state(site.folder / "state", config_path=str(site.config), redis_url=site.redis_url)
    state = repr(list(decode_copies((site.folder / "state").read_bytes())))
    store = Store(site.redis_url, namespace="canary", timeout_s=5)
    async with aclosing(store):
        kept = await dump(store)

    assert "version 1" in said[0] or "version 2" in said[0], said[0]
    for text in (*said, *seen, state, kept, site.process.log()):
        assert not any(secret in text for secret in (CANARY, EXTRA, json.dumps(EXTRA)[1:-1])), text
    assert "${secrets:ALPHA_KEY}" in kept


async def test_a_changed_key_is_used_without_a_restart(site: Site):
    """On SIGHUP; calls go on meanwhile, and the number of the version stays."""
    before = json.loads(await site.look("/ready"))["config_number"]
    site.write_key(f"{CANARY}-new")
    site.process.send(signal.SIGHUP)

    async def uses_new() -> bool:
        await site.hear(200, "answer")
        return site.parrot.heard[-1] == f"{CANARY}-new"

    await wait_until(uses_new, 15, interval=0.1)
    assert json.loads(await site.look("/ready"))["config_number"] == before
    assert '"event": "secrets have changed"' in site.process.log()
    assert CANARY not in site.process.log()
