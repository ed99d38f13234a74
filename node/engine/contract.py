"""What the runner asks of an HTTP engine, and the options that both engines obey."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

#: ASGI extension: a function that has its argument called when the client leaves, without a task that waits for it.
ON_DISCONNECT = "modelmesh.on_disconnect"

EngineName = Literal["fast", "stock"]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a node serves HTTP.

    Attributes:
        engine: ``fast`` (httptools, ours) or ``stock`` (Hypercorn with h11).
        keep_alive_s: how long a connection may idle; must exceed the proxy's own idle time in front of the node.
        head_s: how long one request head may take to arrive (fast engine; stock uses ``keep_alive_s``).
        write_stall_s: a client that takes no byte for so long is cut off (fast engine).
        announce_s: first phase of a drain: answers say ``connection: close``, new connections are still served.
        drain_s: second phase: how long running requests may take to finish.
        cancel_s: last phase: how long cancelled requests may take to say goodbye.
        shutdown_s: how long the application's own shutdown may take.
        max_head_bytes: request line and headers together.
        max_headers: header lines of one request.
        max_unread_body_bytes: request body held for an application that does not read (fast engine).
        write_high_water_bytes: unsent response bytes at which ``send()`` begins to wait.
        backlog: length of the kernel's accept queue.
    """

    engine: EngineName = "fast"
    keep_alive_s: float = 75.0
    head_s: float = 15.0
    write_stall_s: float = 120.0
    announce_s: float = 1.0
    drain_s: float = 30.0
    cancel_s: float = 1.0
    shutdown_s: float = 10.0
    max_head_bytes: int = 64 * 1024
    max_headers: int = 100
    max_unread_body_bytes: int = 256 * 1024
    write_high_water_bytes: int = 64 * 1024
    backlog: int = 2048


class Engine(Protocol):
    """Serves one ASGI application on listening sockets; the runner decides when each step is due."""

    @property
    def in_flight(self) -> int:
        """Requests whose application call has not returned."""

    @property
    def connections(self) -> int:
        """Open connections."""

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these sockets, and own them from here on."""

    async def announce_close(self, announce_s: float) -> None:
        """From here on every answer says ``connection: close``.

        Returns after ``announce_s``, or sooner when no connection is left that a client could reuse.
        """

    async def stop_listening(self) -> None:
        """Accept no more, close idle connections; running requests go on."""

    async def wait_quiet(self) -> None:
        """Return when no request runs and every answer has left."""

    def cancel_requests(self) -> None:
        """Cancel every running application call."""

    async def close(self) -> None:
        """Give up every connection that is left, and all that the engine holds."""
