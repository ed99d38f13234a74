"""The mock provider as a process under a test's command."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.support.preloaded import PreloadedProcess


class MockProvider:
    """One mock provider; see ``benchmarks/mock_behaviour.py`` for what it can be ordered to do.

    Args:
        name: its identity, shown in every answer.
        options: command line options by name, as ``rpm=60, latency="50ms", no_ledger=True``.
    """

    def __init__(self, name: str = "mock", *, port: int = 0, **options: Any) -> None:
        self.name = name
        self._options = [word for key, value in options.items() for word in _option(key, value)]
        self._launch(port)

    @property
    def base_url(self) -> str:
        """With its version prefix, as providers are configured."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def behave(
        self,
        behaviour: str,
        *,
        model: str | None = None,
        path: str | None = None,
        times: int | None = None,
        after: int = 0,
    ) -> None:
        """Give a standing order, in place of an older one for the same path and model."""
        order = {"behaviour": behaviour, "model": model, "path": path, "times": times, "after": after}
        self._control("POST", "behaviour", order)

    def list_models(self, *entries: dict[str, Any]) -> None:
        """What ``GET /v1/models`` lists from here on."""
        self._control("POST", "models", list(entries))

    def clear(self) -> None:
        """Withdraw all orders."""
        self._control("DELETE", "behaviour")

    def ledger(self, *, since: int = 0) -> list[dict[str, Any]]:
        """The entries of all requests after number `since`, oldest first."""
        return list(self._control("GET", f"ledger?since={since}"))

    def counts(self) -> dict[str, Any]:
        """Totals, requests in flight, and the exact maxima of any 60 s."""
        return dict(self._control("GET", "counts"))

    def last(self) -> dict[str, Any] | None:
        """Method, path, headers and body of the newest request."""
        request: dict[str, Any] | None = self._control("GET", "last")
        return request

    def reset(self) -> None:
        """Forget requests, orders and the window of its own limit."""
        self._control("POST", "reset")

    def restart(self) -> None:
        """Come back on the same port, as if nothing had been before."""
        self.process.close()
        self._launch(self.port)

    def close(self) -> None:
        """End the process. May be called twice."""
        self.process.close()

    def _launch(self, port: int) -> None:
        words = ["--name", self.name, "--port", port, *self._options]
        self.process = PreloadedProcess("benchmarks.mock_upstream", words, name=f"mock-{self.name}")
        try:
            match = self.process.wait_line_blocking(r"^listening (\S+):(\d+)$")
        except BaseException:
            self.process.close()
            raise
        self.host, self.port = match[1], int(match[2])

    def _control(self, method: str, route: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.root_url}/_mock/{route}",
            None if body is None else json.dumps(body).encode(),
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


def _option(key: str, value: Any) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    if value is True:
        return [flag]
    return [] if value is None or value is False else [flag, str(value)]
