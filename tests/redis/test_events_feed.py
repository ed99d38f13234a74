"""Events over the real subscription: the lists first, then what happens, each once."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from shared_state.bus import Bus
from tests.redis.office import mesh, open_office
from tests.support.processes import wait_until
from tests.unit.node.api.asgi import Heard, ask


def events_in(heard: Heard) -> list[dict[str, Any]]:
    return [orjson.loads(line[6:]) for line in heard.body.splitlines() if line.startswith(b"data: ")]


async def test_orders_are_told_as_they_are_given(open_store):
    """Before and after the reader came; with who, why and by whom, in the described shape."""
    async with open_office(open_store(), mesh({"alpha.m": {}, "beta.m": {}})) as office:
        await office.ask("models/alpha.m/deactivate", method="POST", body=b'{"reason": "before"}')
        connected = asyncio.Event()
        bus = Bus(office.store, on_event=office.parts.events.publish, on_gap=connected.set)
        running = asyncio.create_task(bus.run())
        await connected.wait()
        heard, leaves = Heard(), asyncio.Event()
        headers = [(b"authorization", b"Bearer admin")]
        reading = asyncio.create_task(
            ask(office.app, "GET", "/ops/events", headers=headers, leaves=leaves, heard=heard)
        )
        await wait_until(lambda: events_in(heard), interval=0.005)
        await office.ask("providers/beta/deactivate", method="POST", body=b'{"reason": "after"}')
        await wait_until(lambda: len(events_in(heard)) >= 2, interval=0.005)
        leaves.set()
        await reading
        running.cancel()
        document = (await office.ask("openapi.json")).json
    content = document["paths"]["/ops/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    first, second = events_in(heard)

    assert (first["type"], first["model"], first["reason"]) == ("model_deactivated", "alpha.m", "before")
    assert (second["type"], second["provider"], second["reason"]) == ("provider_deactivated", "beta", "after")
    assert first["node"] == "node-1"
    assert heard.header(b"content-type") == b"text/event-stream; charset=utf-8"
    for event in (first, second):
        schema = {**content["schema"]["contentSchema"], "components": document["components"]}
        Draft202012Validator(schema).validate(event)


async def test_the_latest_alone_are_one_answer(open_store):
    """For those who do not want to wait."""
    async with open_office(open_store(), mesh({"alpha.m": {}})) as office:
        for action in ("deactivate", "activate", "deactivate"):
            await office.ask(f"models/alpha.m/{action}", method="POST")
        heard = await office.ask("events", query="follow=false&last=2")
        refused = await office.ask("events", query="follow=perhaps")

    assert [event["type"] for event in events_in(heard)] == ["model_activated", "model_deactivated"]
    assert heard.is_complete
    assert refused.status == 400


async def test_a_reader_goes_on_where_it_was(open_store):
    """With the id of the last event that it saw; with one that nobody remembers it gets the latest, as without any."""
    async with open_office(open_store(), mesh({"alpha.m": {}, "beta.m": {}})) as office:
        for model in ("alpha.m", "beta.m"):
            await office.ask(f"models/{model}/deactivate", method="POST")
        told: dict[bytes, list[str]] = {}
        everything = await office.ask("events", query="follow=false")
        ids = [line[4:] for line in everything.body.splitlines() if line.startswith(b"id: ")]
        for place in (ids[0], ids[-1], b"1-1-alpha"):
            headers = [(b"authorization", b"Bearer admin"), (b"last-event-id", place)]
            heard = await ask(office.app, "GET", "/ops/events", headers=headers, query="follow=false")
            told[place] = [event["model"] for event in events_in(heard)]

    assert [event["model"] for event in events_in(everything)] == ["alpha.m", "beta.m"]
    assert told == {ids[0]: ["beta.m"], ids[-1]: [], b"1-1-alpha": ["alpha.m", "beta.m"]}
