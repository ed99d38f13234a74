"""`modelmesh events`: a line for each event, and a feed that outlives the node it was read from."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from rich.text import Text

from modelmesh.drawing import BAD, FAIR, GOOD, QUIET, clean, span
from modelmesh.errors import OpsUnreachableError
from shared_state.shapes.status import EventView

_REPLAYED: Final = 200
_REMEMBERED: Final = 2000
#: Events of different accounts may come a little out of order.
_SLACK_S: Final = 2.0
_DAY_S: Final = 86_400
_STYLES: Final = {
    "deactivated": BAD,
    "activated": GOOD,
    "trial": FAIR,
    "ready": FAIR,
    "ramp": GOOD,
    "over": QUIET,
    "panic": BAD,
    "alert": "bold magenta",
    "opened": "bold magenta",
    "restored": "bold magenta",
    "corrected": "bold magenta",
}

#: Opens a feed; how many of the latest come first.
OpenFeed = Callable[[int], Iterator[EventView]]


def follow(
    open_feed: OpenFeed, *, last: int, on_break: Callable[[], None], pause: Callable[[], None]
) -> Iterator[EventView]:
    """Events without end: when a node ends the feed or dies, it is opened again, and nothing is told twice.

    Raises:
        OpsUnreachableError: nobody was there from the beginning.
    """
    seen: deque[EventView] = deque(maxlen=_REMEMBERED)
    wanted, floor, newest, is_first = last, 0.0, time.time(), True
    while True:
        try:
            for event in open_feed(wanted):
                if event.time >= floor and event not in seen:
                    seen.append(event)
                    newest = event.time
                    yield event
        except OpsUnreachableError:
            if is_first and not seen:
                raise
        if is_first:
            on_break()
        wanted, floor, is_first = _REPLAYED, newest - _SLACK_S, False
        pause()


def event_line(event: EventView) -> Text:
    """Time, event, who, why, until when, and which node said so."""
    what = event.type.replace("_", " ")
    who = event.model or event.provider or event.pool or event.domain
    line = Text.assemble(
        (_clock(event.time), QUIET),
        "  ",
        (f"{clean(what):<20}", _STYLES.get(event.type.rpartition("_")[2], "")),
        "  ",
        (f"{clean(who):<28}", "bold"),
        f"  {clean(event.reason):<16}",
    )
    if event.until is not None and event.until > event.time:
        line.append(f"  for {span(event.until - event.time)}", style=FAIR)
    if event.numbers:
        told = ", ".join(f"{clean(name)} {number:,}" for name, number in event.numbers.items())
        line.append(f"  {told}", style=QUIET)
    if event.node:
        line.append(f"  by {clean(event.node)}", style=QUIET)
    return line


def _clock(moment: float) -> str:
    """Local time of day; with its date if it is not from the last day."""
    is_recent = 0 <= time.time() - moment < _DAY_S
    return time.strftime("%H:%M:%S" if is_recent else "%Y-%m-%d %H:%M:%S", time.localtime(moment))
