"""Commands about decisions: what would be chosen, what was and why, and moving a pool on."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from modelmesh.cli.operate import ForOption, JsonOption, open_client, seconds
from modelmesh.cli.output import EXIT_REFUSED, refusals, show, show_json

ModelOption = Annotated[str, typer.Option("--model", "-m", help="What a request would ask for.")]
BodyOption = Annotated[
    Path | None, typer.Option("--body", metavar="FILE", help="The request's JSON body; - for standard input.")
]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option("--header", "-H", metavar="NAME:VALUE", help="As x-modelmesh-session; may be repeated."),
]
ApiOption = Annotated[str, typer.Option("--api", help="What stands behind /v1/ in the path.")]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY_ID", help="As if it came with this client key; its id, not its text."),
]
RequestArgument = Annotated[
    str, typer.Argument(metavar="REQUEST_ID", help="As in x-request-id and in the log.")
]
PoolArgument = Annotated[str, typer.Argument(metavar="POOL")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Shown to everyone who asks why.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (explain, replay, rotate):
        app.command()(command)


def explain(
    *,
    model: ModelOption,
    body: BodyOption = None,
    header: HeaderOption = None,
    api: ApiOption = "chat/completions",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What would be chosen now, and why; nothing is sent, nothing is taken."""
    from modelmesh.decision_view import explain_view
    from modelmesh.ops_client import understand
    from shared_state.shapes.decision import ExplainView

    asked = {"model": model, "api": api, "body": _read(body), "headers": _headers(header or [])}
    if key is not None:
        asked["key"] = key
    with refusals(), open_client() as client:
        answer = client.post("explain", asked)
        explained = understand(answer, ExplainView)
    show_json(answer) if as_json else show(explain_view(explained, now=time.time()))


def replay(request_id: RequestArgument, *, as_json: JsonOption = False) -> None:
    """What was chosen for a request and why, decided again; exit code 1 if something else comes out."""
    from urllib.parse import quote

    from modelmesh.decision_view import replay_view
    from modelmesh.ops_client import understand
    from shared_state.shapes.decision import ReplayView

    with refusals(), open_client() as client:
        answer = client.get(f"requests/{quote(request_id, safe='')}/replay")
        again = understand(answer, ReplayView)
    show_json(answer) if as_json else show(replay_view(again))
    if not again.same:
        raise typer.Exit(EXIT_REFUSED)


def rotate(
    pool: PoolArgument,
    *,
    reason: ReasonOption = "rotated by an operator",
    duration: ForOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a pool on to its next model: its pointer, or else the first active model goes to standby."""
    from urllib.parse import quote

    from rich.text import Text

    from modelmesh.drawing import clean
    from modelmesh.ops_client import understand
    from shared_state.shapes.status import RotationView

    with refusals(), open_client() as client:
        order = {"reason": reason, "for_s": seconds(duration, hint="--for")}
        answer = client.post(f"pools/{quote(pool, safe='')}/rotate", order)
        moved = understand(answer, RotationView)
    if as_json:
        show_json(answer)
        return
    came_from = f" from {moved.was}" if moved.was else ""
    how = "" if moved.by == "pointer" else f"; {moved.was} is on standby"
    show(Text(clean(f"{moved.pool} has moved on{came_from} to {moved.now}{how}")))


def _read(path: Path | None) -> dict[str, Any]:
    """The body of a request from a file."""
    if path is None:
        return {}
    try:
        body = json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--body") from error
    if not isinstance(body, dict):
        raise typer.BadParameter(f"{path}: not a JSON object", param_hint="--body")
    return body


def _headers(given: list[str]) -> dict[str, str]:
    found = {}
    for line in given:
        name, colon, value = line.partition(":")
        if not colon:
            raise typer.BadParameter(f"{line!r} is not NAME:VALUE", param_hint="--header")
        found[name.strip().lower()] = value.strip()
    return found
