"""The demo: three local mock providers of different tempers, and the configuration that routes over them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelmesh.children import ChildSpec

MODEL = "chat-completion"
_LIMITED_RPM = 20
_COMMON = ("--latency", "50ms", "--tokens", "20", "--token-delay", "5ms")


@dataclass(frozen=True, slots=True)
class Temper:
    """One mock provider: how it behaves, and what the configuration knows about it."""

    name: str
    flags: tuple[str, ...]
    limits: Mapping[str, int]
    says: str


TEMPERS = (
    Temper("steady", (), {"concurrency": 64}, "answers every request"),
    Temper(
        "limited",
        ("--rpm", str(_LIMITED_RPM)),
        {"rpm": _LIMITED_RPM},
        f"allows {_LIMITED_RPM} requests a minute",
    ),
    Temper("moody", ("--fail-rate", "0.2"), {}, "fails one request in five"),
)


def prepare(config_path: Path, *, environ: Mapping[str, str]) -> tuple[ChildSpec, ...]:
    """Choose ports, write the configuration; the mocks that are to run beside it."""
    ports = _free_ports(len(TEMPERS))
    config_path.write_text(yaml.safe_dump(_mesh(ports), sort_keys=False), encoding="utf-8")
    return tuple(_mock(temper, port, environ) for temper, port in zip(TEMPERS, ports, strict=True))


def _free_ports(count: int) -> list[int]:
    """Ports that were free just now: a mock keeps its port over a restart, so it cannot choose one itself."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def _mock(temper: Temper, port: int, environ: Mapping[str, str]) -> ChildSpec:
    program = (sys.executable, "-P", "-m", "benchmarks.mock_upstream")
    return ChildSpec(
        name=temper.name,
        argv=(*program, "--port", str(port), "--name", temper.name, *_COMMON, *temper.flags),
        environ=environ,
        ready_line="listening ",
        grace_s=2.0,
    )


def _mesh(ports: list[int]) -> dict[str, Any]:
    providers: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for temper, port in zip(TEMPERS, ports, strict=True):
        providers[temper.name] = {
            "connector": "openai-compatible.v1",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "limits": dict(temper.limits),
        }
        models[f"{temper.name}.chat"] = {
            "provider": temper.name,
            "capabilities": [MODEL],
            "constraints": {"context_window": 128_000, "max_output_tokens": 4096},
            "pricing": {"input": 0.15, "output": 0.60},
        }
    return {
        "redis": {"namespace": "demo"},  # apart from everything real, on whatever server
        "providers": providers,
        "models": models,
        "pools": {
            "chat": {
                "capability": MODEL,
                "strategy": "round-robin",
                "retry": {"budget": {"share": 0.3}},  # the moody one alone makes a tenth of all requests fail
                "recovery": {"cooldown": "10s"},
            }
        },
    }
