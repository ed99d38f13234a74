"""Levels and targets of the request log, through the routes that write it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from node.observe.redaction import MASK
from node.observe.request_log import RequestLog, RequestLogs
from shared_state.config.root import MeshConfig
from tests.unit.node.api.asgi import Front, post
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import DONE, Answer, ScriptedTransport, chunk, stream, whole

PLAIN = {
    *("event", "time", "node", "request_id", "path", "asked", "key", "status", "outcome", "pool", "model"),
    *("provider", "attempts", "fallback", "panic", "skipped", "mode", "ms", "first_content_ms"),
    *("tokens_in", "tokens_out"),
}


def logging(**section: Any) -> Callable[[io.BytesIO], RequestLog]:
    """A log as a configuration makes it, but into memory."""
    config = MeshConfig.model_validate(
        {
            "observability": {"logging": section},
            "providers": {
                "p": {"connector": "openai-compatible.v1", "base_url": "http://x/v1", "api_key": "known-secret-1"}
            },
        }
    )  # fmt: skip

    def build(out: io.BytesIO) -> RequestLog:
        made = RequestLogs("node-1").open(config)
        made._out = out
        return made

    return build


def place(*answers: Any) -> House:
    return House(mesh("alpha.m"), ScriptedTransport(alpha=list(answers)))


async def test_by_default_nothing_is_said_but_the_plain_line() -> None:
    """As it has always been."""
    node = Front()
    await post(node.app)

    assert set(node.lines[0]) == PLAIN


async def test_a_summary_adds_cost_and_attempts_but_no_payload() -> None:
    """Every attempt with what became of it."""
    node = Front(request_log=logging(level="summary"))
    await post(node.app)
    (line,) = node.lines

    assert set(line) == PLAIN | {"api", "delivery_mode", "cost_usd", "estimated", "steps"}
    assert (line["delivery_mode"], line["estimated"]) == ("synchronous", False)
    assert [(step["model"], step["outcome"]) for step in line["steps"]] == [("alpha.m", "success")]
    assert "hello" not in str(line)


async def test_full_has_payloads_without_secrets() -> None:
    """Of the request, of the answer; what a key names and what the configuration knows is masked."""
    answer = whole("the answer says known-secret-1")
    node = Front(place=place(answer), request_log=logging(level="full"))
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "user_token": "hidden-value"}
    heard = await post(node.app, body, headers=[(b"authorization", b"Bearer caller-secret")])
    (line,) = node.lines

    assert b"known-secret-1" in heard.body
    assert orjson.loads(line["request"]) == {**body, "user_token": MASK}
    assert "the answer says" in line["response"]
    for secret in ("hidden-value", "known-secret-1", "caller-secret"):
        assert secret not in str(line)


async def test_full_has_what_a_stream_said_and_why_attempts_failed() -> None:
    """Cut to the size that is allowed, and the caller gets every byte."""
    said = orjson.dumps({"error": {"message": "boom with known-secret-1"}})
    parts = [*(chunk("word " * 30) for _ in range(20)), DONE]
    scripted = ScriptedTransport(alpha=[Answer(said, status=500)], beta=[stream(*parts)])
    node = Front(
        place=House(mesh("alpha.m", "beta.m"), scripted),
        request_log=logging(level="full", max_payload_size=300),
    )
    fields = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    heard = await post(node.app, fields)
    (line,) = node.lines

    assert heard.body == b"".join(parts)
    assert line["errors"]
    assert "known-secret-1" not in str(line)
    assert line["response"].startswith("data: ")
    assert len(line["response"]) <= 303


async def test_null_writes_nothing() -> None:
    """Not even a timer runs for it."""
    node = Front(request_log=logging(connector="modelmesh.null.v1", level="full"))
    await post(node.app)

    assert node.lines == []
    assert node.request_log._handle is None


async def test_text_has_one_line_for_each_request_whatever_callers_write() -> None:
    """Control characters in names make no second line."""
    node = Front(request_log=logging(connector="modelmesh.file.v1", path="unused.log"))
    await post(node.app, {"model": "no\nsuch", "messages": []})
    node.request_log.flush()
    text = node.log.getvalue().decode()

    assert text.count("\n") == 1
    assert "outcome=model_not_found" in text or "status=4" in text


async def test_files_are_shared_by_configurations_and_written_at_the_end(tmp_path: Path) -> None:
    """A new version of the configuration goes on in the same file."""
    path = tmp_path / "requests.jsonl"
    section = {"connector": "modelmesh.json-log.v1", "path": str(path)}
    logs = RequestLogs("n")
    configs = [
        MeshConfig.model_validate({"observability": {"logging": {**section, "level": level}}})
        for level in ("metadata", "summary")
    ]
    made = [logs.open(config) for config in configs]
    for one in made:
        node = Front(request_log=lambda _, one=one: one)
        await post(node.app)
    logs.close()

    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert ["steps" in line for line in lines] == [False, True]
    assert [family.samples[0].value for family in logs.collect()] == [0]


@pytest.mark.parametrize("level", ["metadata", "summary"])
async def test_answers_are_not_listened_to_below_full(level: str) -> None:
    """The plain levels cost nothing on an answer's way."""
    log = logging(level=level)(io.BytesIO())

    async def send(message: Any) -> None:
        raise AssertionError(message)

    assert log.overhear(send) is None


async def test_logs_of_configurations_that_are_over_are_let_go(tmp_path: Path) -> None:
    """Their last lines are written, what they dropped stays counted, and nothing of them is kept."""
    logs = RequestLogs("n", out := io.BytesIO())
    made = logs.open(MeshConfig())
    node = Front(request_log=lambda _: made)
    await post(node.app)
    made.dropped = 2
    logs.release(made)

    assert out.getvalue().count(b"\n") == 1
    assert logs._logs == []
    assert [family.samples[0].value for family in logs.collect()] == [2]
